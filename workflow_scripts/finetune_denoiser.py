"""Fine-tune a trained denoiser with a method that makes its examples adversarial, or without one as their control."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
from diffusers import UNet2DModel
from torch import nn

from purification.data import Dataset
from purification.finetuning import evaluations, finetune_denoiser
from purification.journal import NO_JOURNAL, Journal
from purification.models.classifiers import Classifier
from purification.models.loading import Sampled, load_trainable, save_model
from purification.models.placing import Place
from purification.schedule import Schedule
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_judge
from workflow_scripts.job import job, logger, replacing_in, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.model_cards import training_record, write_card

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

Save = Callable[[nn.Module, Path], None]


def _diffusers(base: Path) -> tuple[nn.Module, Save]:
    network = UNet2DModel.from_pretrained(base, low_cpu_mem_usage=False)
    network.register_to_config(_name_or_path="")  # no path of this machine in what is saved
    return network, lambda averaged, folder: cast(UNet2DModel, averaged).save_pretrained(folder)


def _converted(base: Path) -> tuple[nn.Module, Save]:
    config, network = load_trainable(base)
    return network, lambda averaged, folder: save_model(folder, config, cast(Sampled, averaged).network.state_dict())


# Architecture -> network(u, position).sample of a folder, and how such a network is written as one.
OPENED: dict[str, Callable[[Path], tuple[nn.Module, Save]]] = {"unet": _diffusers, "edm": _converted}


def run(
    dataset: Dataset, settings: Mapping[str, Any], base: Path, judge: Classifier | None, seed: int, *,
    name: str, folder: Path, losses: Path, record: Path, card: Path, journal: Journal = NO_JOURNAL,
) -> None:  # fmt: skip
    images, labels, _ = dataset.take("train")
    network, save = OPENED[settings["architecture"]](base)
    table = Schedule(**settings["schedule"])
    averaged, loss = finetune_denoiser(images, labels, network, table, judge, settings, seed, journal)
    logger.info("loss %.4f in the first step, %.4f in the last", loss[0], loss[-1])
    with replacing_in(folder) as temporary:
        save(averaged, temporary)
    write_rows(pd.DataFrame({"step": range(len(loss)), "loss": loss}), losses)
    passes = evaluations(settings)
    count = sum(parameter.numel() for parameter in network.parameters())
    facts = training_record(images, labels, settings, seed, loss, count, passes)
    how = f"fine-tuning `{settings['base']}` with method `{settings['method']}`"
    write_card(name, how, facts, record=record, card=card)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        chosen = snakemake.params.classifier
        run(
            data,
            snakemake.params.settings,
            Path(snakemake.input.base[0]).parent,
            load_judge(chosen, snakemake.input.classifier, data, Place("cpu", "fp32"), torch.float32)
            if chosen
            else None,
            snakemake.params.seed,
            name=snakemake.wildcards.denoiser,
            folder=Path(snakemake.output.config).parent,
            losses=snakemake.output.losses,
            record=snakemake.output.record,
            card=snakemake.output.card,
            journal=kept,
        )
