"""The number of images a claim needs: known answers, and consistency with the verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from purification.reporting.claim import judge
from purification.reporting.needed import interval_images, paired_images
from purification.statistics import Estimate

INF = math.inf
# value, low, high, n, above, below -> images
KNOWN = [
    ((0.6, 0.5, 0.7, 100), (0.5, INF), 100),  # ends at the threshold
    ((0.6, 0.4, 0.8, 100), (0.5, INF), 400),  # twice too wide
    ((0.9, 0.8, 1.0, 100), (0.5, INF), 7),  # 100 / 16, rounded up
    ((0.4, 0.3, 0.6, 100), (0.5, INF), 400),  # on the other side: the upper half counts
    ((0.05, -0.1, 0.2, 50), (-INF, 0.2), 50),
    ((0.0, -0.2, 0.1, 50), (-0.1, 0.2), 200),  # both sides, the worse one
    ((0.5, 0.4, 0.6, 50), (0.5, INF), INF),  # at the threshold
    ((0.5, 0.5, 0.5, 50), (0.4, INF), 1),
]


@pytest.mark.parametrize(("estimate", "bounds", "expected"), KNOWN)
def test_known_answers(estimate: tuple[float, ...], bounds: tuple[float, float], expected: float) -> None:
    value, low, high, n = estimate
    found = interval_images(Estimate(value, low, high, int(n)), int(n), above=bounds[0], below=bounds[1])
    assert found == expected


def test_what_is_undetermined_needs_an_unknown_number() -> None:
    assert math.isnan(interval_images(Estimate(math.nan, 0.0, 1.0, 9), 9, above=0.5))
    assert math.isnan(interval_images(Estimate(0.5, math.nan, 1.0, 9), 9, above=0.5))


def test_a_claim_is_decided_exactly_when_it_has_the_images_it_needs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        value, below_value, above_value = rng.normal(), *rng.exponential(size=2)
        bounds = np.sort(rng.normal(size=2))
        found = Estimate(value, value - below_value, value + above_value, 100)
        decided = judge(found, above=bounds[0], below=bounds[1]) != "inconclusive"
        assert decided == (interval_images(found, 100, above=bounds[0], below=bounds[1]) <= 100)


def test_a_paired_test_rejects_with_the_images_it_needs() -> None:
    """Against the exact test at the same shares of wins and losses."""
    for wins, losses in ((60, 40), (10, 30), (7, 1)):
        needed = paired_images(wins, losses, 200)
        for factor, rejects in ((1.5, True), (0.6, False)):
            more, less = (round(count * needed / 200 * factor) for count in (wins, losses))
            assert (binomtest(more, more + less).pvalue < 0.05) == rejects, (wins, losses, factor)
    assert paired_images(60, 40, 200) == math.ceil(1.959964**2 * 100 * 200 / 400)
    assert paired_images(5, 5, 200) == math.inf
