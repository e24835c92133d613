"""Distance to the clean image along the purification path, for the purifier and its linear-Gaussian twin."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.batching import batches
from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal
from purification.measure.distances import METRICS, distances_along
from purification.purifiers import Purifier
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source, read_adversarial
from workflow_scripts.job import job, write_rows
from workflow_scripts.journal import collect_rows, resuming
from workflow_scripts.parts import block_of, join_rows, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_distances(
    dataset: Dataset,
    twins: Mapping[str, Purifier],
    adversarial: Path,
    settings: Mapping[str, Any],
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (model, start, image, point of the path), in this order whatever the batches."""
    seed = settings["seed"]
    clean, _, ids = dataset.take(settings["subset"], settings["images"], block)
    uniform = settings["epsilon"] * noise_source(seed, "probe", dataset)(ids).uniform("perturbation")
    starts = {
        "adversarial": read_adversarial(adversarial, ids, block.start(settings["images"])).adversarial,
        "uniform": clean + uniform,
        "clean": clean,
    }
    source = noise_source(seed, "evaluation", dataset)

    def rows_of(item: tuple[str, str, tuple[list[int], int]]) -> pd.DataFrame:
        (model, start, (chosen, valid)), rows = item, []
        noise = source([ids[i] for i in chosen])
        for point in distances_along(twins[model], starts[start][chosen], clean[chosen], noise):
            values = {name: point[name][:valid].numpy() for name in METRICS}
            head = {"model": model, "start": start, "image": [ids[i] for i in chosen[:valid]]}
            rows.append(pd.DataFrame({**head, "half": point["half"], "position": point["position"], **values}))
        return pd.concat(rows).sort_index(kind="stable")

    items = list(product(twins, starts, batches(range(len(ids)), settings["batch_size"])))
    write_rows(collect_rows(items, rows_of, "distances", journal), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake), snakemake.output[0], by=["model", "start"])
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            measure_distances(
                data,
                load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
                snakemake.input.adversarial,
                snakemake.params.settings,
                output=snakemake.output[0],
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
