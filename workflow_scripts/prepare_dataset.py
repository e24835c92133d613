"""Read the dataset, split it, and write images and hashed index lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.data import load_dataset
from workflow_scripts.datasets import write_dataset
from workflow_scripts.job import job, logger

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def prepare_dataset(settings: Mapping[str, Any], seed: int, *, images: Path, subsets: Path) -> None:
    dataset = load_dataset(settings, seed)
    write_dataset(dataset, images, subsets)
    logger.info("%d images of shape %s", len(dataset.images), dataset.shape)


if __name__ == "__main__":
    with job(snakemake):
        prepare_dataset(
            snakemake.params.settings,
            snakemake.params.seed,
            images=snakemake.output.images,
            subsets=snakemake.output.subsets,
        )
