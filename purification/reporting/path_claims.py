"""Claims A1 and A2 of arXiv 2505.22839: purification leads away from the clean image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from purification import statistics
from purification.intervals import TAIL
from purification.reporting.claim import (
    Asked,
    Claim,
    headline_claim,
    judge,
    make_claim,
    null_notes,
    words,
)
from purification.reporting.path_ends import growth, path_ends
from purification.reporting.rows import Rows
from purification.statistics import Estimate

PAPER_GROWTH = {
    "ddpm": 3.1,
    "ddim": 2.44,
    "one_step": 2.27,
}  # end / start by sampler; the first is inferred


def distance_grows(rows: Rows) -> Claim:
    """A1: purification moves images away from the clean image, for every sampler of run.distances.

    The row shows the sampler whose interval reaches lowest. The claim passes where every sampler
    does; each is tested at the full level, because all must hold (intersection-union). It fails
    where one sampler is below 1, after a correction for their number (Bonferroni).
    """
    purifiers = rows.settings["run"]["distances"]
    found = {name: growth(rows, name) for name in purifiers}
    nulls = {name: growth(rows, name, "null") for name in purifiers}
    if not purifiers:
        nothing = statistics.undetermined("run.distances names no purifier")
        return make_claim(_growth_asked(rows, ""), nothing, effect="", left_out="every sampler")
    weakest = min(purifiers, key=lambda name: np.nan_to_num(found[name].low, nan=-math.inf))
    asked = _growth_asked(rows, weakest)
    each = "; ".join(f"{name} {words(found[name])}, null {words(nulls[name])}" for name in purifiers)
    claim = make_claim(
        asked,
        found[weakest],
        effect=f"{found[weakest].value:.3f} times as far at the end as at the start, with {weakest}",
        null=words(nulls[weakest]),
        left_out=f"nothing: all {len(purifiers)} purifiers of run.distances are asked",
        notes=(*null_notes(asked, found[weakest], nulls[weakest]), f"the weakest of: {each}"),
    )
    verdict = _verdict_on_all(list(found.values()))
    if verdict == "inconclusive" and claim.verdict == "fail":
        reason = f"below 1 by itself, but not after a correction for {len(purifiers)} samplers"
        claim = replace(claim, note=f"{reason}; {claim.note}")
    largest = np.max([found[name].p_value(above=1.0) for name in purifiers])
    return replace(claim, verdict=verdict, p_value=float(largest))


def _growth_asked(rows: Rows, purifier: str) -> Asked:
    entry = rows.settings["purifiers"].get(purifier, {})
    sampler = entry.get("sampler", "") if entry.get("forward_noise") else ""
    return Asked(
        "A1",
        "With every sampler, images are farther from the clean image after purification than before: "
        "the l2 distance at the end over that at the start is above 1.",
        "2.44 (DDIM), 2.27 (one-step), 3.1 (DDPM, inferred)",
        above=1.0,
        size=PAPER_GROWTH.get(sampler, math.nan),
        neutral=1.0,
    )


def _verdict_on_all(ratios: list[Estimate]) -> str:
    """Whether every ratio is above 1; that one is below must outlast a correction for their number."""
    if all(judge(ratio, above=1.0) == "pass" for ratio in ratios):
        return "pass"
    smallest = min(np.nan_to_num(ratio.p_value(below=1.0), nan=1.0) for ratio in ratios)
    return "fail" if len(ratios) * smallest < TAIL else "inconclusive"


def similarity_falls(rows: Rows) -> Claim:
    """A2: structural similarity to the clean image falls."""
    asked = Asked(
        "A2",
        "The structural similarity (SSIM) to the clean image is lower after purification than before.",
        ".963 -> .791",
        below=0.0,
        size=0.791 - 0.963,
    )
    ends = path_ends(rows, rows.headline, "ssim")
    twin = path_ends(rows, rows.headline, "ssim", "null")
    estimate = statistics.mean(ends["last"] - ends["first"], low=-2.0, high=2.0)
    null = statistics.mean(twin["last"] - twin["first"], low=-2.0, high=2.0)
    seen = f"SSIM changes by {estimate.value:+.4f}, from {ends['first'].mean():.3f} to {ends['last'].mean():.3f}"
    return headline_claim(rows, asked, estimate, null, effect=seen)
