"""Compression rate of a purifier with frozen noise, isotropic, for several probe sizes."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal
from purification.measure.compression import isotropic
from purification.measure.randomness import probes_of
from purification.purifiers import Purifier
from workflow_scripts.clouds import cloud_purify
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source
from workflow_scripts.job import job, write_rows
from workflow_scripts.journal import collect_rows, resuming
from workflow_scripts.parts import block_of, join_rows, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_compression(
    dataset: Dataset,
    twins: Mapping[str, Purifier],
    settings: Mapping[str, Any],
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (model, probe size, image)."""
    clean, _, ids = dataset.take(settings["subset"], settings["images"], block)
    probe = noise_source(settings["seed"], "probe", dataset)

    def rows_of(item: tuple[str, int]) -> pd.DataFrame:
        (model, number), rows = item, []
        image, identity = clean[number], ids[number]
        purify = cloud_purify(twins[model], identity, dataset, settings)
        anchor = purify(image[None], [0])
        for scale in settings["probe_scales"]:
            probes = probes_of(probe, identity, settings["samples"], scale * settings["epsilon"])
            record = isotropic(purify, image, anchor, probes)
            rows.append({"model": model, "probe_scale": scale, "image": identity, **record})
        return pd.DataFrame(rows)

    items = list(product(twins, range(len(ids))))
    write_rows(collect_rows(items, rows_of, "compression", journal), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake), snakemake.output[0], by=["model"])
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            measure_compression(
                data,
                load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
                snakemake.params.settings,
                output=snakemake.output[0],
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
