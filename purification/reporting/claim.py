"""One row of the claims table: what was claimed, what was found, and the verdict taken on its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from purification.reporting.needed import interval_images
from purification.reporting.rows import Rows
from purification.statistics import Estimate


@dataclass(frozen=True)
class Claim:
    """One row of the claims table.

    n         units of the estimate: images, or purifiers where a relation over them is claimed (A12-A14)
    images    images behind its interval
    needed_n  images with which it decides at the observed effect (`needed`)
    """

    claim: str
    statement: str
    paper: str
    ours: float
    low: float
    high: float
    n: int
    images: int
    needed_n: float
    verdict: str
    note: str


def judge(estimate: Estimate, *, above: float = -math.inf, below: float = math.inf) -> str:
    """Verdict on above < value < below."""
    if not math.isfinite(estimate.value):
        return "inconclusive"
    if above < estimate.low and estimate.high < below:
        return "pass"
    return "fail" if estimate.high <= above or estimate.low >= below else "inconclusive"


def make_claim(
    name: str,
    statement: str,
    paper: str,
    estimate: Estimate,
    note: str,
    *,
    images: int | None = None,
    above: float = -math.inf,
    below: float = math.inf,
) -> Claim:
    """A claim with its verdict on above < value < below, and the images that verdict needs.

    images  images behind the interval; those of the estimate unless given
    """
    verdict, behind = judge(estimate, above=above, below=below), estimate.n if images is None else images
    needed = interval_images(estimate, behind, above=above, below=below)
    found = (estimate.value, estimate.low, estimate.high, estimate.n)
    return Claim(name, statement, paper, *found, behind, needed, verdict, note)


def attacked_images(rows: Rows) -> int:
    """Images behind every point's accuracy."""
    return len(rows.purified(rows.headline, rows.base_attack))
