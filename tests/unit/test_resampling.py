"""Variances over purifiers and groups of them: known formulas, two groupings at once, the widest
interval and its p.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t

from purification.resampling import (
    EXPLAINED,
    FISHER,
    GROUPS,
    LOGARITHM,
    PLAIN,
    PURIFIERS,
    Scale,
    Spread,
    Widest,
    from_spreads,
    grouped_variance,
    jackknife,
    over_purifiers,
    usable,
)
from purification.statistics import Array

NUMBERS = np.random.default_rng(0).normal(2.0, 1.0, 24)
STARS = np.repeat(np.arange(8), 3)
SAMPLERS = np.tile(np.arange(6), 4)


def mean_of(numbers: Array) -> Callable[[Array], float]:
    return lambda kept: float(numbers[kept].mean())


def test_the_jackknife_of_a_mean_is_its_squared_standard_error() -> None:
    assert jackknife(mean_of(NUMBERS), np.arange(24)) == pytest.approx(NUMBERS.var(ddof=1) / 24, rel=1e-12)


def test_leaving_out_equal_groups_is_the_squared_standard_error_of_their_means() -> None:
    means = NUMBERS.reshape(8, 3).mean(axis=1)
    assert jackknife(mean_of(NUMBERS), STARS) == pytest.approx(means.var(ddof=1) / 8, rel=1e-12)


def test_a_rest_without_a_value_makes_the_variance_infinite() -> None:
    assert jackknife(lambda kept: math.nan if kept.sum() < 24 else 1.0, STARS) == math.inf


def test_two_groupings_add_up_less_what_both_contain() -> None:
    found = grouped_variance(lambda labels: jackknife(mean_of(NUMBERS), labels), {"t*": STARS, "sampler": SAMPLERS})
    parts = [jackknife(mean_of(NUMBERS), labels) for labels in (STARS, SAMPLERS, np.arange(24))]
    assert found is not None
    assert found[0] == pytest.approx(parts[0] + parts[1] - parts[2]) and found[1] == 7


def test_groupings_that_cannot_be_left_out_are_not_used() -> None:
    few, most = np.repeat([0, 1, 2], 8), np.array([0] * 13 + list(range(1, 12)))
    assert list(usable({"few": few, "most": most, "t*": STARS})) == ["t*"]
    assert grouped_variance(lambda labels: 1.0, {"few": few, "most": most}) is None
    assert grouped_variance(lambda labels: math.inf, {"t*": STARS, "sampler": SAMPLERS}) is None


def test_a_purifier_without_a_common_label_is_a_group_of_its_own() -> None:
    assert len(np.unique(usable({"t*": ["10", "10", "a", "b", "c"]})["t*"])) == 4


@pytest.mark.parametrize(
    ("scale", "value"),
    [(PLAIN, -0.4), (FISHER, -0.7), (EXPLAINED, 0.93), (EXPLAINED, -2.0), (LOGARITHM, 0.05)],
)
def test_a_scale_leads_back_and_increases(scale: Scale, value: float) -> None:
    assert scale.back(scale.there(value)) == pytest.approx(value)
    assert scale.there(value) < scale.there(value + 0.01)


def test_the_interval_is_the_widest_and_the_p_value_agrees_with_it() -> None:
    spreads = (
        Spread(PURIFIERS, 0.04, 20.0),
        Spread(GROUPS, 0.09, 5.0),
        Spread("images", 0.01, 99.0),
    )
    found = from_spreads(1.0, spreads, 24, PLAIN)
    half = t.ppf(0.975, 5) * 0.3
    assert (found.low, found.high, found.n) == (
        pytest.approx(1.0 - half),
        pytest.approx(1.0 + half),
        24,
    )
    assert found.p_value(above=1.0 - half) == pytest.approx(0.025)
    assert found.p_value(below=1.0 + half) == pytest.approx(0.025)
    assert found.p_value(above=0.9 - half) < 0.025 < found.p_value(above=1.1 - half)
    assert found.p_value(above=2.0) == pytest.approx(t.cdf(1.0 / 0.3, 5))
    assert isinstance(found.pivot, Widest)
    assert found.pivot.intervals()[PURIFIERS][0] == pytest.approx(1.0 - t.ppf(0.975, 20) * 0.2)


def test_of_two_spreads_of_a_unit_the_wider_one_is_shown() -> None:
    narrow, wide = Spread(PURIFIERS, 0.01, 9.0), Spread(PURIFIERS, 0.04, 9.0)
    assert Widest(0.0, (narrow, wide), PLAIN).intervals() == Widest(0.0, (wide,), PLAIN).intervals()


def test_a_value_without_an_interval_says_why() -> None:
    nothing = over_purifiers(lambda kept: math.nan, 24, {"t*": STARS}, scale=PLAIN)
    assert nothing.n == 24 and math.isnan(nothing.low) and nothing.reason == "the purifiers give no number"
    fragile = over_purifiers(lambda kept: 1.0 if kept.all() else math.nan, 24, {"t*": STARS}, scale=PLAIN)
    assert fragile.value == 1.0 and math.isnan(fragile.high)
    assert fragile.reason == "leaving out a purifier leaves too little for it"
    end = over_purifiers(lambda kept: 1.0, 24, {"t*": STARS}, scale=FISHER)
    assert math.isnan(end.low) and math.isnan(end.p_value(above=0.5))
    assert end.reason == "a value at the end of its range has no interval"


def covered(star: float, sampler: float, units: tuple[str, ...], sweeps: int = 400) -> float:
    """Share of simulated means over purifiers, alike by t* and by sampler, whose interval contains
    the truth.
    """
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(sweeps):
        alike = np.sqrt(star) * rng.normal(size=8)[STARS] + np.sqrt(sampler) * rng.normal(size=6)[SAMPLERS]
        numbers = alike + np.sqrt(1.0 - star - sampler) * rng.normal(size=24)
        found = over_purifiers(mean_of(numbers), 24, {"t*": STARS, "sampler": SAMPLERS}, scale=PLAIN)
        assert isinstance(found.pivot, Widest)
        chosen = [found.pivot.intervals()[unit] for unit in units]
        hits += min(low for low, _ in chosen) <= 0.0 <= max(high for _, high in chosen)
    return hits / sweeps


@pytest.mark.parametrize(
    ("star", "sampler", "units"),
    [(0.0, 0.0, (PURIFIERS,)), (0.5, 0.0, (PURIFIERS, GROUPS)), (0.3, 0.3, (PURIFIERS, GROUPS))],
    ids=["independent", "alike by t*", "alike by both"],
)
def test_intervals_over_purifiers_cover_the_truth(star: float, sampler: float, units: tuple[str, ...]) -> None:
    assert 0.93 <= covered(star, sampler, units) <= 0.97


def test_single_purifiers_as_units_miss_what_groups_of_them_share() -> None:
    assert covered(0.5, 0.0, (PURIFIERS,)) < 0.85
