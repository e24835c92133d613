"""Confidence intervals and the one-sided tests that they rest on, for means over images.

Every class holds what its test needs, as arrays of one shape: one entry per sample, so that many
samples can be judged at once. `interval` gives both ends at CONFIDENCE, `greater` and `less` give
one-sided p-values. A threshold is outside the interval exactly where one of the two is below TAIL.
Simulated coverage: methods.md, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Array = NDArray[Any]
CONFIDENCE = 0.95
TAIL = (1.0 - CONFIDENCE) / 2.0  # one-sided level of every verdict
Z = float(norm.ppf(1.0 - TAIL))


class Pivot(Protocol):
    """A statistic whose distribution is known, so that it gives an interval and p-values."""

    def interval(self) -> tuple[Array, Array]:
        """Lower and upper ends; NaN where the sample determines none."""

    def greater(self, threshold: float) -> Array:
        """One-sided p-value of "the mean is greater than the threshold"."""

    def less(self, threshold: float) -> Array:
        """One-sided p-value of "the mean is less than the threshold"."""


@dataclass(frozen=True)
class Score:
    """Wilson's score interval (JASA 22:209, 1927) of a mean in [0, 1].

    value   mean
    images  number of independent images that would give its variance if every image were right or wrong
    """

    value: Array
    images: Array

    def interval(self) -> tuple[Array, Array]:
        shrink = 1.0 + Z**2 / self.images
        centre = (self.value + Z**2 / (2.0 * self.images)) / shrink
        spread = self.value * (1.0 - self.value) / self.images + Z**2 / (4.0 * self.images**2)
        half = Z * np.sqrt(spread) / shrink
        # rounding must not put an end on the wrong side of the value
        low = np.clip(np.minimum(centre - half, self.value), 0.0, 1.0)
        high = np.clip(np.maximum(centre + half, self.value), 0.0, 1.0)
        return low, high

    def _score(self, threshold: float) -> Array:
        inside = min(max(threshold, 1e-12), 1.0 - 1e-12)
        return np.asarray((self.value - inside) / np.sqrt(inside * (1.0 - inside) / self.images))

    def greater(self, threshold: float) -> Array:
        return np.asarray(norm.sf(self._score(threshold)))

    def less(self, threshold: float) -> Array:
        return np.asarray(norm.cdf(self._score(threshold)))


@dataclass(frozen=True)
class Scaled:
    """The test of a mean in [0, 1] for one in [low, low + width]."""

    inner: Score
    low: float
    width: float

    def interval(self) -> tuple[Array, Array]:
        low, high = self.inner.interval()
        return self.low + self.width * low, self.low + self.width * high

    def greater(self, threshold: float) -> Array:
        return self.inner.greater((threshold - self.low) / self.width)

    def less(self, threshold: float) -> Array:
        return self.inner.less((threshold - self.low) / self.width)


@dataclass(frozen=True)
class Normal:
    """Normal interval of a mean in [-1, 1] about a centre that was shrunk towards 0."""

    centre: Array
    error: Array

    def interval(self) -> tuple[Array, Array]:
        half = Z * self.error
        return np.maximum(self.centre - half, -1.0), np.minimum(self.centre + half, 1.0)

    def greater(self, threshold: float) -> Array:
        return np.asarray(norm.sf((self.centre - threshold) / self.error))

    def less(self, threshold: float) -> Array:
        return np.asarray(norm.cdf((self.centre - threshold) / self.error))


@dataclass(frozen=True)
class Student:
    """Student's interval of a mean, after a transformation of t that removes its skewness.

    g(t) = t + w t^2 / 3 + w^2 t^3 / 27 + w / 6, with w the skewness over sqrt(n).
    Source: Hall, J. R. Stat. Soc. B 54:221, 1992.

    value, error  mean and its standard error; the error is NaN where all values are equal
    skew          w
    freedom       degrees of freedom, n - 1
    """

    value: Array
    error: Array
    skew: Array
    freedom: int

    def interval(self) -> tuple[Array, Array]:
        quantile = float(t.ppf(1.0 - TAIL, self.freedom))
        return self._end(quantile), self._end(-quantile)

    def _end(self, quantile: float) -> Array:
        """The mean at which g(t) is this quantile."""
        symmetric = np.abs(self.skew) < 1e-9
        w = np.where(symmetric, 1.0, self.skew)
        inverse = 3.0 / w * (np.cbrt(1.0 + w * (quantile - w / 6.0)) - 1.0)
        return np.asarray(self.value - np.where(symmetric, quantile, inverse) * self.error)

    def _transformed(self, threshold: float) -> Array:
        x, w = (self.value - threshold) / self.error, self.skew
        return np.asarray(x + w * x**2 / 3.0 + w**2 * x**3 / 27.0 + w / 6.0)

    def greater(self, threshold: float) -> Array:
        return np.asarray(t.sf(self._transformed(threshold), self.freedom))

    def less(self, threshold: float) -> Array:
        return np.asarray(t.cdf(self._transformed(threshold), self.freedom))


@dataclass(frozen=True)
class Fieller:
    """Interval of a ratio of two paired means (Fieller, J. R. Stat. Soc. B 16:175, 1954).

    It holds every ratio r for which Student's test does not reject that a - r b has mean 0.

    above, below  the means a and b, of which the second is positive
    variances     of a and of b, and their covariance, each divided by n
    NaN where b itself is not known to be positive: the ratio is then unbounded.
    """

    above: Array
    below: Array
    variances: tuple[Array, Array, Array]
    freedom: int

    def interval(self) -> tuple[Array, Array]:
        first, second, both = self.variances
        square = float(t.ppf(1.0 - TAIL, self.freedom)) ** 2
        leading = self.below**2 - square * second
        middle = self.above * self.below - square * both
        last = self.above**2 - square * first
        bounded = (leading > 0.0) & (self.below > 0.0)
        root = np.sqrt(np.maximum(middle**2 - leading * last, 0.0))
        divisor = np.where(bounded, leading, np.nan)
        return np.asarray((middle - root) / divisor), np.asarray((middle + root) / divisor)

    def _t(self, ratio: float) -> Array:
        first, second, both = self.variances
        variance = first - 2.0 * ratio * both + ratio**2 * second
        return np.asarray((self.above - ratio * self.below) / np.sqrt(variance))

    def greater(self, threshold: float) -> Array:
        return np.asarray(t.sf(self._t(threshold), self.freedom))

    def less(self, threshold: float) -> Array:
        return np.asarray(t.cdf(self._t(threshold), self.freedom))


@dataclass(frozen=True)
class Resampled:
    """Percentile interval of a statistic that is no mean, and p-values by counting resamples."""

    samples: Array

    def interval(self) -> tuple[Array, Array]:
        low, high = np.nanpercentile(self.samples, [100.0 * TAIL, 100.0 * (1.0 - TAIL)])
        return low, high

    def _share(self, contrary: Array) -> Array:
        """Share of the resamples against the claim, the sample counted as one of them.

        Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2.
        """
        known = np.isfinite(self.samples)
        return np.asarray((1.0 + (contrary & known).sum()) / (1.0 + known.sum()))

    def greater(self, threshold: float) -> Array:
        return self._share(self.samples <= threshold)

    def less(self, threshold: float) -> Array:
        return self._share(self.samples >= threshold)


def score_of_moments(mean: Array, variance: Array | float, images: float) -> Score:
    """Score interval of a mean in [0, 1] of so many images, whose estimate has this variance.

    Rates between 0 and 1 vary less than images that are right or wrong, so n images count as more:
    n p (1 - p) / s^2, the effective sample size of survey statistics (Korn and Graubard, Survey
    Methodology 24:193, 1998; with Wilson's interval: Dean and Pagano, J. Surv. Stat. Methodol.
    3:484, 2015). p and s^2 are taken with one image added, half of it right and half wrong as in
    Jeffreys' prior, so that equal rates do not count as certainty.
    """
    squares = images * variance + mean**2
    middle = (images * mean + 0.5) / (images + 1.0)
    spread = (images * squares + 0.5) / (images + 1.0) - middle**2
    return Score(mean, np.asarray(images * middle * (1.0 - middle) / spread))


def score_of(rates: Array) -> Score:
    """Score interval of the mean of rates (..., n) in [0, 1], one per image.

    An image may average any number of draws. Where every rate is 0 or 1 the interval is Wilson's.
    """
    n = rates.shape[-1]
    return score_of_moments(rates.mean(axis=-1), rates.var(axis=-1) / n, n)


def normal_of_moments(mean: Array, variance: Array | float, images: float, differing: Array | float = 1.0) -> Normal:
    """Interval of a mean in [-1, 1] of so many differences, whose estimate has this variance.

    Two images are added, one better and one worse by as much as the images that differ do (root
    mean square; by 1 where none differs). For single draws this is the interval of Bonett and
    Price (J. Educ. Behav. Stat. 37:479, 2012).

    differing  share of the images that differ
    """
    squares = images * variance + mean**2
    added = np.where(squares > 0.0, squares / np.where(squares > 0.0, differing, 1.0), 1.0)
    centre = images * mean / (images + 2.0)
    spread = (images * squares + 2.0 * added) / (images + 2.0) - centre**2
    return Normal(np.asarray(centre), np.sqrt(spread / (images + 2.0)))


def normal_of(differences: Array) -> Normal:
    """Interval of the mean of paired differences (..., n) in [-1, 1], one per image."""
    n = differences.shape[-1]
    differing = (np.abs(differences) > 1e-12).mean(axis=-1)
    return normal_of_moments(differences.mean(axis=-1), differences.var(axis=-1) / n, n, differing)


def student_of(values: Array) -> Student:
    """Interval of the mean of values (..., n), n >= 2, of any range."""
    n = values.shape[-1]
    value = values.mean(axis=-1)
    spread = np.where(np.ptp(values, axis=-1) > 0.0, values.std(axis=-1, ddof=1), np.nan)
    cubes = ((values - value[..., None]) ** 3).mean(axis=-1)
    skewness = n**2 / ((n - 1) * max(n - 2, 1)) * cubes / spread**3
    return Student(value, np.asarray(spread / np.sqrt(n)), np.asarray(skewness / np.sqrt(n)), n - 1)


def fieller_of(above: Array, below: Array) -> Fieller:
    """Interval of mean(above) / mean(below) of pairs (..., n), n >= 2."""
    n = above.shape[-1]
    first, second = above.mean(axis=-1), below.mean(axis=-1)
    differences = (above - first[..., None], below - second[..., None])
    factor = 1.0 / (n * (n - 1.0))
    variances = (
        np.asarray(factor * np.square(differences[0]).sum(axis=-1)),
        np.asarray(factor * np.square(differences[1]).sum(axis=-1)),
        np.asarray(factor * (differences[0] * differences[1]).sum(axis=-1)),
    )
    return Fieller(first, second, variances, n - 1)
