"""Train the classifier that the attacks are aimed at."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal
from purification.models.loading import save_model
from purification.training import evaluations, train_classifier
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
    if int(labels.max()) + 1 < dataset.num_classes:
        raise ValueError(
            f"expected training images of {dataset.num_classes} classes, got labels up to {int(labels.max())} — raise "
            "splits.train or change the seed"
        )
    network, loss = train_classifier(images, labels, settings, seed, journal)
    network.requires_grad_(False)
    held_out, truth, _ = dataset.take("validation")
    accuracy = float((network(held_out).argmax(dim=1) == truth).float().mean())
    logger.info("validation accuracy %.4f on %d images", accuracy, len(truth))
    config = {"kind": "residual", "channels": dataset.shape[0], "classes": dataset.num_classes}
    with replacing_in(folder) as temporary:
        save_model(temporary, {**config, "widths": settings["widths"]}, network.state_dict())
    write_rows(pd.DataFrame({"step": range(len(loss)), "loss": loss}), losses)
    count = sum(parameter.numel() for parameter in network.parameters())
    facts = training_record(images, labels, settings, seed, loss, count, evaluations(settings["steps"]))
    write_card(name, "training on clean images", facts, record=record, card=card)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        run(
            read_dataset(snakemake.input.images, snakemake.input.subsets),
            snakemake.params.settings,
            snakemake.params.seed,
            name=snakemake.wildcards.classifier,
            folder=Path(snakemake.output.config).parent,
            losses=snakemake.output.losses,
            record=snakemake.output.record,
            card=snakemake.output.card,
            journal=kept,
        )
