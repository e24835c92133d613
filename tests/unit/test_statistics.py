"""Estimators and intervals for robustness numbers, against formulas written out and simulations of known truth."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp, ttest_rel

from purification.statistics import (
    Array,
    Estimate,
    average_robustness,
    difference,
    holm,
    majority_vote,
    mcnemar,
    mean,
    rate,
    ratio,
    resampled,
    wilson,
    worst_of,
)


def draws(probabilities: Array, count: int, seed: int = 0) -> Array:
    """Correctness (n, count) of independent draws with one success probability per image."""
    return np.random.default_rng(seed).random((len(probabilities), count)) < np.asarray(probabilities)[:, None]


# --- intervals


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (20, 20), (237, 1000), (59, 200), (1, 3)])
def test_wilson_interval_is_the_score_interval_written_out(successes: int, n: int) -> None:
    z, p = 1.959963984540054, successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    estimate = wilson(successes, n)
    assert (estimate.value, estimate.n) == (p, n)
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "points"), [(64, 12.0), (256, 6.0), (512, 4.3), (1024, 3.1), (10000, 1.0)])
def test_wilson_half_width_at_one_half(n: int, points: float) -> None:
    estimate = wilson(n // 2, n)
    assert 50 * (estimate.high - estimate.low) == pytest.approx(points, abs=0.15)


@pytest.mark.parametrize(("successes", "n"), [(0, 4), (4, 4), (2, 7), (59, 200)])
def test_a_rate_of_right_and_wrong_images_has_the_interval_of_a_proportion(successes: int, n: int) -> None:
    found = rate(np.arange(n) < successes)
    share = wilson(successes, n)
    assert (found.value, found.n) == (share.value, share.n)
    assert (found.low, found.high) == pytest.approx((share.low, share.high), abs=1e-12)


def test_draws_of_one_image_that_agree_add_nothing() -> None:
    """500 draws of 40 images, all right or all wrong: the width is that of 40 images."""
    found = rate(average_robustness(np.repeat(np.arange(40) % 2, 500).reshape(40, 500)))
    assert (found.low, found.high) == pytest.approx((wilson(20, 40).low, wilson(20, 40).high))


def test_draws_that_differ_make_a_rate_more_certain_but_never_certain() -> None:
    spread = rate(average_robustness(draws(np.full(40, 0.5), 20)))
    assert 0.05 < spread.high - spread.low < 0.6 * (wilson(20, 40).high - wilson(20, 40).low)
    equal = rate(np.full(40, 0.5))
    assert equal.low < 0.49 and equal.high > 0.51


@pytest.mark.parametrize("n", [1, 4, 60])
def test_the_boundary_is_no_certainty(n: int) -> None:
    """All right, all wrong, no difference: an interval of some width, which contains the value."""
    for found in (rate(np.ones(n)), rate(np.zeros(n)), difference(np.zeros(n)), difference(np.ones(n))):
        assert found.low <= found.value <= found.high
        assert found.high - found.low > 0.5 / n
    same = difference(np.zeros(n))
    assert same.low == -same.high


def test_a_difference_of_single_draws_has_the_interval_of_bonett_and_price() -> None:
    """Written out for 12 and 5 of 40 images that only one of two got right."""
    better, worse, n = 13 / 42, 6 / 42, 42
    half = 1.959963984540054 * math.sqrt((better + worse - (better - worse) ** 2) / n)
    found = difference(np.repeat([1.0, -1.0, 0.0], [12, 5, 23]))
    assert found.value == pytest.approx(7 / 40)
    assert (found.low, found.high) == pytest.approx((better - worse - half, better - worse + half))


def test_the_interval_of_a_difference_follows_its_scale() -> None:
    values = np.random.default_rng(3).integers(-4, 5, 60) / 4
    whole, tenth = difference(values), difference(values / 10)
    assert (tenth.low, tenth.high) == pytest.approx((whole.low / 10, whole.high / 10))


def test_a_mean_of_symmetric_values_has_the_interval_of_student() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found, usual = mean(values), ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((3.0, usual.low, usual.high))
    assert mean(values).p_value(above=2.0) == pytest.approx(ttest_1samp(values, 2.0, alternative="greater").pvalue)


def test_the_interval_of_skewed_values_reaches_further_into_the_tail() -> None:
    values = np.random.default_rng(4).exponential(1.0, 30)
    found = mean(values)
    assert found.high - found.value > 1.2 * (found.value - found.low)
    mirrored = mean(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_a_ratio_excludes_one_exactly_where_the_paired_test_rejects() -> None:
    """Fieller's interval: the ratio exceeds 1 where Student's paired test says that the first is greater."""
    rng = np.random.default_rng(5)
    for growth in (0.9, 1.0, 1.05, 1.1, 1.3):
        start = rng.gamma(25.0, 1 / 25, 20)
        end = growth * start + 0.1 * rng.normal(size=20)
        found = ratio(end, start)
        greater = ttest_rel(end, start, alternative="greater").pvalue
        assert found.p_value(above=1.0) == pytest.approx(greater)
        assert (found.low > 1.0) == (greater < 0.025)


# --- what cannot be computed


UNDETERMINED = [
    mean(np.array([3.0])),
    mean(np.full(5, 3.0)),
    mean(np.array([])),
    mean(np.full(3, np.nan)),
    mean(np.array([1.0, np.inf])),
    rate(np.array([])),
    difference(np.array([])),
    wilson(0, 0),
    ratio(np.array([2.0]), np.array([1.0])),
    ratio(np.array([2.0, 4.0]), np.array([1.0, 2.0])),
    ratio(np.array([1.0, 2.0]), np.zeros(2)),
    ratio(np.array([1.0, 2.0]), np.array([-1.0, 1.5])),
    resampled(0.5, np.full(9, np.nan), 4),
]


@pytest.mark.parametrize("found", UNDETERMINED, ids=str)
def test_what_determines_no_interval_has_none(found: Estimate) -> None:
    assert math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(found.p_value(above=0.0)) and math.isnan(found.p_value(below=9.0))


def test_undefined_values_are_left_out_and_not_counted() -> None:
    values = np.array([1.0, np.nan, 3.0, 2.0])
    assert mean(values) == mean(np.array([1.0, 3.0, 2.0])) and mean(values).n == 3
    assert rate(np.array([np.nan, 1.0])) == rate(np.array([1.0]))
    assert ratio(values, np.array([1.0, 1.0, np.nan, 1.5])).n == 2


def test_equal_values_of_a_finite_range_have_the_interval_of_as_many_rates() -> None:
    found = mean(np.ones(10), low=-1.0, high=1.0)
    share = wilson(10, 10)
    assert (found.low, found.high) == pytest.approx((2.0 * share.low - 1.0, 1.0))
    assert found.p_value(above=0.0) == pytest.approx(share.p_value(above=0.5))


def test_an_interval_stays_in_the_range_of_its_values() -> None:
    found = mean(np.array([0.99, 1.0, 0.2]), low=-1.0, high=1.0)
    assert found.low == -1.0 and found.high == 1.0


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], got 0.5 to 1.2"):
        rate(np.array([0.5, 1.2]))


# --- p-values


def test_a_range_is_shown_by_the_weaker_of_its_two_sides() -> None:
    found = mean(np.random.default_rng(6).normal(0.0, 1.0, 50))
    sides = found.p_value(above=-0.5), found.p_value(below=0.7)
    assert found.p_value(above=-0.5, below=0.7) == max(sides)
    assert math.isnan(found.p_value())


def test_resamples_are_counted_with_the_sample_itself() -> None:
    found = resampled(0.5, np.array([0.1, 0.4, 0.6, np.nan, 0.9]), 7)
    assert found.p_value(above=0.4) == (1 + 2) / 5
    assert found.p_value(below=1.0) == 1 / 5


def test_holm_written_out() -> None:
    """Smallest of four times 4, the next times 3, never below the one before; what is unknown is one of the family."""
    found = holm(np.array([0.02, 0.001, np.nan, 0.019]))
    assert found[[0, 1, 3]] == pytest.approx([0.057, 0.004, 0.057])
    assert math.isnan(found[2])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


# --- repeated attempts


def test_average_robustness_is_the_mean_per_image() -> None:
    correct = np.array([[True, True, False, True], [False] * 4])
    assert average_robustness(correct).tolist() == [0.75, 0.0]
    assert np.isnan(average_robustness(np.zeros((2, 0)))).all()


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_worst_of_counts_the_subsets_of_draws_without_a_failure(attempts: int) -> None:
    correct = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)
    subsets = list(combinations(range(5), attempts))
    expected = [np.mean([row[list(subset)].all() for subset in subsets]) for row in correct]
    assert worst_of(correct, attempts).tolist() == pytest.approx(expected, abs=1e-12)


def test_worst_of_is_unbiased_exactly() -> None:
    """Its expectation over k ~ Binomial(20, .9) is .9^10 = .3487; the plug-in (k / M)^N would give .43."""
    k = np.arange(21)
    correct = np.arange(20)[None, :] < k[:, None]
    mass = binom.pmf(k, 20, 0.9)
    assert float(mass @ worst_of(correct, 10)) == pytest.approx(0.9**10, abs=1e-10) == pytest.approx(0.3487, abs=5e-5)
    assert float(mass @ (k / 20) ** 10) == pytest.approx(0.4325, abs=2e-3)


def test_worst_of_is_unbiased_in_simulation() -> None:
    estimate = worst_of(draws(np.full(20_000, 0.9), 20), 10)
    assert float(estimate.mean()) == pytest.approx(0.3487, abs=4 * float(estimate.std()) / math.sqrt(20_000))


def test_worst_of_one_is_the_average_and_fewer_successes_than_attempts_give_zero() -> None:
    correct = draws(np.linspace(0, 1, 50), 20)
    np.testing.assert_allclose(worst_of(correct, 1), average_robustness(correct), atol=1e-12)
    k = correct.sum(axis=1)
    for attempts in (5, 20):
        assert (worst_of(correct, attempts)[k < attempts] == 0).all()
        np.testing.assert_allclose(worst_of(correct, attempts)[k == 20], 1.0, rtol=1e-12)


def test_worst_of_cannot_rise_with_the_number_of_attempts() -> None:
    correct = draws(np.random.default_rng(5).beta(0.5, 0.5, 300), 20)
    values = np.array([worst_of(correct, attempts) for attempts in range(1, 21)])
    assert (np.diff(values, axis=0) <= 1e-12).all() and values.min() >= 0 and values.max() <= 1 + 1e-12


def test_average_and_worst_of_ten_under_a_beta_law() -> None:
    """P ~ Beta(.5, .5): E P = .5 and E P^10 = C(20, 10) / 4^10 = .176."""
    correct = draws(np.random.default_rng(6).beta(0.5, 0.5, 20_000), 20)
    assert float(average_robustness(correct).mean()) == pytest.approx(0.498, abs=0.01)
    assert float(worst_of(correct, 10).mean()) == pytest.approx(math.comb(20, 10) / 4**10, abs=0.008)


# --- votes


def votes_of(rows: list[list[int]], labels: list[int], votes: int) -> list[float]:
    return majority_vote(np.array(rows), np.array(labels), votes, subsets=400, seed=0).tolist()


@pytest.mark.parametrize(
    ("predictions", "label", "expected"),
    [
        ([1, 1, 1], 1, 1.0),
        ([1, 1, 0], 1, 1.0),
        ([1, 0, 0], 1, 0.0),
        ([0, 1, 2], 1, 0.0),
        ([1, 1, 0, 0], 1, 0.0),
        ([1, 1, 0, 2], 1, 1.0),
        ([2, 2, 2], 5, 0.0),
    ],
    ids=["unanimous", "majority", "minority", "three-way tie", "tie", "plurality", "label never predicted"],
)
def test_a_vote_of_all_draws_needs_a_strict_plurality(predictions: list[int], label: int, expected: float) -> None:
    assert votes_of([predictions], [label], len(predictions)) == [expected]


def test_one_vote_is_the_average() -> None:
    wins = votes_of([[1, 1, 1, 0], [0, 0, 0, 0]], [1, 1], 1)
    assert wins == pytest.approx([0.75, 0.0], abs=4 * 0.433 / math.sqrt(400))


def test_votes_are_averaged_over_subsets_of_the_draws() -> None:
    """3 of 5 draws right; a subset of three wins with at least two of them: 7 of the 10 subsets."""
    assert votes_of([[1, 1, 1, 0, 0]], [1], 3) == pytest.approx([0.7], abs=4 * math.sqrt(0.21 / 400))


def test_voting_moves_every_probability_towards_0_or_1() -> None:
    wins = [binom.sf(4, 9, p) for p in (0.3, 0.7)]
    rng = np.random.default_rng(7)
    predictions = (rng.random((4000, 9)) < np.repeat([0.3, 0.7], 2000)[:, None]).astype(int)
    vote = majority_vote(predictions, np.ones(4000, dtype=int), 9, subsets=1, seed=0)
    assert [vote[:2000].mean(), vote[2000:].mean()] == pytest.approx(wins, abs=4 * 0.5 / math.sqrt(2000))
    assert wins[0] < 0.3 and wins[1] > 0.7


@pytest.mark.parametrize("votes", [1, 3, 9])
def test_surviving_n_attempts_is_harder_than_winning_a_vote_of_n(votes: int) -> None:
    correct = draws(np.random.default_rng(8).beta(0.5, 0.5, 400), 9)
    vote = majority_vote(correct.astype(int), np.ones(400, dtype=int), votes, subsets=300, seed=0)
    assert (worst_of(correct, votes) <= vote + (votes < 9) * 4 * 0.5 / math.sqrt(300)).all()


@pytest.mark.parametrize("count", [0, 6])
def test_more_attempts_or_votes_than_draws_are_refused(count: int) -> None:
    correct = np.ones((3, 5), dtype=int)
    with pytest.raises(ValueError, match=f"expected 1 <= N <= M = 5 draws, got N = {count}"):
        worst_of(correct, count)
    with pytest.raises(ValueError, match=f"expected 1 <= K <= M = 5 draws, got K = {count}"):
        majority_vote(correct, np.ones(3, dtype=int), count, subsets=1, seed=0)


# --- paired comparison and selection bias


@pytest.mark.parametrize(("wins", "losses"), [(1, 5), (5, 1), (10, 30), (3, 3), (0, 1), (25, 2), (0, 0)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(wins: int, losses: int) -> None:
    n = wins + losses
    chances = [math.comb(n, i) / 2**n for i in range(n + 1)]
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, 2 * sum(chances[: min(wins, losses) + 1])))
    assert mcnemar(wins, losses) == mcnemar(losses, wins)
    assert mcnemar(wins, losses, alternative="greater") == pytest.approx(sum(chances[wins:]))


def test_reporting_the_draws_that_chose_the_attack_overstates_it() -> None:
    """True success .3 everywhere: the best of 50 ten-draw estimates is .642, fresh draws of the same pick give .3."""
    rng = np.random.default_rng(9)
    chosen_on = rng.binomial(10, 0.3, (20_000, 50)) / 10
    levels = np.arange(11)
    expected = float((levels / 10) @ np.diff(binom.cdf(np.arange(-1, 11), 10, 0.3) ** 50))
    assert float(chosen_on.max(axis=1).mean()) == pytest.approx(expected, abs=4e-3) == pytest.approx(0.642, abs=4e-3)
    fresh = 1 - average_robustness(draws(np.full(20_000, 0.7), 10, seed=10))
    assert float(fresh.mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 200_000))
