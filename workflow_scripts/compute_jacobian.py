"""Jacobian of the purifier at frozen noise: full singular spectrum, and the estimates that never form it."""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.errors import NoDerivative
from purification.gradients import steps_within
from purification.journal import NO_JOURNAL, Journal
from purification.measure import jacobian
from purification.measure.randomness import probes_of
from purification.purifiers import Purifier
from purification.statistics import CONFIDENCE
from workflow_scripts.clouds import cloud_purify
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_twins, noise_source
from workflow_scripts.job import job, logger, write_rows
from workflow_scripts.journal import collect_rows, resuming
from workflow_scripts.parts import block_of, join_rows, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def whole(
    pull: jacobian.Pull, pull_one: jacobian.Pull, forward: jacobian.Pull, image: Tensor, probes: Tensor, starts: Tensor,
    settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Every singular value, and the trace."""
    matrix = jacobian.full_jacobian(pull, image)
    values, trace = jacobian.singular_values(matrix).numpy(), float(matrix.diagonal().double().sum())
    weights = np.full(len(values), 1.0 / len(values))
    return {
        "singular_values": values, "weights": weights, "directions": 1,
        "trace": trace, "trace_low": trace, "trace_high": trace,
    }  # fmt: skip


def sampled(
    pull: jacobian.Pull, pull_one: jacobian.Pull, forward: jacobian.Pull, image: Tensor, probes: Tensor, starts: Tensor,
    settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The quadrature of the spectrum from every direction, and the trace from probes; the Jacobian is never formed."""
    found = [jacobian.quadrature(pull_one, forward, start[None], steps=settings["iterations"]) for start in starts]
    values, weights = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    trace, low, high = jacobian.interval(jacobian.trace_samples(pull, probes), CONFIDENCE)
    return {
        "singular_values": values, "weights": weights, "directions": len(starts),
        "trace": trace, "trace_low": low, "trace_high": high,
    }  # fmt: skip


# Columns of one number; NaN where there is no derivative.
NUMBERS = (
    *("trace", "trace_low", "trace_high", "hutchinson", "hutchinson_low", "hutchinson_high"),
    *("largest_matrix_free", "compression_small"),
)
SPECTRA: dict[str, Callable[..., dict[str, Any]]] = {"full": whole, "matrix_free": sampled}


def spectrum(
    purifier: Purifier, image: Tensor, identity: int, dataset: Dataset, settings: Mapping[str, Any], memory: float
) -> dict[str, Any]:
    """Spectrum of one image, whole or from random directions, matrix-free estimates, gain of small perturbations."""
    fixed, probe = (noise_source(settings["seed"], role, dataset) for role in ("fixed", "probe"))

    def pull_of(size: int) -> jacobian.Pull:
        kept = steps_within(purifier, image.expand(size, -1, -1, -1), fixed([identity] * size, 0), memory)
        return jacobian.pullback(purifier, image, identity, fixed, batch_size=size, mode="replay", kept_steps=kept)

    pull, pull_one = pull_of(settings["gradient_batch_size"]), pull_of(1)
    random = probe([identity] * settings["probes"], range(settings["probes"])).normal("hutchinson").flatten(1)
    hutchinson, low, high = jacobian.interval(jacobian.mean_square_gain(pull, random), CONFIDENCE)

    def forward(tangents: Tensor) -> Tensor:
        return jacobian.push(purifier, image, identity, fixed, tangents)

    starts = probe([identity] * settings["directions"], range(settings["directions"])).normal("lanczos").flatten(1)
    known = SPECTRA[settings["spectrum"]](pull, pull_one, forward, image, random, starts, settings)
    largest = jacobian.largest_gain(pull_one, forward, random[:1], iterations=settings["iterations"])
    small = probes_of(probe, identity, settings["probes"], settings["small_scale"] * settings["epsilon"])
    run = cloud_purify(purifier, identity, dataset, settings)
    moved = (run(image + small, [0] * len(small)) - run(image[None], [0])).flatten(1).double()
    return {
        **known,
        "pixels": image.numel(),
        "hutchinson": hutchinson,
        "hutchinson_low": low,
        "hutchinson_high": high,
        "largest_matrix_free": largest,
        "compression_small": float((moved.square().sum() / small.double().square().sum()).sqrt()),
    }


def unknown_spectrum(image: Tensor, reason: NoDerivative) -> dict[str, Any]:
    """The same columns for a purifier without a derivative, which has no Jacobian, and why."""
    logger.warning("no Jacobian: %s", reason)
    lists = {"singular_values": np.zeros(0), "weights": np.zeros(0), "directions": 1}
    return {**lists, **dict.fromkeys(NUMBERS, np.nan), "pixels": image.numel(), "not_measured": str(reason)}


def compute_jacobian(
    dataset: Dataset,
    twins: Mapping[str, Purifier],
    settings: Mapping[str, Any],
    memory: float,
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (model, image); one that says why for a purifier without a derivative."""
    clean, _, ids = dataset.take(settings["subset"], settings["images"], block)

    def rows_of(item: tuple[str, int]) -> pd.DataFrame:
        model, number = item
        try:
            found = spectrum(twins[model], clean[number], ids[number], dataset, settings, memory)
            values = {**found, "not_measured": ""}
        except NoDerivative as reason:
            values = unknown_spectrum(clean[number], reason)
        return pd.DataFrame([{"model": model, "image": ids[number], **values}])

    items = list(product(twins, range(len(ids))))
    write_rows(collect_rows(items, rows_of, "Jacobian", journal), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake), snakemake.output[0], by=["model"])
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            compute_jacobian(
                data,
                load_twins(snakemake.params.purifier, snakemake.input, data, snakemake.params.settings),
                snakemake.params.settings,
                snakemake.config["memory_bytes"],
                output=snakemake.output[0],
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
