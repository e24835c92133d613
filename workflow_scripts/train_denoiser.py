"""Train a diffusers U-Net to predict noise and keep its moving average, in diffusers' own folder layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.data import Dataset
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job
from workflow_scripts.journal import resuming
from workflow_scripts.unet_training import train_unet

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(dataset: Dataset, settings: Mapping[str, Any], seed: int, **written: Any) -> None:
    """`written`: name, files and journal of `train_unet`."""
    images, labels, _ = dataset.take("train")
    train_unet(images, labels, settings, seed, "noise prediction (Ho et al. 2020)", **written)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        run(
            read_dataset(snakemake.input.images, snakemake.input.subsets),
            snakemake.params.settings,
            snakemake.params.seed,
            name=snakemake.wildcards.denoiser,
            folder=Path(snakemake.output.config).parent,
            losses=snakemake.output.losses,
            record=snakemake.output.record,
            card=snakemake.output.card,
            journal=kept,
        )
