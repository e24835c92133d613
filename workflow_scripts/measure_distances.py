"""Distance to the clean image along the purification path, for the purifier and its linear-Gaussian twin."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.batching import batches
from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal
from purification.measure.distances import METRICS, distances_along
from purification.purifiers import Purifier
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source, read_adversarial
from workflow_scripts.job import job, write_rows
from workflow_scripts.journal import collect_rows, resuming

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_distances(
    dataset: Dataset,
    twins: Mapping[str, Purifier],
    adversarial: Path,
    settings: Mapping[str, Any],
    *,
    output: Path,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (model, start, image, point of the path)."""
    seed, device = settings["seed"], settings["device"]
    clean, _, ids = dataset.take(settings["subset"], settings["images"])
    uniform = settings["epsilon"] * noise_source(seed, "probe", dataset, device)(ids).uniform("perturbation")
    starts = {"adversarial": read_adversarial(adversarial, ids), "uniform": clean + uniform, "clean": clean}
    source = noise_source(seed, "evaluation", dataset, device)

    def rows_of(item: tuple[str, str, tuple[list[int], int]]) -> pd.DataFrame:
        (model, start, (block, valid)), rows = item, []
        noise = source([ids[i] for i in block])
        for point in distances_along(twins[model], starts[start][block], clean[block], noise):
            values = {name: point[name][:valid].numpy() for name in METRICS}
            head = {"model": model, "start": start, "image": [ids[i] for i in block[:valid]]}
            rows.append(pd.DataFrame({**head, "half": point["half"], "position": point["position"], **values}))
        return pd.concat(rows, ignore_index=True)

    items = list(product(twins, starts, batches(range(len(ids)), settings["batch_size"])))
    write_rows(collect_rows(items, rows_of, "distances", journal), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        measure_distances(
            data,
            load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
            snakemake.input.adversarial,
            snakemake.params.settings,
            output=snakemake.output[0],
            journal=kept,
        )
