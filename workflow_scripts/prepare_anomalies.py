"""Choose the images of one detector: normal ones to train, normal and anomalous ones to test."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.anomaly.items import gather
from purification.data import Dataset
from workflow_scripts.anomalies import write_items
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job, logger

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def prepare_anomalies(
    dataset: Dataset, settings: Mapping[str, Any], seed: int, *, subset: str, images: Path, kinds: Path
) -> None:
    found = gather(dataset, settings, subset=subset, seed=seed)
    write_items(found, images, kinds)
    anomalies = int(found.anomalous.sum())
    logger.info("%d to train, %d normal and %d anomalous", len(found.train), len(found.test) - anomalies, anomalies)


if __name__ == "__main__":
    with job(snakemake):
        prepare_anomalies(
            read_dataset(snakemake.input.images, snakemake.input.subsets),
            snakemake.params.settings,
            snakemake.params.seed,
            subset=snakemake.params.subset,
            images=snakemake.output.images,
            kinds=snakemake.output.kinds,
        )
