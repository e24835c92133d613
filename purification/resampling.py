"""Errors of a number that is computed from purifiers: which units were resampled, and the widest of their intervals.

Purifiers with the same t*, or of the same sampler, are not independent. Their groups are left out as a whole, once for
every group ("CV3" or delete-group jackknife). With two groupings at once the variance is the sum of both, less that of
single purifiers, which both contain (Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 29:238, 2011; with the jackknife:
MacKinnon, Nielsen and Webb 2024). Images are resampled for all purifiers at once, since all are judged on the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from purification.intervals import CONFIDENCE
from purification.statistics import Estimate, estimate, undetermined

Array = NDArray[Any]
Labels = Sequence[Any] | Array
Variance = TypeVar("Variance", float, Array)
IMAGES = "images"
PURIFIERS = "purifiers"
GROUPS = "groups"
MINIMUM_GROUPS = 4  # of a grouping that can be resampled
LARGEST_GROUP = 0.5  # share of the purifiers in one group beyond which leaving it out leaves too few


@dataclass(frozen=True)
class Scale:
    """A scale on which an estimate is closer to normal, and the way back; both increase."""

    there: Callable[[float], float]
    back: Callable[[float], float]


def _same(value: float) -> float:
    return value


def _unexplained(value: float) -> float:
    """Minus the logarithm of 1 - R2; infinite where nothing is unexplained."""
    return -math.log1p(-value) if value < 1.0 else math.inf


def _explained(value: float) -> float:
    return -math.expm1(-value)


def _fisher(value: float) -> float:
    return math.atanh(value) if abs(value) < 1.0 else math.copysign(math.inf, value)


def _logarithm(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf


PLAIN = Scale(_same, _same)
FISHER = Scale(_fisher, math.tanh)  # of a correlation
EXPLAINED = Scale(_unexplained, _explained)  # of R2
LOGARITHM = Scale(_logarithm, math.exp)  # of a positive number


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate when one kind of unit is resampled, and its degrees of freedom."""

    unit: str
    variance: float
    freedom: float

    def half(self, level: float) -> float:
        """Half of Student's interval."""
        return float(t.ppf(0.5 + level / 2.0, self.freedom)) * math.sqrt(self.variance)


@dataclass(frozen=True)
class Widest:
    """Student's test of one value for every kind of unit: the interval is the widest, and the
    p-value that of the unit that says least.

    value  on the scale;  spreads: variances there
    """

    value: float
    spreads: tuple[Spread, ...]
    scale: Scale

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Unit -> its interval; of a unit that has several spreads the widest one."""
        found: dict[str, tuple[float, float]] = {}
        for spread in self.spreads:
            half = spread.half(CONFIDENCE)
            low, high = self.scale.back(self.value - half), self.scale.back(self.value + half)
            known = found.get(spread.unit, (low, high))
            found[spread.unit] = (min(low, known[0]), max(high, known[1]))
        return found

    def interval(self) -> tuple[Array, Array]:
        ends = self.intervals().values()
        return np.asarray(min(low for low, _ in ends)), np.asarray(max(high for _, high in ends))

    def _p_value(self, distance: float) -> Array:
        """P-value of "the value is `distance` on the claimed side of the threshold", by the unit that says least."""
        found = []
        for spread in self.spreads:
            error = math.sqrt(spread.variance)
            found.append(float(t.sf(distance / error, spread.freedom)) if error else float(distance <= 0.0))
        return np.asarray(max(found) if distance > 0.0 else min(found))

    def greater(self, threshold: float) -> Array:
        return self._p_value(self.value - self.scale.there(threshold))

    def less(self, threshold: float) -> Array:
        return self._p_value(self.scale.there(threshold) - self.value)


def usable(factors: Mapping[str, Labels]) -> dict[str, Array]:
    """The groupings that can be resampled: enough groups, none of which holds most of the purifiers."""
    found = {}
    for name, labels in factors.items():
        counts = Counter(labels)
        if len(counts) >= MINIMUM_GROUPS and max(counts.values()) <= LARGEST_GROUP * len(labels):
            found[name] = np.unique(np.asarray(labels), return_inverse=True)[1]
    return found


def grouped_variance(
    leave_out: Callable[[Array], Variance], factors: Mapping[str, Labels]
) -> tuple[Variance, float] | None:
    """Variance with groups as units, and its degrees of freedom; None where no grouping can be resampled.

    leave_out  one label per purifier -> variance from leaving out every group once
    factors    at most two groupings; the freedom is the number of groups of the finer one less 1
    """
    labels = list(usable(factors).values())
    if not labels:
        return None
    variances = [leave_out(own) for own in labels]
    if len(labels) == 2:
        variances.append(leave_out(np.arange(len(labels[0]))))
    if not all(np.isfinite(variance).all() for variance in variances):
        return None
    variance = variances[0] if len(labels) == 1 else variances[0] + variances[1] - variances[2]
    return variance, max(len(np.unique(own)) for own in labels) - 1.0


def jackknife(statistic: Callable[[Array], float], labels: Array) -> float:
    """Variance of a statistic from leaving out every group once; infinite where a rest has no value.

    statistic  (n,) whether each purifier is kept -> number
    """
    groups = np.unique(labels)
    values = np.array([statistic(labels != group) for group in groups])
    if not np.isfinite(values).all():
        return math.inf
    return float((len(groups) - 1.0) / len(groups) * np.square(values - values.mean()).sum())


def over_purifiers(
    statistic: Callable[[Array], float],
    n: int,
    factors: Mapping[str, Labels],
    *,
    scale: Scale,
    shared: float = 0.0,
    known: Sequence[Spread] = (),
) -> Estimate:
    """A number computed from n purifiers, with the widest interval over purifiers and groups of purifiers.

    statistic  (n,) whether each purifier is kept -> number on its own scale
    shared     variance, on `scale`, of the error that all purifiers share because they share the images
    known      further spreads, on `scale`, that the interval must contain
    """

    def on_scale(kept: Array) -> float:
        return scale.there(statistic(kept))

    value = statistic(np.ones(n, dtype=bool))
    if not math.isfinite(value):
        return undetermined("the purifiers give no number", value, n)
    spreads = [*known, Spread(PURIFIERS, jackknife(on_scale, np.arange(n)) + shared, n - 1.0)]
    grouped = grouped_variance(lambda labels: jackknife(on_scale, labels), factors)
    if grouped is not None:
        spreads.append(Spread(GROUPS, max(grouped[0], 0.0) + shared, grouped[1]))
    return from_spreads(value, spreads, n, scale)


def from_spreads(value: float, spreads: Sequence[Spread], n: int, scale: Scale) -> Estimate:
    """An estimate with the widest interval of its spreads; undetermined where one of them is not finite."""
    middle = scale.there(value)
    if not math.isfinite(middle) or not all(math.isfinite(spread.variance) for spread in spreads):
        return undetermined("leaving out a purifier leaves too little to compute it from", value, n)
    return estimate(value, Widest(middle, tuple(spreads), scale), n)
