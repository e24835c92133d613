"""Loss and accuracy against steps, restarts and draws of the attacks, and how noisy their averaged gradient is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence, cross_entropy
from purification.errors import NoDerivative
from purification.journal import NO_JOURNAL, Journal
from purification.measure.audit import Sample
from purification.measure.gradient_noise import COMPARED, gradient_noise
from workflow_scripts.attacking import attacked, run_attack
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_defence, noise_source, place_of
from workflow_scripts.job import job, logger, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.parts import block_of, join_rows, parts_of
from workflow_scripts.variations import head_of, varied

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


HEAD = ("attack", "scale", "steps", "random_start", "restarts", "draws", "judged")  # columns of one variation


def measure_attack_adequacy(
    dataset: Dataset,
    defences: Mapping[str, Defence],
    attacks: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    memory: float,
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (variation, image); judged on the known noise, or on fresh draws where the attack does not know it.

    defences  by attack, as each sees it
    """
    images, labels, ids = dataset.take(evaluation["subset"], options["images"], block)
    rows = []
    for number, variation in enumerate(options["variations"]):
        name, settings = variation["attack"], varied(attacks[variation["attack"]], variation)
        part, defence = journal.part(str(number)), defences[name]
        result, _ = run_attack(dataset, defence, images, labels, ids, settings, evaluation, memory, part)
        known = settings["knowledge"] == "both"
        judge = noise_source(evaluation["seed"], "fixed" if known else "evaluation", dataset)
        logits = [
            defence.logits(defence.purify(result.adversarial, ids, judge, draw))
            for draw in range(1 if known else options["draws"])
        ]
        right = torch.stack([(each.argmax(dim=1) == labels).double() for each in logits]).mean(dim=0)
        loss = torch.stack([cross_entropy(each, labels).double() for each in logits]).mean(dim=0)
        logger.info("%s: accuracy %.4f, loss %.4g", dict(variation), float(right.mean()), float(loss.mean()))
        head = {"attack": name, "scale": variation.get("scale", 1.0), **head_of(settings), "judged": len(logits)}
        rows.append(pd.DataFrame({**head, "image": ids, "correct": right.numpy(), "loss": loss.numpy()}))
    write_rows(pd.concat(rows, ignore_index=True), output)


def measure_gradient_noise(
    dataset: Dataset,
    defence: Defence,
    options: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    *,
    output: Path,
    block: Block = WHOLE,
) -> None:
    """One row per (number of draws, image); none where the block has no images, NaN without a derivative."""
    images, labels, ids = dataset.take(evaluation["subset"], options["images"], block)
    if not ids:
        write_rows(pd.DataFrame(), output)
        return
    source = noise_source(evaluation["seed"], "audit", dataset)
    sample, draws, reason = Sample(images, labels, ids, source), options["draws"], ""
    try:
        found = gradient_noise(defence, sample, draws=draws, reference=options["reference"], loss=options["loss"])
    except NoDerivative as refusal:
        logger.warning("no gradient whose noise could be measured: %s", refusal)
        reason = str(refusal)
        found = {count: {name: torch.full((len(ids),), torch.nan) for name in COMPARED} for count in draws}
    parts = []
    for count, columns in found.items():
        numbers = {name: values.double().numpy() for name, values in columns.items()}
        parts.append(pd.DataFrame({"draws": count, "image": ids, **numbers, "not_measured": reason}))
    write_rows(pd.concat(parts, ignore_index=True), output)


def seen_by(entry: Mapping[str, Any], attacks: Mapping[str, Any], inputs: Any, data: Dataset, judged: Any) -> Any:
    """The defence as each attack sees it."""
    defence, place = load_defence(entry, inputs, data, judged), place_of(judged)
    return {name: attacked(defence, entry, attack, inputs, data, place) for name, attack in attacks.items()}


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake, 0), snakemake.output.adequacy, by=HEAD)
            join_rows(parts_of(snakemake, 1), snakemake.output.noise, by=["draws"])
        else:
            data, block = read_dataset(snakemake.input.images, snakemake.input.subsets), block_of(snakemake.wildcards)
            chosen, judged = snakemake.params.attacks, snakemake.params.evaluation
            defences: Mapping[str, Defence] = seen_by(snakemake.params.purifier, chosen, snakemake.input, data, judged)
            measure_attack_adequacy(
                data,
                defences,
                chosen,
                snakemake.params.options,
                judged,
                snakemake.config["memory_bytes"],
                output=snakemake.output.adequacy,
                block=block,
                journal=kept,
            )
            plain, noise = (
                load_defence(snakemake.params.purifier, snakemake.input, data, judged),
                snakemake.params.noise,
            )
            measure_gradient_noise(data, plain, noise, judged, output=snakemake.output.noise, block=block)
