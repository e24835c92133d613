"""Train the denoiser of a detector on normal images alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from purification.anomaly.items import Items
from workflow_scripts.anomalies import read_items
from workflow_scripts.job import job
from workflow_scripts.journal import resuming
from workflow_scripts.unet_training import train_unet

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(items: Items, settings: Mapping[str, Any], seed: int, **written: Any) -> None:
    """`written`: name, files and journal of `train_unet`."""
    normal = torch.zeros(len(items.train), dtype=torch.int64)
    train_unet(items.train, normal, settings, seed, "training a denoiser on normal images", **written)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        run(
            read_items(snakemake.input.images, snakemake.input.kinds),
            snakemake.params.settings,
            snakemake.params.seed,
            name=snakemake.wildcards.detector,
            folder=Path(snakemake.output.config).parent,
            losses=snakemake.output.losses,
            record=snakemake.output.record,
            card=snakemake.output.card,
            journal=kept,
        )
