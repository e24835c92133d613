"""Train the denoiser of a detector on normal images alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from diffusers import UNet2DModel

from purification.anomaly.items import Items
from purification.journal import NO_JOURNAL, Journal
from purification.schedule import Schedule
from purification.training import initialise, train_denoiser
from workflow_scripts.anomalies import read_items
from workflow_scripts.job import job, logger, replacing_in, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.model_cards import training_record, write_card

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(
    items: Items, settings: Mapping[str, Any], seed: int, *,
    name: str, folder: Path, losses: Path, record: Path, card: Path, journal: Journal = NO_JOURNAL,
) -> None:  # fmt: skip
    channels, size, _ = items.train.shape[1:]
    fixed = {"sample_size": size, "in_channels": channels, "out_channels": channels}
    network = initialise(lambda: UNet2DModel(**fixed, **settings["network"]), seed)
    table, training = Schedule(**settings["schedule"]), settings["training"]
    averaged, loss = train_denoiser(items.train, network, table, training, seed, journal)
    logger.info("loss %.4f in the first step, %.4f in the last", loss[0], loss[-1])
    with replacing_in(folder) as temporary:
        averaged.save_pretrained(temporary)
    write_rows(pd.DataFrame({"step": range(len(loss)), "loss": loss}), losses)
    passes = {"network_forward": training["steps"], "network_backward": training["steps"]}
    normal = torch.zeros(len(items.train), dtype=torch.int64)
    facts = training_record(items.train, normal, settings, seed, loss, network.num_parameters(), passes)
    write_card(name, "training a denoiser on normal images", facts, record=record, card=card)


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
