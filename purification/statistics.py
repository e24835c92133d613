"""Estimators of robustness numbers with their 95 % intervals, and tests of paired comparisons.

Notation of all docstrings: P_i is the probability that the defence classifies image i correctly
over its randomness; `correct` (n, M) says whether draw m of image i was correct, on draws that
chose nothing.

Which interval belongs to which number:
    wilson      a share of images that are right or wrong
    rate        a mean of one rate in [0, 1] per image, draws nested in images
    difference  a mean of one paired difference of two rates per image
    mean        a mean of one measurement per image, of any range
    ratio       a ratio of two means of paired measurements
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln
from scipy.stats import binomtest

from purification import intervals
from purification.philox import generator

Array = intervals.Array
CONFIDENCE = intervals.CONFIDENCE
SAME = 1e-12  # relative difference below which values are equal but for rounding


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval and the number of images behind it.

    An interval that the sample does not determine has NaN ends, and the value is NaN without a
    single image.

    pivot   the test that the interval comes from; None where there is none
    reason  why there is no interval; empty where there is one
    """

    value: float
    low: float
    high: float
    n: int
    pivot: intervals.Pivot | None = field(default=None, repr=False, compare=False)
    reason: str = field(default="", repr=False, compare=False)

    def p_value(self, *, above: float = -math.inf, below: float = math.inf) -> float:
        """One-sided p-value of above < value < below, the larger of the two; NaN without a test.

        Both sides must be shown, each at its own level (intersection-union: Berger, Technometrics
        24:295, 1982).
        """
        if self.pivot is None or not math.isfinite(self.low + self.high):
            return math.nan
        asked = []
        if math.isfinite(above):
            asked.append(float(self.pivot.greater(above)))
        if math.isfinite(below):
            asked.append(float(self.pivot.less(below)))
        return max(asked, default=math.nan)


def estimate(value: float, pivot: intervals.Pivot, n: int) -> Estimate:
    """An estimate with the interval of its test."""
    low, high = pivot.interval()
    return Estimate(value, float(low), float(high), n, pivot)


NO_IMAGE = "not measured on any image"
ONE_IMAGE = "one image determines no interval"
EQUAL = "all images have the same value, which determines no interval"
INFINITE = "a value is infinite"


def undetermined(reason: str, value: float = math.nan, n: int = 0) -> Estimate:
    """A value that no interval can be given for, and why."""
    return Estimate(value, math.nan, math.nan, n, reason=reason)


def wilson(successes: int, n: int) -> Estimate:
    """Proportion with its Wilson score interval; undetermined without an image."""
    if n < 1:
        return undetermined(NO_IMAGE)
    share = successes / n
    return estimate(share, intervals.Score(np.asarray(share), np.asarray(float(n))), n)


def _defined(values: ArrayLike) -> Array:
    """The values that are not NaN: images without the number are left out and not counted."""
    numbers = np.asarray(values, dtype=float)
    return np.asarray(numbers[~np.isnan(numbers)])


def _within(values: Array, low: float, high: float) -> Array:
    """The values cut to their range; raises ValueError where more than rounding leaves it."""
    if len(values) and not (low - 1e-6 <= values.min() and values.max() <= high + 1e-6):
        found = f"{values.min():g} to {values.max():g}"
        raise ValueError(
            f"expected values in [{low:g}, {high:g}], got {found} — take `mean` for what has no such range"
        )
    return np.clip(values, low, high)


def rate(values: ArrayLike) -> Estimate:
    """Mean of one rate in [0, 1] per image, with the score interval of `intervals.score_of`."""
    numbers = _within(_defined(values), 0.0, 1.0)
    if not len(numbers):
        return undetermined(NO_IMAGE)
    return estimate(float(numbers.mean()), intervals.score_of(numbers), len(numbers))


def difference(values: ArrayLike) -> Estimate:
    """Mean of one paired difference of two rates per image, in [-1, 1]; never a point.

    The interval is that of `intervals.normal_of`.
    """
    numbers = _within(_defined(values), -1.0, 1.0)
    if not len(numbers):
        return undetermined(NO_IMAGE)
    return estimate(float(numbers.mean()), intervals.normal_of(numbers), len(numbers))


def mean(values: ArrayLike, *, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """Mean of one measurement per image, with Student's interval of `intervals.student_of`.

    low, high  range of the measurement, which the interval does not leave
    Equal values determine no interval, unless the range is finite: then it is that of as many
    rates. One value determines none, and neither does an infinite one.
    """
    numbers = _within(_defined(values), low, high)
    if not len(numbers):
        return undetermined(NO_IMAGE)
    if not np.isfinite(numbers).all():
        return undetermined(INFINITE, n=len(numbers))
    value, width = float(numbers.mean()), high - low
    if len(numbers) > 1 and np.ptp(numbers) > SAME * np.abs(numbers).max():
        found = estimate(value, intervals.student_of(numbers), len(numbers))
        return Estimate(value, max(found.low, low), min(found.high, high), found.n, found.pivot)
    if not math.isfinite(width):
        return undetermined(EQUAL if len(numbers) > 1 else ONE_IMAGE, value, len(numbers))
    score = intervals.score_of((numbers - low) / width)
    return estimate(value, intervals.Scaled(score, low, width), len(numbers))


def ratio(above: ArrayLike, below: ArrayLike) -> Estimate:
    """mean(above) / mean(below) of pairs, one per image, with Fieller's interval.

    Pairs with a NaN are left out.
    """
    pairs = np.stack([np.asarray(above, dtype=float), np.asarray(below, dtype=float)])
    first, second = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n = len(first)
    if not n:
        return undetermined(NO_IMAGE)
    if not np.isfinite(first.sum() + second.sum()):
        return undetermined(INFINITE, n=n)
    if second.mean() <= 0.0:
        return undetermined("the mean that is divided by is not positive", n=n)
    value = float(first.mean() / second.mean())
    if n == 1:
        return undetermined(ONE_IMAGE, value, n)
    if np.ptp(first - value * second) <= SAME * np.abs(first).max():
        return undetermined(EQUAL, value, n)
    found = estimate(value, intervals.fieller_of(first, second), n)
    if math.isnan(found.low):
        return undetermined("the mean that is divided by is not known to be positive", value, n)
    return found


def resampled(value: float, samples: Array, n: int) -> Estimate:
    """A statistic that is no mean, with the percentile interval of its resamples.

    Undetermined where none of them is finite.
    """
    samples = np.asarray(samples, dtype=float)
    if not np.isfinite(samples).any():
        return undetermined("no resample gives a number", value, n)
    return estimate(value, intervals.Resampled(samples), n)


def average_robustness(correct: Array) -> Array:
    """Per-image estimate of P_i, NaN without draws; its mean is Avg.Rob."""
    images, draws = correct.shape
    return np.asarray(np.mean(correct, axis=1, dtype=float)) if draws else np.full(images, np.nan)


def worst_of(correct: Array, attempts: int) -> Array:
    """Per-image unbiased estimate of P_i^N, C(k, N) / C(M, N) with k of M draws correct; its mean is Wor.Rob_N."""
    draws = correct.shape[1]
    if not 1 <= attempts <= draws:
        raise ValueError(f"expected 1 <= N <= M = {draws} draws, got N = {attempts} — evaluate with more draws")
    k = np.asarray(correct).sum(axis=1).astype(float)

    def log_choose(m: Array | float) -> Array:
        return np.asarray(gammaln(m + 1.0) - gammaln(np.maximum(m - attempts, 0.0) + 1.0))

    return np.where(k >= attempts, np.exp(log_choose(k) - log_choose(float(draws))), 0.0)


def majority_vote(predictions: Array, labels: Array, votes: int, *, subsets: int, seed: int) -> Array:
    """Per-image probability that the plurality of `votes` draws is the label.

    Ties count as failures.
    predictions (n, M) labels per draw; averaged over `subsets` random choices of `votes` columns.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    draws = predictions.shape[1]
    if not 1 <= votes <= draws:
        raise ValueError(f"expected 1 <= K <= M = {draws} draws, got K = {votes} — evaluate with more draws")
    onehot = np.eye(int(max(predictions.max(initial=0), labels.max(initial=0))) + 1)[predictions]
    wins = np.zeros(len(labels))
    rng = generator(seed, "bootstrap", "votes")
    for _ in range(subsets):
        counts = onehot[:, rng.permutation(draws)[:votes]].sum(axis=1)
        own = counts[np.arange(len(labels)), labels]
        counts[np.arange(len(labels)), labels] = -1
        wins += own > counts.max(axis=1)
    return wins / subsets


def mcnemar(wins: int, losses: int, *, alternative: str = "two-sided") -> float:
    """Exact McNemar p-value of so many pairs that only the first, and only the second, got right.

    alternative  "two-sided", or "greater" for "wins are the more likely"
    1 without such a pair.
    """
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, alternative=alternative).pvalue)


def holm(p_values: Array) -> Array:
    """P-values adjusted so that one error among all tests is as rare as in one test.

    Source: Holm, Scandinavian Journal of Statistics 6:65, 1979.
    A test without a p-value (NaN) counts as one of the family, with p = 1, and stays NaN.
    """
    known = np.nan_to_num(np.asarray(p_values, dtype=float), nan=1.0)
    order = np.argsort(known, kind="stable")
    steps = np.arange(len(known), 0, -1) * known[order]
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p_values), np.nan, adjusted)
