"""What the audit of an attack on a purifier says: checks beyond their limit, and checks that were not possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from scipy.stats import beta

from purification.statistics import CONFIDENCE

Limits = Mapping[str, float]
EXACT = ("replay", "autograd")  # gradient modes of what runs
NOT_AUDITED = "its gradient was not audited"


def _worst(values: pd.Series, limits: Limits) -> float:
    return float(values.max())


def _mean(values: pd.Series, limits: Limits) -> float:
    return float(values.mean())


def _median(values: pd.Series, limits: Limits) -> float:
    return float(values.median())


def forgiven_images(images: int, limits: Limits) -> int:
    """How many of the audited images a check by counting forgives: the whole part of the share `exceptions`."""
    return math.floor(limits["exceptions"] * images + 1e-9)


def _after_exceptions(values: pd.Series, limits: Limits) -> float:
    """The largest value but for the images that are forgiven."""
    ordered = values.sort_values(ascending=False)
    return float(ordered.iloc[forgiven_images(len(ordered), limits)])


@dataclass(frozen=True)
class Check:
    """One column of the audit and what it is judged by.

    meaning    what is wrong with a purifier beyond the limit
    statistic  of the column over the images
    at_least   whether the limit is the smallest good value instead of the largest
    ratio      whether 1 is the best value: its inverse may be no smaller than the limit either
    derivative whether it needs a derivative;  exact: whether it says nothing about an approximate gradient
    double     whether it needs float64
    """

    meaning: str
    statistic: Callable[[pd.Series, Limits], float] = _worst
    at_least: bool = False
    ratio: bool = False
    derivative: bool = True
    exact: bool = False
    double: bool = False


# The purifier is no function of an image and its noise: whatever else is seen follows from that.
CAUSES = {
    "repeat_difference": Check("the same image and noise give different results", derivative=False),
    "batch_difference": Check("its result depends on the other images of the batch", derivative=False),
    "recorded_difference": Check("it is another function while gradients are recorded"),
    "gradient_repeat": Check("the same gradient taken twice differs"),
}
# The gradient is not what it says it is.
DEFECTS = {
    "replay_difference": Check("the replayed gradient differs from the gradient", exact=True),
    "finite_difference": Check("the gradient is not the derivative of what runs", _after_exceptions, exact=True),
    "not_finite": Check("the gradient has NaN or infinity"),
    "sign_mass": Check("rounding decides the sign of the gradient", _mean, double=True),
}
# The gradient is right and may still lead nowhere: nothing is overstated where little robustness is left.
HINTS = {
    "zero_gradient": Check("the gradient vanishes where the loss changes", _mean),
    "linearity": Check(
        "the gradient does not foresee what a quarter of the budget changes", _mean, at_least=True, exact=True
    ),
    "foreseen": Check(
        "along the gradient the loss changes far more or far less than the gradient foresees",
        _median,
        at_least=True,
        ratio=True,
        exact=True,
    ),
}
# A reason to look for a better attack, and no more: many good purifiers clamp.
NOTES = {"masked": Check("clamping or rounding stops the gradient", _mean, exact=True)}
CHECKS = {**CAUSES, **DEFECTS, **HINTS, **NOTES}


@dataclass(frozen=True)
class Examination:
    """What the audit of one attack on one purifier says.

    images       audited
    seen         what every check is judged by; NaN where it was not asked or not measured
    wrong        reasons that hold whatever the accuracy
    hints        reasons to doubt an accuracy that is not near zero
    notes        reasons to look for a better attack
    unmeasured   what could not be measured, and why
    flat         share of the images around which no random change of up to the budget changes the margin
    """

    images: int
    seen: Mapping[str, float]
    wrong: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    flat: float = 0.0


def _reason(frame: pd.DataFrame, column: str) -> str:
    return next((str(text) for text in frame[column] if text), "")


def _worst_stages(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per image: every column of its worst stage."""
    names = [*CHECKS, "linearity_budget"]
    if frame["image"].is_unique:
        return frame[names]
    lowest = [name for name in names if name == "linearity_budget" or CHECKS[name].at_least]
    how = {name: "min" if name in lowest else "max" for name in names}
    return frame.groupby("image").agg(how)


def _statistic(values: pd.Series, check: Check, limits: Limits) -> float:
    """What a check is judged by; NaN without a value."""
    measured = values.dropna()
    return check.statistic(measured, limits) if len(measured) else math.nan


def _within(name: str, value: float, limits: Limits) -> bool:
    """Whether a check holds; what was not measured is not wrong."""
    if math.isnan(value):
        return True
    limit = limits[name]
    check = CHECKS[name]
    if check.ratio:
        return limit <= value and value * limit <= 1.0
    return value >= limit if check.at_least else value <= limit


def _unmeasured(frame: pd.DataFrame, seen: Mapping[str, float], asked: Mapping[str, Check]) -> tuple[str, ...]:
    """Sentences about checks that were asked and have no value, by their cause."""
    found = []
    no_derivative = _reason(frame, "no_derivative")
    no_double = _reason(frame, "no_double")
    if no_derivative:
        found.append(f"nothing about a gradient: {no_derivative}")
    elif no_double:
        names = [name for name, check in asked.items() if check.double and math.isnan(seen[name])]
        found.append(f"{', '.join(names)}, and finite differences were taken in float32: {no_double}")
    elif math.isnan(seen["linearity"]) and "linearity" in asked:
        found.append("linearity: no random change of a quarter of the budget changes the margin")
    return tuple(found)


def _flat_share(frame: pd.DataFrame, worst: pd.DataFrame) -> float:
    """0 where a purifier has no derivative, since nothing was measured there."""
    if _reason(frame, "no_derivative"):
        return 0.0
    return float((worst.linearity.isna() & worst.linearity_budget.isna()).mean())


def examine(frame: pd.DataFrame, limits: Limits, *, approximate: bool = False) -> Examination:
    """The verdict of an audit.

    frame        rows of one purifier under one attack, all stages (columns: docs/rows.md)
    limits       section `reliability` of the configuration
    approximate  whether the purifier declares that its gradient stands in for a derivative
    """
    stands_in = approximate or not frame.gradient.isin(EXACT).any()
    worst = _worst_stages(frame)
    seen = {name: _statistic(worst[name], check, limits) for name, check in CHECKS.items()}
    asked = {name: check for name, check in CHECKS.items() if not (check.exact and stands_in)}
    if approximate:
        asked |= {"linearity": HINTS["linearity"], "replay_difference": DEFECTS["replay_difference"]}
        # a declared staircase is linear at the scale of several of its steps
        budget = _statistic(worst.linearity_budget, HINTS["linearity"], limits)
        seen["linearity"] = max(seen["linearity"], budget)
    failed = [name for name in asked if not _within(name, seen[name], limits)]
    causes = [CHECKS[name].meaning for name in failed if name in CAUSES]
    return Examination(
        images=frame.image.nunique(),
        seen={name: value if name in asked else math.nan for name, value in seen.items()},
        wrong=tuple(causes or [CHECKS[name].meaning for name in failed if name in DEFECTS]),
        hints=() if causes else tuple(CHECKS[name].meaning for name in failed if name in HINTS),
        notes=() if causes else tuple(CHECKS[name].meaning for name in failed if name in NOTES),
        unmeasured=() if causes else _unmeasured(frame, seen, asked),
        flat=_flat_share(frame, worst),
    )


def detectable_share(images: int, forgiven: int = 0) -> float:
    """Smallest share of images with a defect that is found with a probability of .95.

    It is found when more than `forgiven` of the audited images have it: the exact upper bound (Clopper and Pearson
    1934, one-sided) of a share of which `forgiven` in `images` were seen.
    """
    if forgiven >= images:
        return 1.0
    return float(beta.ppf(CONFIDENCE, forgiven + 1, images - forgiven))
