"""Check that the attack's gradient is the gradient of what runs, and that noise held fixed is fixed.

One job for every purifier: few images suffice, and starting a job takes longer than auditing a small network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from purification.batching import batches
from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.measure.audit import Sample, audit
from purification.progress import track
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_defence, load_purifier, noise_source, place_of
from workflow_scripts.job import job, logger, write_rows
from workflow_scripts.journal import collect_rows, resuming
from workflow_scripts.parts import block_of, join_rows, parts_of
from workflow_scripts.surrogates import surrogate_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def audit_gradients(
    dataset: Dataset,
    defence: Defence,
    exact: Defence,
    settings: Mapping[str, Any],
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per image, one column per check; `exact` is the same defence in float64."""
    images, labels, ids = dataset.take(settings["subset"], settings["images"], block)
    source = noise_source(settings["seed"], "fixed", dataset)

    def rows_of(item: tuple[list[int], int]) -> pd.DataFrame:
        index, valid = item
        chosen = index[:valid]
        some = [ids[i] for i in chosen]
        sample = Sample(images[chosen], labels[chosen], some, source)
        checks = audit(defence, exact, sample, step=settings["difference_step"], epsilon=settings["epsilon"])
        return pd.DataFrame({"image": some, **{name: values.numpy() for name, values in checks.items()}})

    items = list(batches(range(len(ids)), defence.batch_size))
    table = collect_rows(items, rows_of, f"audit ({output.stem})", journal)
    worst = ", ".join(f"{name} {table[name].max():.3g}" for name in table.columns[1:])
    logger.info("%s, largest: %s", output.stem, worst)
    write_rows(table, output)


def networks_of(entry: Mapping[str, Any], networks: Iterable[str]) -> list[str]:
    """Files among those of all networks, each in a folder of its kind and name, that a purifier uses."""
    wanted = [("denoisers", entry.get("denoiser")), ("classifiers", entry.get("guidance", {}).get("network"))]
    return [path for place in wanted for path in networks if Path(path).parts[-3:-1] == place]


def audited(
    entry: Mapping[str, Any], inputs: Any, dataset: Dataset, settings: Mapping[str, Any]
) -> tuple[Defence, Defence]:
    """The defence of a purifier with its surrogate, and the same defence in float64."""
    files = SimpleNamespace(classifier=inputs.classifier, denoiser=networks_of(entry, inputs.denoisers))
    single, double = (load_defence(entry, files, dataset, settings, dtype=t) for t in (torch.float32, torch.float64))
    surrogate = load_purifier(surrogate_of(entry, settings), files.denoiser, dataset, place_of(settings))
    return replace(single, surrogate=surrogate), double


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            for number, path in enumerate(snakemake.output):
                join_rows(parts_of(snakemake, number), path, by=[])
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            chosen, block = snakemake.params.settings, block_of(snakemake.wildcards)
            for entry, path in track(list(zip(snakemake.params.purifiers, snakemake.output, strict=True)), "audit"):
                single, double = audited(entry, snakemake.input, data, chosen)
                part = kept.part(Path(path).stem)
                audit_gradients(data, single, double, chosen, output=Path(path), block=block, journal=part)
