"""Train the classifier that the attacks are aimed at."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.data import Dataset
from purification.models.loading import save_model
from purification.training import train_classifier
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job, logger, write_rows

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(dataset: Dataset, settings: Mapping[str, Any], seed: int, *, folder: Path, losses: Path) -> None:
    images, labels, _ = dataset.take("train")
    if int(labels.max()) + 1 < dataset.num_classes:
        raise ValueError(
            f"expected training images of {dataset.num_classes} classes, got labels up to {int(labels.max())} — raise "
            "splits.train or change the seed"
        )
    network, loss = train_classifier(images, labels, settings, seed)
    network.requires_grad_(False)
    held_out, truth, _ = dataset.take("validation")
    accuracy = float((network(held_out).argmax(dim=1) == truth).float().mean())
    logger.info("validation accuracy %.4f on %d images", accuracy, len(truth))
    config = {"kind": "residual", "channels": dataset.shape[0], "classes": dataset.num_classes}
    save_model(folder, {**config, "widths": settings["widths"]}, network.state_dict())
    write_rows(pd.DataFrame({"step": range(len(loss)), "loss": loss}), losses)


if __name__ == "__main__":
    with job(snakemake):
        run(
            read_dataset(snakemake.input.images, snakemake.input.subsets),
            snakemake.params.settings,
            snakemake.params.seed,
            folder=Path(snakemake.output.config).parent,
            losses=snakemake.output.losses,
        )
