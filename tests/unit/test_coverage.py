"""Every interval contains the truth about 95 times in 100, at every number of images that runs use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from interval_coverage import (
    METHODS,
    SIZES,
    Population,
    covered,
    differences,
    measurements,
    rates,
    shares,
)

from purification import intervals
from purification.intervals import Array, Pivot
from purification.philox import generator

REPETITIONS = {"mean": 8000}  # 1000 of the others, whose populations are many
# Lowest coverage of a single population, below 40 images and from 40 on: the simulated values of
# methods.md, section 6, less three standard errors of this test. What lowers it: few images give
# few different intervals (wilson, rate), and may hold none of the rare images that differ much
# (difference) or none of the long tail (mean, ratio).
FLOORS = {
    "wilson": (0.84, 0.90),
    "rate": (0.84, 0.90),
    "difference": (0.79, 0.89),
    "mean": (0.90, 0.92),
    "ratio": (0.88, 0.92),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_an_interval_covers_at_its_level(method: str, n: int) -> None:
    found = covered(method, n, REPETITIONS.get(method, 1000))
    assert 0.93 <= found.mean <= 0.97, found
    assert found.lowest >= FLOORS[method][n >= 40], found


@dataclass(frozen=True)
class Percentile:
    """The percentile bootstrap of a mean in its limit of many resamples of many images: the normal interval."""

    values: Array

    def interval(self) -> tuple[Array, Array]:
        half = intervals.Z * self.values.std(axis=-1) / np.sqrt(self.values.shape[-1])
        middle = self.values.mean(axis=-1)
        return middle - half, middle + half

    def greater(self, threshold: float) -> Array:
        raise NotImplementedError

    less = greater


@pytest.mark.parametrize("population", [shares, rates, differences, measurements])
def test_the_simulation_finds_an_interval_that_is_too_short(
    population: Callable[[], Iterator[Population]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "short", (Percentile, population))
    assert covered("short", 10, 500).mean < 0.93


def rates_of_nine() -> Array:
    return generator(0, "coverage", "score").integers(0, 5, (200, 9)) / 4


def skewed(stream: str) -> Array:
    return generator(0, "coverage", stream).lognormal(0.2, 0.8, (200, 9))


PIVOTS: dict[str, Callable[[], Pivot]] = {
    "score": lambda: intervals.score_of(rates_of_nine()),
    "scaled": lambda: intervals.Scaled(intervals.score_of(rates_of_nine()), -1.0, 2.0),
    "normal": lambda: intervals.normal_of(2.0 * rates_of_nine() - 1.0),
    "student": lambda: intervals.student_of(skewed("student")),
    "fieller": lambda: intervals.fieller_of(skewed("above"), 0.1 * skewed("below") + 1.0),
}


@pytest.mark.parametrize("name", PIVOTS)
def test_a_threshold_is_outside_an_interval_exactly_where_its_test_rejects(name: str) -> None:
    pivot = PIVOTS[name]()
    low, high = pivot.interval()
    for threshold in generator(0, "coverage", "thresholds").uniform(low.min(), high.max(), 40):
        np.testing.assert_array_equal(pivot.greater(threshold) < intervals.TAIL, low > threshold)
        np.testing.assert_array_equal(pivot.less(threshold) < intervals.TAIL, high < threshold)
