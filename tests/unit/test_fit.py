"""The compression-robustness sigmoid: known parameters, lmfit as an independent fit, coverage, and
no fit at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmfit
import numpy as np
import pytest
from law_simulation import FACTORS, Scatter, judged
from law_simulation import RATES as DESIGN
from scipy.stats import t

from purification.fit import Fit, Undetermined, fit_sigmoid, undetermined_accuracies
from purification.resampling import GROUPS, IMAGES, PURIFIERS
from purification.sigmoids import FORMS, anchored, family, logistic, scaled
from purification.statistics import Array

RATES = np.array([0.13, 0.18, 0.24, 0.3, 0.36, 0.45, 0.55, 0.7, 0.85, 1.0])
COUNTS = [400] * len(RATES)
CLEAN = 0.9
CURVES: dict[str, Callable[..., Array]] = {
    "scaled": scaled,
    "anchored": anchored(CLEAN),
    "logistic": logistic,
}
TRUTH: dict[str, dict[str, float]] = {
    "scaled": {"k": 13.2, "c": 0.31, "A": 0.88},
    "anchored": {"k": 9.0, "c": 0.35},
    "logistic": {"k": 13.2, "c": 0.151},
}
each_form = pytest.mark.parametrize("form", FORMS)


def truth(form: str, rates: Array = RATES) -> Array:
    return CURVES[form](rates, *TRUTH[form].values())


def observed(form: str, seed: int, n: int = 400) -> list[float]:
    return (np.random.default_rng(seed).binomial(n, truth(form)) / n).tolist()


def tried(form: str, robust: Any, rates: Any = RATES, counts: Any = COUNTS) -> Fit | Undetermined:
    return fit_sigmoid(form, list(rates), list(robust), list(counts), clean=CLEAN)


def fit(form: str, robust: Any, rates: Any = RATES, counts: Any = COUNTS) -> Fit:
    found = tried(form, robust, rates, counts)
    assert isinstance(found, Fit), found
    return found


@pytest.mark.parametrize(
    ("form", "rates", "expected"),
    [
        ("logistic", [0.151, -1e3, 1e3], [0.5, 1.0, 0.0]),
        ("scaled", [0.31, -1e3, 1e3], [0.44, 0.88, 0.0]),
        ("anchored", [0.0, 0.35], [0.9, 0.45 * (1 + np.exp(-9 * 0.35))]),
    ],
)
def test_curves_have_the_known_values(form: str, rates: list[float], expected: list[float]) -> None:
    assert truth(form, np.array(rates)).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_two_points_determine_a_logistic_curve() -> None:
    """(0, .88) and (.24, .237) give k = 13.2 and c = .151; it is 50 % at .15 and 3.6 % at .40."""
    curve = logistic(np.array([0.0, 0.24, 0.15, 0.40]), 13.2, 0.151)
    assert curve.tolist() == pytest.approx([0.88, 0.237, 0.5, 0.036], abs=5e-3)


@each_form
def test_noiseless_data_give_back_the_parameters(form: str) -> None:
    fitted = fit(form, truth(form))
    assert dict(zip(fitted.names, fitted.parameters, strict=True)) == pytest.approx(TRUTH[form], rel=1e-4)
    assert fitted.r_squared == pytest.approx(1, abs=1e-7) and fitted.chi_squared == pytest.approx(0, abs=1e-6)
    assert (fitted.form, fitted.n) == (form, len(RATES))
    np.testing.assert_allclose(fitted.predict(RATES), truth(form), atol=1e-5)


@pytest.mark.parametrize("counts", [COUNTS, [50, 1000, 200, 400, 30, 400, 100, 800, 60, 400]], ids=["equal", "unequal"])
@each_form
def test_values_and_standard_errors_are_those_of_lmfit(form: str, counts: list[int]) -> None:
    """lmfit with the weights of the fitted curve itself, 1 / sqrt(p (1 - p) / n), must find the
    same optimum.
    """
    robust = [np.random.default_rng(1).binomial(n, p) / n for n, p in zip(counts, truth(form), strict=True)]
    fitted = fit(form, robust, counts=counts)
    p, n = fitted.predict(RATES), np.array(counts, dtype=float)
    sigma = np.sqrt(np.maximum(p * (1 - p), 1 / n) / n)
    curve, names = CURVES[form], list(TRUTH[form])
    arguments = {"k": "k", "c": "c", "A": "top"}
    model = lmfit.Model(lambda cr, k, c, top=1.0: curve(cr, k, c, top) if form == "scaled" else curve(cr, k, c))
    start = model.make_params(k=10, c=0.25, top={"value": 0.9, "vary": form == "scaled"})
    reference = model.fit(np.array(robust), start, cr=RATES, weights=1 / sigma, scale_covar=False)
    values = [reference.params[arguments[name]].value for name in names]
    errors = [reference.params[arguments[name]].stderr for name in names]
    assert fitted.parameters.tolist() == pytest.approx(values, rel=2e-3)
    assert np.sqrt(np.diag(fitted.covariance)).tolist() == pytest.approx(errors, rel=1e-2)
    assert fitted.chi_squared == pytest.approx(reference.redchi, rel=1e-3)
    width = t.ppf(0.975, len(RATES) - len(names)) * fitted.errors
    np.testing.assert_allclose([fitted.low, fitted.high], [fitted.parameters - width, fitted.parameters + width])


def test_standard_errors_of_scattered_points_are_those_that_lmfit_scales() -> None:
    """lmfit with scale_covar multiplies the covariance by the reduced chi-squared."""
    robust = truth("scaled") + 0.1 * np.sin(9.0 * np.arange(len(RATES))) * np.sqrt(truth("scaled"))
    fitted = fit("scaled", robust)
    sigma = np.sqrt(np.maximum(fitted.predict(RATES) * (1 - fitted.predict(RATES)), 1 / 400) / 400)
    model = lmfit.Model(scaled)
    start = model.make_params(k=10, c=0.25, top=0.9)
    reference = model.fit(robust, start, cr=RATES, weights=1 / sigma, scale_covar=True)
    assert fitted.chi_squared == pytest.approx(reference.redchi, rel=1e-3) and fitted.chi_squared > 2
    errors = [reference.params[name].stderr for name in ("k", "c", "top")]
    assert fitted.errors.tolist() == pytest.approx(errors, rel=1e-2)
    width = t.ppf(0.975, len(RATES) - 3) * fitted.errors
    np.testing.assert_allclose(fitted.high - fitted.low, 2 * width)


@each_form
def test_the_slopes_of_a_form_are_its_derivatives(form: str) -> None:
    chosen = family(form, CLEAN)
    parameters = np.array(list(TRUTH[form].values()))
    for place in range(len(parameters)):
        step = 1e-6 * np.eye(len(parameters))[place]
        up, down = (chosen.curve(RATES, *(parameters + sign * step)) for sign in (1, -1))
        slope = chosen.slope(RATES, *parameters)[:, place]
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


def test_weighted_r_squared_is_one_minus_the_explained_part() -> None:
    robust = np.array(observed("logistic", 2))
    fitted = fit("logistic", robust)
    p = fitted.predict(RATES)
    weights = 400 / np.maximum(p * (1 - p), 1 / 400)
    mean = (weights * robust).sum() / weights.sum()
    expected = 1 - (weights * (robust - p) ** 2).sum() / (weights * (robust - mean) ** 2).sum()
    assert fitted.r_squared == pytest.approx(expected, rel=1e-3) and 0.9 < fitted.r_squared < 1


@pytest.mark.parametrize("robust", [observed("scaled", 3), observed("logistic", 4)], ids=["scaled", "logistic"])
def test_the_anchored_form_passes_through_the_clean_accuracy(robust: list[float]) -> None:
    fitted = fit("anchored", robust)
    assert float(fitted.predict(np.zeros(1))[0]) == pytest.approx(CLEAN, rel=1e-12)
    low, high = fitted.band(np.zeros(1), level=0.95)
    assert (low[0], high[0]) == pytest.approx((CLEAN, CLEAN), abs=1e-9)


@each_form
def test_parameter_intervals_cover_the_truth_and_errors_are_the_spread_of_repeated_experiments(
    form: str,
) -> None:
    expected = np.array(list(TRUTH[form].values()))
    fits = [fit(form, observed(form, 100 + seed)) for seed in range(100)]
    coverage = np.mean([(f.low <= expected) & (expected <= f.high) for f in fits], axis=0)
    assert (coverage >= 0.9).all()  # Student intervals around known variances: 95 % or slightly more
    estimates = np.array([f.parameters for f in fits])
    errors = np.mean([np.sqrt(np.diag(f.covariance)) for f in fits], axis=0)
    np.testing.assert_allclose(estimates.std(axis=0), errors, rtol=0.25)
    assert (np.abs(estimates.mean(axis=0) - expected) < 4 * errors / 10).all()


@each_form
def test_the_band_is_the_delta_method_and_covers_the_curve(form: str) -> None:
    grid, covered = np.linspace(0.15, 0.8, 14), np.zeros(14)
    for seed in range(60):
        low, high = fit(form, observed(form, 300 + seed)).band(grid, level=0.95)
        covered += (low <= truth(form, grid)) & (truth(form, grid) <= high)
    assert covered.mean() / 60 == pytest.approx(0.95, abs=0.05)
    fitted = fit(form, observed(form, 7))
    freedom = fitted.n - len(fitted.names)
    widths = [np.subtract(*fitted.band(grid, level=level)[::-1]) for level in (0.5, 0.95)]
    np.testing.assert_allclose(widths[0] / widths[1], t.ppf(0.75, freedom) / t.ppf(0.975, freedom), rtol=1e-9)


def test_the_band_of_a_logistic_is_known_in_closed_form() -> None:
    fitted = fit("logistic", observed("logistic", 8))
    k, c = fitted.parameters
    p = fitted.predict(RATES)
    slope = -(p * (1 - p)) * np.array([RATES - c, np.full(len(RATES), -k)])  # by k and by c
    scale = max(fitted.chi_squared, 1.0)
    spread = np.sqrt(scale * np.einsum("ip,ij,jp->p", slope, fitted.covariance, slope))
    np.testing.assert_allclose(fitted.band(RATES, level=0.95)[1] - p, t.ppf(0.975, fitted.n - 2) * spread, rtol=1e-4)


# --- points that determine nothing


@pytest.mark.parametrize(("form", "points"), [("scaled", 3), ("anchored", 2), ("logistic", 2)])
def test_as_many_points_as_parameters_determine_no_curve(form: str, points: int) -> None:
    found = tried(form, truth(form)[:points], RATES[:points], COUNTS[:points])
    assert found == Undetermined(form, points, f"{points} usable points, {points + 1} are needed")
    more = tried(form, truth(form)[: points + 1], RATES[: points + 1], COUNTS[: points + 1])
    assert isinstance(more, Fit) and more.n == points + 1


SAMPLING = "the robust accuracies differ no more than by sampling"
FLAT = "no falling sigmoid describes them better than a constant"
NOTHING: dict[str, tuple[Any, Any, str]] = {
    "no point": ([], [], "0 usable points"),
    "one point": ([0.3], [0.5], "1 usable points"),
    "none right": (RATES, [0.0] * 10, "all robust accuracies are equal (0)"),
    "all right": (RATES, [1.0] * 10, "all robust accuracies are equal (1)"),
    "all equal": (RATES, [0.07] * 10, "all robust accuracies are equal (0.07)"),
    "equal rates": (
        [0.4] * 10,
        np.linspace(0.1, 0.9, 10),
        "all compression rates are equal (0.4)",
    ),
    "no compression": (
        [1.0] * 10,
        np.linspace(0.1, 0.9, 10),
        "all compression rates are equal (1)",
    ),
    "no rate": ([np.nan] * 10, np.linspace(0.1, 0.9, 10), "0 usable points"),
    "infinite rates": ([np.inf] * 9 + [0.2], np.linspace(0.1, 0.9, 10), "1 usable points"),
    "a few noisy points": (RATES, 0.1 + 0.01 * np.sin(np.arange(10)), SAMPLING),
    "a rising relation": (RATES, 0.1 + 0.8 * RATES, FLAT),
    "a step": (RATES, [1.0] * 3 + [0.0] * 7, "a step of any steepness"),
}


@pytest.mark.parametrize(("rates", "robust", "reason"), NOTHING.values(), ids=NOTHING)
@each_form
@pytest.mark.filterwarnings("error")
def test_points_that_determine_no_curve_say_why(form: str, rates: Any, robust: Any, reason: str) -> None:
    found = tried(form, robust, rates, [400] * len(robust))
    if form == "anchored" and isinstance(found, Fit):
        # its height is given, so that a step has one best curve
        assert reason.startswith("a step") and found.chi_squared > 2
        return
    assert isinstance(found, Undetermined) and found.reason.startswith(reason)
    assert found.sentence == f"not determined by these points: {found.reason}"


def test_points_without_a_rate_are_left_out() -> None:
    rates = np.append(RATES, [np.nan, 0.5])
    robust = np.append(truth("scaled"), [0.5, np.nan])
    found = fit("scaled", robust, rates, [400] * 12)
    expected = fit("scaled", truth("scaled"))
    assert found.n == 10 and found.parameters.tolist() == expected.parameters.tolist()


def test_a_height_that_is_not_determined_is_said_and_has_no_interval() -> None:
    """One tail of a sigmoid is an exponential: A and c cannot be told apart, the curve and its R2
    can.
    """
    rates = np.linspace(0.5, 1.0, 10)
    found = fit("scaled", 0.4 * np.exp(-6.0 * (rates - 0.5)), rates, [300] * 10)
    assert found.at_limit == ("A",) and np.isnan(found.low).all() and np.isnan(found.high).all()
    low, high = found.band(rates, level=0.95)
    assert found.r_squared > 0.99 and (high - low).max() < 0.2


def test_accuracies_are_equal_but_for_sampling_at_the_rate_of_the_test() -> None:
    rng = np.random.default_rng(0)
    said = [undetermined_accuracies(rng.binomial(200, 0.3, 8) / 200, [200] * 8) for _ in range(400)]
    assert np.mean([not reason for reason in said]) == pytest.approx(0.05, abs=0.03)
    assert not undetermined_accuracies([0.1, 0.5], [100, 100])
    assert undetermined_accuracies([], []) == "no usable point"


# --- points that scatter more than their images explain

LAW = (10.4, 0.378, 0.55)
PLACES = np.array([0.0, 0.17, 0.3, 0.5])
SCATTERS = {
    "binomial": (Scatter(1.0), (IMAGES, PURIFIERS)),
    "purifiers": (Scatter(6.6), (IMAGES, PURIFIERS)),
    "t*": (Scatter(6.6, star=0.5), (IMAGES, PURIFIERS, GROUPS)),
    "t* and samplers": (Scatter(6.6, star=0.4, sampler=0.3), (IMAGES, PURIFIERS, GROUPS)),
}


def covered(scatter: Scatter, units: tuple[str, ...], sweeps: int = 150, images: int = 300) -> Array:
    """Share of simulated sweeps whose 95 % interval covers k, c, the intercept and the curve at
    three more rates.

    units  the units whose widest interval is taken
    """
    rng = np.random.default_rng(1)
    truths = np.concatenate([LAW[:2], scaled(PLACES, *LAW)])
    hits = np.zeros(len(truths))
    for _ in range(sweeps):
        right = judged(LAW, scatter, images, rng)
        found = fit_sigmoid(
            "scaled",
            list(DESIGN),
            list(right.mean(axis=0)),
            [images] * len(DESIGN),
            clean=0.97,
            factors=FACTORS,
            covariance=np.cov(right.T) / images,
        )
        assert isinstance(found, Fit)
        slopes = np.concatenate([np.eye(3)[:2], found.family.slope(PLACES, *found.parameters)])
        values = np.concatenate([found.parameters[:2], found.predict(PLACES)])
        chosen = [each for each in found.scatters if each.unit in units]
        variances = [np.einsum("pi,ij,pj->p", slopes, each.covariance, slopes) for each in chosen]
        quantiles = [t.ppf(0.975, each.freedom) for each in chosen]
        pairs = zip(quantiles, variances, strict=True)
        widths = np.max([quantile * np.sqrt(np.maximum(variance, 0)) for quantile, variance in pairs], axis=0)
        hits += np.abs(values - truths) <= widths
    return hits / sweeps


@pytest.mark.parametrize(("scatter", "units"), SCATTERS.values(), ids=SCATTERS)
def test_intervals_cover_where_purifiers_scatter_and_groups_of_them_are_alike(
    scatter: Scatter, units: tuple[str, ...]
) -> None:
    found = covered(scatter, units)
    assert 0.93 <= found.mean() <= 0.97, found
    assert found.min() > 0.9, found


def test_intervals_of_the_images_alone_miss_a_third_of_scattered_sweeps() -> None:
    assert covered(Scatter(6.6), (IMAGES,), sweeps=60).mean() < 0.75


def test_the_widest_interval_is_the_one_shown() -> None:
    right = judged(LAW, Scatter(6.6, star=0.5), 300, np.random.default_rng(5))
    arguments: Any = (list(DESIGN), list(right.mean(axis=0)), [300] * len(DESIGN))
    alone = fit_sigmoid("scaled", *arguments, clean=0.97)
    found = fit_sigmoid("scaled", *arguments, clean=0.97, factors=FACTORS, covariance=np.cov(right.T) / 300)
    assert isinstance(alone, Fit) and isinstance(found, Fit)
    assert {scatter.unit for scatter in alone.scatters} == {"images", "purifiers"}
    assert {scatter.unit for scatter in found.scatters} == {"images", "purifiers", "groups"}
    np.testing.assert_array_equal(found.parameters, alone.parameters)
    halves = {spread.unit: spread.half(0.95) for spread in found.spreads(0.0)}
    low, high = found.band(np.zeros(1), level=0.95)
    assert (high - low)[0] / 2 == pytest.approx(max(halves.values())) and found.widest(0.0) == max(
        halves, key=lambda unit: halves[unit]
    )
