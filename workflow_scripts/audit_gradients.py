"""Check that the gradients which attacks on one purifier follow are those of what runs, and that its noise holds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal
from purification.knowledge import shared_noise
from purification.measure.audit import Followed, Sample
from purification.measure.consistency import Options
from purification.measure.whole_audit import (
    ALONE,
    OF_ATTACK,
    OF_DERIVATIVE,
    Twins,
    attack_columns,
    purifier_columns,
    reasons_of,
)
from purification.models.placing import Place
from purification.threat import ThreatModel
from purification.user_code import forget_siblings
from workflow_scripts.attacking import attacked
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_defence, load_purifier, noise_source, place_of
from workflow_scripts.followed import followed_by
from workflow_scripts.job import job, logger, write_rows
from workflow_scripts.journal import collect_rows, resuming
from workflow_scripts.parts import block_of, join_rows, parts_of
from workflow_scripts.surrogates import surrogate_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

HEAD = ("attack", "stage", "loss", "gradient")


def frame_of(sample: Sample, columns: Mapping[str, Any], **same: object) -> pd.DataFrame:
    """One row per image: columns of tensors (n,), and what all rows share."""
    numbers = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    return pd.DataFrame({**same, "image": list(sample.ids), **numbers})


def joined(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of the stages of attacks, each with those of the purifier, which have no name of an attack."""
    own = found[found.attack == ""]
    stages = found[found.attack != ""]
    shared = own[["image", "no_derivative", "no_double", "repeat_difference", "batch_difference", *OF_DERIVATIVE]]
    table = stages[[*HEAD, "image", *OF_ATTACK]].merge(shared, on="image", how="left", validate="many_to_one")
    return table.astype({"stage": np.int64})


def audit_gradients(
    dataset: Dataset,
    plain: Twins,
    seen: Mapping[str, Twins],
    attacks: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    memory: float,
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (attack, stage, image), one column per check; those of the purifier are the same for all attacks.

    plain  the defence, with the surrogate that is compared with it
    seen   by attack, as each sees it
    """
    images, labels, ids = dataset.take(settings["subset"], settings["images"], block)
    frozen = Sample(images, labels, ids, noise_source(settings["seed"], "fixed", dataset))
    fresh = noise_source(settings["seed"], "attack", dataset)
    threat = ThreatModel(settings["norm"], settings["epsilon"])
    options = Options(threat, settings["directions"], settings["changes"])
    alone = block.within(settings["images"], ALONE)
    reasons = reasons_of(plain, frozen)

    def rows_of(stage: tuple[str, int, Followed] | None) -> pd.DataFrame:
        if stage is None:
            columns = purifier_columns(plain, frozen, options, alone, reasons)
            return frame_of(frozen, columns, attack="", stage=0, loss="", gradient="", **vars(reasons))
        name, number, followed = stage
        entry = attacks[name]
        source = shared_noise(fresh, knowledge=entry["knowledge"], pool=entry.get("pool", 1))
        allowed = ThreatModel(entry["norm"], entry["epsilon"])
        columns = attack_columns(seen[name], replace(frozen, source=source), followed, allowed, memory, reasons)
        return frame_of(frozen, columns, attack=name, stage=number, loss=followed.loss, gradient=followed.gradient)

    stages = [(name, *stage) for name, entry in attacks.items() for stage in enumerate(followed_by(entry))]
    table = joined(collect_rows([None, *stages], rows_of, f"audit ({output.stem})", journal))
    worst = ", ".join(f"{name} {table[name].max():.3g}" for name in (*OF_ATTACK, *OF_DERIVATIVE))
    logger.info("%s, largest: %s", output.stem, worst)
    write_rows(table, output)


def loaded(entry: Mapping[str, Any], inputs: Any, dataset: Dataset, settings: Mapping[str, Any]) -> Twins:
    """The defence in float32, in the attack's batches, and in float64, in batches of its own; a user's also unused."""
    single = load_defence(entry, inputs, dataset, settings, dtype=torch.float32)
    double = load_defence(entry, inputs, dataset, settings, dtype=torch.float64)
    size = min(settings["gradient_batch_size"], settings["images"])
    twins = Twins(single, replace(double, batch_size=size, gradient_batch_size=size))
    own = [part for part in (entry, settings["classifier"]) if part["kind"] == "python"]
    if not own:
        return twins
    for part in own:
        forget_siblings(Path(part["path"]))
    return replace(twins, unused=load_defence(entry, inputs, dataset, settings, dtype=torch.float32))


def seen_by(
    plain: Twins, entry: Mapping[str, Any], attack: Mapping[str, Any], inputs: Any, dataset: Dataset, place: Place
) -> Twins:
    """The twins with the surrogate of an attack, where it takes one; in float64 there is none."""
    return replace(plain, single=attacked(plain.single, entry, attack, inputs, dataset, place))


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake), snakemake.output[0], by=HEAD)
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            chosen, entry, inputs = snakemake.params.settings, snakemake.params.purifier, snakemake.input
            plain, place = loaded(entry, inputs, data, chosen), place_of(chosen)
            cheaper = load_purifier(surrogate_of(entry, chosen), inputs.denoiser, data, place)
            attacks = snakemake.params.attacks
            seen = {name: seen_by(plain, entry, attack, inputs, data, place) for name, attack in attacks.items()}
            audit_gradients(
                data,
                replace(plain, single=replace(plain.single, surrogate=cheaper)),
                seen,
                attacks,
                chosen,
                snakemake.config["memory_bytes"],
                output=Path(snakemake.output[0]),
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
