"""Read the dataset, split it, and write images and hashed index lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.data import select
from workflow_scripts.datasets import write_dataset
from workflow_scripts.job import job, logger

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def prepare_dataset(settings: Mapping[str, Any], seed: int, *, images: Path, subsets: Path) -> None:
    count = write_dataset(select(settings, seed), images, subsets)
    logger.info("%d images of %d classes in %s", count, settings.get("classes", 10), images)


if __name__ == "__main__":
    with job(snakemake):
        prepare_dataset(
            snakemake.params.settings,
            snakemake.params.seed,
            images=snakemake.output.images,
            subsets=snakemake.output.subsets,
        )
