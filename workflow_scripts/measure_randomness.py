"""Split what a purified image owes to the noise from what it owes to the input."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.data import Dataset
from purification.measure.randomness import decompose, probes_of
from purification.progress import track
from purification.purifiers import Purifier
from workflow_scripts.clouds import cloud_purify
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source
from workflow_scripts.job import job, write_rows

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_randomness(
    dataset: Dataset, twins: Mapping[str, Purifier], settings: Mapping[str, Any], *, output: Path
) -> None:
    """One row per (model, image)."""
    clean, _, ids = dataset.take(settings["subset"], settings["images"])
    probe = noise_source(settings["seed"], "probe", dataset, settings["device"])
    rows = []
    for model, purifier in twins.items():
        for image, identity in track(list(zip(clean, ids, strict=True)), f"randomness ({model})"):
            purify = cloud_purify(purifier, identity, dataset, settings)
            probes = probes_of(probe, identity, settings["samples"], settings["epsilon"])
            rows.append({"model": model, "image": identity, **decompose(purify, image, probes)})
    write_rows(pd.DataFrame(rows), output)


if __name__ == "__main__":
    with job(snakemake):
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        measure_randomness(
            data,
            load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
            snakemake.params.settings,
            output=snakemake.output[0],
        )
