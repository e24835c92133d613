"""One row of the claims table: what was asked, what was found, and the verdict.

A verdict rests on a 95 % interval, which is the same as a one-sided p-value below `TAIL` = .025
for the claimed side.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from purification.intervals import TAIL
from purification.reporting.needed import interval_images
from purification.reporting.rows import Rows
from purification.statistics import Estimate, holm

SELF_CHECKS = ("A0", "A10", "A17")  # of the measurement, not claims of the paper
WORST_FIRST = ("fail", "inconclusive", "pass")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Claim:
    """One row of the claims table.

    n             units of the estimate: images, or purifiers where a relation over them is claimed
    images        images behind its interval
    needed_n      images with which it decides at the observed effect (`needed`)
    verdict       whether the interval lies on the claimed side
    p_value       one-sided, for the claimed side; NaN where there is no test
    effect        the value in words, with its unit
    of_the_paper  the effect as a share of the paper's; NaN where the paper states no size
    null          the null model's value in words, or "none"
    left_out      what was not asked
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
    p_value: float
    effect: str
    of_the_paper: float
    null: str
    left_out: str
    note: str


@dataclass(frozen=True)
class Asked:
    """What a claim asks: whether above < value < below.

    paper    the paper's value as it is stated
    size     the same as a number; NaN where it states none
    neutral  the value if purification did nothing: effects are measured from here
    """

    claim: str
    statement: str
    paper: str
    above: float = -math.inf
    below: float = math.inf
    size: float = math.nan
    neutral: float = 0.0


def judge(estimate: Estimate, *, above: float = -math.inf, below: float = math.inf) -> str:
    """Verdict on above < value < below; inconclusive where a number of the estimate is not finite."""
    if not all(map(math.isfinite, (estimate.value, estimate.low, estimate.high))):
        return "inconclusive"
    if above < estimate.low and estimate.high < below:
        return "pass"
    return "fail" if estimate.high <= above or estimate.low >= below else "inconclusive"


def make_claim(
    asked: Asked,
    estimate: Estimate,
    *,
    effect: str,
    null: str = "none",
    left_out: str = "nothing",
    notes: tuple[str, ...] = (),
    images: int | None = None,
) -> Claim:
    """A claim with its verdict, p-value and the images that the verdict needs.

    effect  the value in words; replaced where there is none
    images  images behind the interval; those of the estimate unless given
    """
    sides = {"above": asked.above, "below": asked.below}
    behind = estimate.n if images is None else images
    measured = math.isfinite(estimate.value)
    said = (estimate.reason, *notes)
    return Claim(
        asked.claim,
        asked.statement,
        asked.paper,
        ours=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        images=behind,
        needed_n=interval_images(estimate, behind, **sides),
        verdict=judge(estimate, **sides),
        p_value=estimate.p_value(**sides),
        effect=effect if measured else NOT_MEASURED,
        of_the_paper=(estimate.value - asked.neutral) / (asked.size - asked.neutral),
        null=null,
        left_out=left_out,
        note="; ".join(filter(None, said)),
    )


def also(claim: Claim, verdict: str, p_value: float, needed_n: float) -> Claim:
    """A claim that holds only where a second test agrees: the worse verdict and the larger numbers."""
    worst = min((claim.verdict, verdict), key=WORST_FIRST.index)
    p_values = (claim.p_value, p_value)
    return replace(
        claim,
        verdict=worst,
        p_value=math.nan if any(map(math.isnan, p_values)) else max(p_values),
        needed_n=max(claim.needed_n, needed_n),
    )


def null_notes(asked: Asked, ours: Estimate, null: Estimate) -> tuple[str, ...]:
    """A sentence where the null model moves further from `neutral`, in the claimed direction."""
    own = ours.value - asked.neutral
    other = null.value - asked.neutral
    upwards = math.isfinite(asked.above)
    downwards = math.isfinite(asked.below)
    if upwards == downwards or not (other > own if upwards else other < own):
        return ()
    return (f"the null model moves further from {asked.neutral:g}: {other:+.3g} against {own:+.3g}",)


def words(estimate: Estimate, form: str = ".3f") -> str:
    """A value with its interval as text; "none" where there is no value."""
    if not math.isfinite(estimate.value):
        return "none"
    if not math.isfinite(estimate.low + estimate.high):
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def headline_claim(rows: Rows, asked: Asked, estimate: Estimate, null: Estimate, *, effect: str) -> Claim:
    """A claim that is asked of the headline purifier and compared with its null model."""
    return make_claim(
        asked,
        estimate,
        effect=effect,
        null=words(null),
        left_out=f"every purifier but {rows.headline}",
        notes=null_notes(asked, estimate, null),
    )


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """All claims, with Holm's correction for the number of those that are about the paper.

    p_holm  the corrected p-value; NaN for self-checks
    holm    the verdict after the correction, "inconclusive" for a claim that passes only without;
            empty for self-checks
    """
    table = pd.DataFrame([asdict(claim) for claim in claims])
    about_the_paper = ~table.claim.isin(SELF_CHECKS)
    corrected = np.full(len(table), np.nan)
    corrected[about_the_paper] = holm(table.p_value[about_the_paper].to_numpy(dtype=float))
    lost = (table.verdict == "pass") & ~(corrected < TAIL)
    verdicts = table.verdict.mask(lost, "inconclusive").where(about_the_paper, "")
    place = table.columns.get_loc("p_value")
    table.insert(place, "holm", verdicts)
    table.insert(place + 2, "p_holm", corrected)
    return table


def attacked_images(rows: Rows) -> int:
    """Images behind every point's accuracy."""
    return len(rows.purified(rows.headline, rows.base_attack))
