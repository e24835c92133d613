"""Jacobian of the purifier at frozen noise: full singular spectrum, and the estimates that never form it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from purification.data import Dataset
from purification.measure import jacobian
from purification.measure.randomness import probes_of
from purification.progress import track
from purification.purifiers import Purifier
from workflow_scripts.clouds import cloud_purify
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source
from workflow_scripts.job import job, write_rows

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def spectrum(
    purifier: Purifier, image: Tensor, identity: int, dataset: Dataset, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Spectrum of one image, its matrix-free estimates, and the rms gain of small finite perturbations."""
    fixed, probe = (noise_source(settings["seed"], role, dataset, settings["device"]) for role in ("fixed", "probe"))
    pull, pull_one = (
        jacobian.pullback(
            purifier, image, identity, fixed, batch_size=size, mode="replay", kept_steps=purifier.num_steps
        )
        for size in (settings["batch_size"], 1)
    )
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
    dataset: Dataset, twins: Mapping[str, Purifier], settings: Mapping[str, Any], *, output: Path
) -> None:
    """One row per (model, image)."""
    clean, _, ids = dataset.take(settings["subset"], settings["images"])
    rows = []
    for model, purifier in twins.items():
        for image, identity in track(list(zip(clean, ids, strict=True)), f"Jacobian ({model})"):
            rows.append({"model": model, "image": identity, **spectrum(purifier, image, identity, dataset, settings)})
    write_rows(pd.DataFrame(rows), output)


if __name__ == "__main__":
    with job(snakemake):
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        compute_jacobian(
            data,
            load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
            snakemake.params.settings,
            output=snakemake.output[0],
        )
