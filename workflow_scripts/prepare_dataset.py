"""Read the dataset, split it, and write images and hashed index lists."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from purification.data import select
from purification.index_lists import listed
from workflow_scripts.datasets import write_dataset
from workflow_scripts.job import job, logger

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


NO_LISTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def prepare_dataset(
    settings: Mapping[str, Any],
    seed: int,
    *,
    images: Path,
    subsets: Path,
    lists: Mapping[str, Mapping[str, Any]] = NO_LISTS,
) -> None:
    """`lists`: entries of `index_lists` that become subsets of their own."""
    chosen = select(settings, seed)
    named = {name: listed(entry, chosen.subsets[entry["within"]]) for name, entry in lists.items()}
    count = write_dataset(replace(chosen, subsets={**chosen.subsets, **named}), images, subsets)
    logger.info("%d images of %d classes in %s", count, settings.get("classes", 10), images)


if __name__ == "__main__":
    with job(snakemake):
        prepare_dataset(
            snakemake.params.settings,
            snakemake.params.seed,
            images=snakemake.output.images,
            subsets=snakemake.output.subsets,
            lists=snakemake.params.lists,
        )
