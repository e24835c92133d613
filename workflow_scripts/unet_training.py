"""Trainings of diffusers' U-Nets from the beginning: what stages and forecasts of their cost share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from diffusers import UNet2DModel
from torch import Tensor

from purification.journal import NO_JOURNAL, Journal
from purification.schedule import Schedule
from purification.training import evaluations, initialise, train_denoiser
from workflow_scripts.job import logger, replacing_in, write_rows
from workflow_scripts.model_cards import training_record, write_card


def unet(shape: Sequence[int], arguments: Mapping[str, Any]) -> UNet2DModel:
    """A network for images (C, H, H) of this shape."""
    channels, size, _ = shape
    return UNet2DModel(sample_size=size, in_channels=channels, out_channels=channels, **arguments)


def train_unet(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], seed: int, how: str, *,
    name: str, folder: Path, losses: Path, record: Path, card: Path, journal: Journal = NO_JOURNAL,
) -> None:  # fmt: skip
    """Train a U-Net to predict the noise of images (n, C, H, H), and write it with its losses, its record and its card.

    how  what the card says it was made by
    """
    network = initialise(lambda: unet(images.shape[1:], settings["network"]), seed)
    logger.info("%d parameters", network.num_parameters())
    schedule, training = Schedule(**settings["schedule"]), settings["training"]
    averaged, loss = train_denoiser(images, network, schedule, training, seed, journal)
    logger.info("loss %.4f in the first step, %.4f in the last", loss[0], loss[-1])
    with replacing_in(folder) as temporary:
        averaged.save_pretrained(temporary)
    write_rows(pd.DataFrame({"step": range(len(loss)), "loss": loss}), losses)
    passes = evaluations(training["steps"])
    facts = training_record(images, labels, settings, seed, loss, network.num_parameters(), passes)
    write_card(name, how, facts, record=record, card=card)
