"""Certified bounds and the area under the curve, against closed forms, coverage and another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from purification.anomaly.auroc import auroc, difference, wins
from purification.anomaly.smoothing import certified_bounds, quantile_bounds, shifted
from purification.philox import generator


def test_a_linear_score_is_certified_by_exactly_the_radius() -> None:
    """A(x) = w.x, ||w|| = 1: h_p(x + d) moves by at most r, and the bounds at p = .5 are x - r and x + r."""
    assert norm.ppf(shifted(0.5, -0.2 / 0.5)) * 0.5 == pytest.approx(-0.2)
    samples = 1.3 + 0.5 * norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    lower, upper = certified_bounds(samples, percentile=0.5, radius=0.2, sigma=0.5, failure=0.5)
    assert lower == pytest.approx(1.1, abs=1e-3) and upper == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("n", [5, 60, 1000])
def test_order_statistics_are_the_tightest_that_are_sure_enough(n: int, quantile: float) -> None:
    """Of samples 1..n: k is the largest number with P(Bin(n, q) <= k - 1) <= failure, summed term by term."""
    lower, upper = quantile_bounds(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), quantile, 0.01)
    chance = [0.0, *np.cumsum(binom.pmf(np.arange(n), n, quantile))]  # P(Bin <= k - 1)
    fits = [k for k in range(1, n + 1) if chance[k] <= 0.01]
    assert lower == (fits[-1] if fits else -math.inf)
    over = [k for k in range(1, n + 1) if 1 - chance[k] <= 0.01]
    assert upper == (over[0] if over else math.inf)


@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_bounds_hold_as_often_as_they_say(radius: float) -> None:
    """1000 experiments of 200 samples of a normal: either bound is wrong in at most 5 % of them, and not never."""
    rng, wrong = np.random.default_rng(1), [0, 0]
    for _ in range(1000):
        lower, upper = certified_bounds(
            rng.standard_normal(200), percentile=0.5, radius=radius, sigma=1.0, failure=0.05
        )
        wrong[0] += lower > -radius
        wrong[1] += upper < radius
    assert all(10 < count <= 65 for count in wrong), wrong


def test_no_bound_where_the_samples_are_too_few() -> None:
    """A radius of 4 sigma needs a quantile of 3e-5: 100 samples say nothing about it."""
    assert certified_bounds(np.arange(100.0), percentile=0.5, radius=4.0, sigma=1.0, failure=0.01) == (
        -math.inf, math.inf,
    )  # fmt: skip


def test_bounds_widen_with_the_radius_and_close_in_with_samples() -> None:
    samples = np.random.default_rng(2).standard_normal(4000)
    widths = [
        np.diff(certified_bounds(samples, percentile=0.5, radius=r, sigma=1.0, failure=0.01))[0]
        for r in (0.0, 0.5, 1.0)
    ]
    assert widths[0] < widths[1] < widths[2]
    few = np.diff(certified_bounds(samples[:200], percentile=0.5, radius=0.5, sigma=1.0, failure=0.01))[0]
    assert few > widths[1]


def test_the_certified_auroc_of_two_gaussians() -> None:
    """Scores N(0, 1) and N(2, 1) of a linear detector, r = .2: .9214 clean and .8711 certified."""
    rng = np.random.default_rng(3)
    normal, anomalous = rng.standard_normal(400), 2.0 + rng.standard_normal(400)
    quantiles = 0.5 * norm.ppf((np.arange(20_001) + 0.5) / 20_001)

    def certified(radius: float) -> float:
        options = {"percentile": 0.5, "radius": radius, "sigma": 0.5, "failure": 0.49}
        low, high = certified_bounds(quantiles, **options)
        return float(wins((anomalous + low)[:, None], (normal + high)[:, None]).mean())

    for radius, answer in ((0.0, 0.9214), (0.2, 0.8711)):
        assert norm.cdf((2 - 2 * radius) / math.sqrt(2)) == pytest.approx(answer, abs=5e-5)
        assert certified(radius) == pytest.approx(answer, abs=0.03)
    exact = wins((anomalous - 0.2)[:, None], (normal + 0.2)[:, None]).mean()
    assert certified(0.2) == pytest.approx(exact, abs=0.002)


# --- area under the curve


def test_the_area_is_that_of_another_implementation() -> None:
    rng = np.random.default_rng(4)
    anomalous, normal = rng.integers(0, 6, (30, 3)).astype(float) + 1, rng.integers(0, 6, (20, 3)).astype(float)
    truth = [1] * 30 + [0] * 20
    areas = [roc_auc_score(truth, np.concatenate([anomalous[:, d], normal[:, d]])) for d in range(3)]
    won = wins(anomalous, normal)
    assert won.mean() == pytest.approx(np.mean(areas))
    estimate = auroc(won, np.arange(30), 100 + np.arange(20))
    assert estimate.value == pytest.approx(np.mean(areas)) and estimate.n == 50
    assert estimate.low <= estimate.value <= estimate.high


def test_infinite_bounds_lose_and_ties_count_half() -> None:
    inf = math.inf
    assert wins(np.array([[-inf], [1.0]]), np.array([[inf], [1.0]])).tolist() == [[0.0, 0.0], [0.0, 0.5]]


def test_one_class_has_no_area() -> None:
    with pytest.raises(ValueError, match="expected anomalies and normal images, got 0 and 3"):
        wins(np.zeros((0, 1)), np.zeros((3, 1)))


def test_the_interval_is_that_of_independent_images() -> None:
    """Width against the exact deviation of the area of n normal and m anomalous scores with equal distributions."""
    rng = np.random.default_rng(5)
    m, n = 60, 80
    found = auroc(wins(rng.random((m, 1)), rng.random((n, 1))), np.arange(m), m + np.arange(n))
    exact = 2 * 1.96 * math.sqrt((m + n + 1) / (12 * m * n))
    assert found.high - found.low == pytest.approx(exact, rel=0.15)


def test_images_made_from_one_source_are_drawn_together() -> None:
    """Four copies of every image: the interval stays that of a fourth of the images, four times as many do not help."""
    rng = np.random.default_rng(6)
    anomalous, normal = 0.3 + rng.random(20), rng.random(20)
    single = auroc(wins(anomalous[:, None], normal[:, None]), np.arange(20), 20 + np.arange(20))
    copies = wins(np.repeat(anomalous, 4)[:, None], np.repeat(normal, 4)[:, None])
    sources = np.repeat(np.arange(20), 4), 20 + np.repeat(np.arange(20), 4)
    clustered = auroc(copies, *sources)
    naive = auroc(copies, np.arange(80), 80 + np.arange(80))
    found = (clustered.value, clustered.low, clustered.high)
    assert found == pytest.approx((single.value, single.low, single.high))
    assert naive.high - naive.low < 0.7 * (clustered.high - clustered.low)


@pytest.mark.parametrize(("anomalies", "normals", "shared"), [(8, 8, 0), (30, 40, 30), (60, 40, 0)])
def test_the_interval_of_an_area_covers_it(anomalies: int, normals: int, shared: int) -> None:
    """Normal scores whose area is .5 to 1; the first anomalies are made from normal images and look like them."""
    mean = []
    for area in (0.5, 0.7, 0.9, 0.97, 1.0):
        hits = [covers(area, (anomalies, normals, shared), repetition) for repetition in range(300)]
        assert np.mean(hits) > 0.92, area
        mean.append(np.mean(hits))
    assert np.mean(mean) < 0.99


def covers(area: float, sizes: tuple[int, int, int], repetition: int) -> bool:
    rng = generator(0, "coverage", f"area {area}", image=repetition)
    anomalies, normals, shared = sizes
    apart = 9.0 if area == 1.0 else math.sqrt(2.0) * float(norm.ppf(area))
    scores = rng.normal(size=normals)
    anomalous = rng.normal(size=anomalies)
    anomalous[:shared] = 0.6 * scores[:shared] + 0.8 * anomalous[:shared]
    found = auroc(
        wins(apart + anomalous[:, None], scores[:, None]),
        np.concatenate([np.arange(shared), 1000 + np.arange(shared, anomalies)]),
        np.arange(normals),
    )
    own = float(norm.cdf(apart / math.sqrt(0.8)))  # of an anomaly and its own source
    pairs = anomalies * normals
    truth = (area * (pairs - shared) + own * shared) / pairs
    return found.low <= truth <= found.high


def test_perfect_separation_and_equal_scores_are_no_certainty() -> None:
    won = np.ones((30, 40))
    sources = np.arange(30), 100 + np.arange(40)
    found = auroc(won, *sources)
    assert found.value == found.high == 1.0 and 0.85 < found.low < 0.95
    same = difference(won, won, *sources)
    assert same.value == 0.0 and same.low == -same.high and 0.03 < same.high < 0.2


def test_the_interval_of_a_difference_of_areas_covers_it() -> None:
    """Two scores of the same images with the same area."""
    rng = generator(0, "coverage", "difference of areas")
    hits = []
    for _ in range(400):
        common = rng.normal(size=60)
        scores = [0.8 * common + 0.6 * rng.normal(size=60) + 1.5 * (np.arange(60) < 30) for _ in range(2)]
        won = [wins(score[:30, None], score[30:, None]) for score in scores]
        found = difference(*won, np.arange(30), np.arange(30, 60))
        hits.append(found.low <= 0.0 <= found.high)
    assert 0.92 < np.mean(hits) < 0.99
