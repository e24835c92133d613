"""Jacobian of the purifier at frozen noise: full singular spectrum, and the estimates that never form it."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from purification.data import Dataset
from purification.gradients import steps_within
from purification.journal import NO_JOURNAL, Journal
from purification.measure import jacobian
from purification.measure.randomness import probes_of
from purification.purifiers import Purifier
from workflow_scripts.clouds import cloud_purify
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source
from workflow_scripts.job import job, write_rows
from workflow_scripts.journal import collect_rows, resuming

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def spectrum(
    purifier: Purifier, image: Tensor, identity: int, dataset: Dataset, settings: Mapping[str, Any], memory: float
) -> dict[str, Any]:
    """Spectrum of one image, its matrix-free estimates, and the rms gain of small finite perturbations."""
    fixed, probe = (noise_source(settings["seed"], role, dataset, settings["device"]) for role in ("fixed", "probe"))

    def pull_of(size: int) -> jacobian.Pull:
        kept = steps_within(purifier, image.expand(size, -1, -1, -1), fixed([identity] * size, 0), memory)
        return jacobian.pullback(purifier, image, identity, fixed, batch_size=size, mode="replay", kept_steps=kept)

    pull, pull_one = pull_of(settings["gradient_batch_size"]), pull_of(1)
    matrix = jacobian.full_jacobian(pull, image)
    random = probe([identity] * settings["probes"], range(settings["probes"])).normal("hutchinson").flatten(1)
    gains = jacobian.mean_square_gain(pull, random)
    largest = jacobian.largest_gain(
        pull_one,
        lambda t: jacobian.push(purifier, image, identity, fixed, t),
        random[:1],
        iterations=settings["iterations"],
    )
    small = probes_of(probe, identity, settings["probes"], settings["small_scale"] * settings["epsilon"])
    run = cloud_purify(purifier, identity, dataset, settings)
    moved = (run(image + small, [0] * len(small)) - run(image[None], [0])).flatten(1).double()
    return {
        "singular_values": jacobian.singular_values(matrix).numpy(),
        "trace": float(matrix.diagonal().double().sum()),
        "hutchinson": float(gains.mean()),
        "hutchinson_error": float(gains.std() / len(gains) ** 0.5),
        "largest_matrix_free": largest,
        "compression_small": float((moved.square().sum() / small.double().square().sum()).sqrt()),
    }


def compute_jacobian(
    dataset: Dataset,
    twins: Mapping[str, Purifier],
    settings: Mapping[str, Any],
    memory: float,
    *,
    output: Path,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (model, image)."""
    clean, _, ids = dataset.take(settings["subset"], settings["images"])

    def rows_of(item: tuple[str, int]) -> pd.DataFrame:
        model, number = item
        values = spectrum(twins[model], clean[number], ids[number], dataset, settings, memory)
        return pd.DataFrame([{"model": model, "image": ids[number], **values}])

    items = list(product(twins, range(len(ids))))
    write_rows(collect_rows(items, rows_of, "Jacobian", journal), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        compute_jacobian(
            data,
            load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
            snakemake.params.settings,
            snakemake.config["memory_bytes"],
            output=snakemake.output[0],
            journal=kept,
        )
