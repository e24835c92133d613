"""Bound the smoothed score of every test image under any l2 perturbation, for every arm and radius."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from purification.anomaly.detectors import SMOOTHED, Parts, calibrated, noise_scale, scores
from purification.anomaly.items import Items
from purification.anomaly.smoothing import certified_bounds
from purification.blocks import WHOLE, Block
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.noise import NoiseSource
from purification.progress import track
from workflow_scripts.anomalies import load_detector, tested
from workflow_scripts.defences import noise_source
from workflow_scripts.job import job, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.parts import block_of, join_rows, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def _sampled(
    items: Items, found: Defence, source: NoiseSource, samples: int, label: str, journal: Journal
) -> Tensor:  # fmt: skip
    """Scores (m, samples) of the test images, each on so many draws."""
    saved = journal.load()
    done = list(saved["scores"].unbind(dim=1)) if saved else []
    for draw in track(range(samples), label, len(done)):
        done.append(scores(found, items.test, items.ids, source, draw))
        journal.save(lambda: {"scores": torch.stack(done, dim=1)}, last=draw == samples - 1)
    return torch.stack(done, dim=1)


def certify_anomalies(
    items: Items, parts: Parts, settings: Mapping[str, Any], *,
    output: Path, block: Block = WHOLE, journal: Journal = NO_JOURNAL,
) -> None:  # fmt: skip
    """One row per (arm, radius, image) of a block; the bounds of all images of one arm and radius hold together.

    Each of them may fail with probability `failure` / images (Bonferroni).
    """
    chosen = settings["certification"]
    failure = chosen["failure"] / len(items.ids)
    items = items.of(block)
    data = tested(items)
    calibration, source = (noise_source(settings["seed"], role, data) for role in ("calibration", "certification"))
    sizes = {"batch_size": settings["batch_size"], "gradient_batch_size": settings["batch_size"]}
    sigma = noise_scale(parts.denoiser, chosen["level"])
    fixed = {"percentile": chosen["percentile"], "sigma": sigma, "failure": failure}
    rows = []
    for arm, make in SMOOTHED.items():
        found = calibrated(make(parts, chosen["level"]), items.train, items.train_ids, calibration, settings, **sizes)
        drawn = _sampled(items, found, source, chosen["samples"], f"samples of {arm}", journal.part(arm)).numpy()
        for radius in chosen["radii"]:
            for place, kind in enumerate(items.kinds):
                lower, upper = certified_bounds(drawn[place], radius=radius, **fixed)
                told = {"image": items.ids[place], "source": items.sources[place], "kind": kind}
                told["anomalous"] = bool(items.anomalous[place])
                rows.append({"arm": arm, "radius": radius, **told, "lower": lower, "upper": upper, "sigma": sigma})
    write_rows(pd.DataFrame(rows), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake), snakemake.output[0], by=["arm", "radius"])
        else:
            found, parts = load_detector(snakemake.input, snakemake.params.settings)
            certify_anomalies(
                found,
                parts,
                snakemake.params.settings,
                output=snakemake.output[0],
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
