"""Train a diffusers U-Net to predict noise and keep its moving average, in diffusers' own folder layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from diffusers import UNet2DModel

from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal
from purification.schedule import Schedule
from purification.training import evaluations, initialise, train_denoiser
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job, logger, replacing_in, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.model_cards import training_record, write_card

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(
    dataset: Dataset, settings: Mapping[str, Any], seed: int, *,
    name: str, folder: Path, losses: Path, record: Path, card: Path, journal: Journal = NO_JOURNAL,
) -> None:  # fmt: skip
    images, labels, _ = dataset.take("train")
    channels, size, _ = dataset.shape
    fixed = {"sample_size": size, "in_channels": channels, "out_channels": channels}
    network = initialise(lambda: UNet2DModel(**fixed, **settings["network"]), seed)
    logger.info("%d parameters", network.num_parameters())
    table = Schedule(**settings["schedule"])
    averaged, loss = train_denoiser(images, network, table, settings["training"], seed, journal)
    with replacing_in(folder) as temporary:
        averaged.save_pretrained(temporary)
    write_rows(pd.DataFrame({"step": range(len(loss)), "loss": loss}), losses)
    passes = evaluations(settings["training"]["steps"])
    facts = training_record(images, labels, settings, seed, loss, network.num_parameters(), passes)
    write_card(name, "noise prediction (Ho et al. 2020)", facts, record=record, card=card)


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
