"""A check of the evaluation by itself: its verdict, and what was seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from purification.statistics import Estimate

WORST_FIRST = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class SelfCheck:
    """verdict: "pass", "fail" or "inconclusive"; seen: the numbers behind it, with their unit."""

    verdict: str
    seen: str


def holds(condition: bool, seen: str) -> SelfCheck:
    """A check that one comparison decides."""
    return SelfCheck("pass" if condition else "fail", seen)


def no_drop(drop: Estimate, margin: float) -> SelfCheck:
    """Whether a stronger attack takes less than a margin: an equivalence test on the interval of the drop.

    pass where the whole interval lies below the margin, fail where it lies above, inconclusive in between: that nothing
    was found on few images says nothing.
    """
    verdict = "inconclusive"
    if math.isfinite(drop.low + drop.high):
        if drop.high < margin:
            verdict = "pass"
        elif drop.low > margin:
            verdict = "fail"
    numbers = " to ".join(f"{100 * end:+.1f}" for end in (drop.low, drop.high))
    seen = f"takes {100 * drop.value:+.1f} points (95 %: {numbers}), margin {100 * margin:g}, {drop.n} images"
    return SelfCheck(verdict, seen)


def worst_verdict(checks: Iterable[SelfCheck]) -> str:
    """The verdict on all of them: fail before inconclusive before pass; inconclusive without any."""
    verdicts = {check.verdict for check in checks}
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), "inconclusive")
