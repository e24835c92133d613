"""The compression-robustness sigmoid: known parameters, lmfit as an independent fit, coverage, and prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmfit
import numpy as np
import pytest
from scipy.stats import t

from purification.fit import FORMS, Fit, Prediction, anchored, fit_sigmoid, leave_one_out, logistic, scaled
from purification.statistics import Array

RATES = np.array([0.13, 0.18, 0.24, 0.3, 0.36, 0.45, 0.55, 0.7, 0.85, 1.0])
COUNTS = [400] * len(RATES)
CLEAN = 0.9
CURVES: dict[str, Callable[..., Array]] = {"scaled": scaled, "anchored": anchored(CLEAN), "logistic": logistic}
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


def fit(form: str, robust: Any, rates: Array = RATES, counts: Any = COUNTS) -> Fit:
    return fit_sigmoid(form, list(rates), list(robust), list(counts), clean=CLEAN)


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
    """lmfit with the weights of the fitted curve itself, 1 / sqrt(p (1 - p) / n), must find the same optimum."""
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
    assert fitted.errors.tolist() == pytest.approx(errors, rel=1e-2)
    assert fitted.chi_squared == pytest.approx(reference.redchi, rel=1e-3)
    width = t.ppf(0.975, len(RATES) - len(names)) * fitted.errors
    np.testing.assert_allclose([fitted.low, fitted.high], [fitted.parameters - width, fitted.parameters + width])
    np.testing.assert_allclose(np.sqrt(np.diag(fitted.covariance)), fitted.errors)


def test_weighted_r_squared_is_one_minus_the_explained_part() -> None:
    robust = np.array(observed("logistic", 2))
    fitted = fit("logistic", robust)
    p = fitted.predict(RATES)
    weights = 400 / np.maximum(p * (1 - p), 1 / 400)
    mean = (weights * robust).sum() / weights.sum()
    expected = 1 - (weights * (robust - p) ** 2).sum() / (weights * (robust - mean) ** 2).sum()
    assert fitted.r_squared == pytest.approx(expected, rel=1e-3) and 0.9 < fitted.r_squared < 1


def test_a_constant_has_no_explained_variance() -> None:
    assert np.isnan(fit("logistic", [0.0] * len(RATES)).r_squared)


@pytest.mark.parametrize("robust", [observed("scaled", 3), observed("logistic", 4)], ids=["scaled", "logistic"])
def test_the_anchored_form_passes_through_the_clean_accuracy(robust: list[float]) -> None:
    fitted = fit("anchored", robust)
    assert float(fitted.predict(np.zeros(1))[0]) == pytest.approx(CLEAN, rel=1e-12)
    low, high = fitted.band(np.zeros(1), level=0.95)
    assert (low[0], high[0]) == pytest.approx((CLEAN, CLEAN), abs=1e-9)


@each_form
def test_parameter_intervals_cover_the_truth_and_errors_are_the_spread_of_repeated_experiments(form: str) -> None:
    expected = np.array(list(TRUTH[form].values()))
    fits = [fit(form, observed(form, 100 + seed)) for seed in range(100)]
    coverage = np.mean([(f.low <= expected) & (expected <= f.high) for f in fits], axis=0)
    assert (coverage >= 0.9).all()  # Student intervals around known variances: 95 % or slightly more
    estimates = np.array([f.parameters for f in fits])
    errors = np.mean([f.errors for f in fits], axis=0)
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
    spread = np.sqrt(np.einsum("ip,ij,jp->p", slope, fitted.covariance, slope))
    np.testing.assert_allclose(fitted.band(RATES, level=0.95)[1] - p, t.ppf(0.975, fitted.n - 2) * spread, rtol=1e-4)


@pytest.mark.parametrize(("form", "points"), [("scaled", 3), ("anchored", 2), ("logistic", 2)])
def test_as_many_points_as_parameters_are_too_few(form: str, points: int) -> None:
    with pytest.raises(ValueError, match=f"expected more than {points} points for the {form} form, got {points}"):
        fit(form, truth(form)[:points], RATES[:points], COUNTS[:points])
    assert fit(form, truth(form)[: points + 1], RATES[: points + 1], COUNTS[: points + 1]).n == points + 1


@pytest.mark.parametrize("robust", [[0.0] * 10, [1.0] * 10, [1.0] * 3 + [0.0] * 7], ids=["none", "all", "a cliff"])
@each_form
def test_extreme_accuracies_are_fitted_within_bounds(form: str, robust: list[float]) -> None:
    fitted = fit(form, robust)
    assert np.isfinite(fitted.parameters).all()
    np.testing.assert_allclose(fitted.predict(RATES), robust, atol=0.11 if form == "anchored" else 0.02)


# --- leave one out

NAMES = [f"purifier {i}" for i in range(len(RATES))]


def predictions(seed: int, n: int = 400, level: float = 0.9) -> list[Prediction]:
    noise = np.random.default_rng(seed).normal(size=len(RATES))
    features = {"compression": RATES.tolist(), "t_star": noise.tolist()}
    return leave_one_out(NAMES, features, observed("scaled", seed, n), [n] * len(RATES), clean=CLEAN, level=level)


def absolute_error(made: list[Prediction], predictor: str) -> float:
    return float(np.mean([abs(p.observed - p.predicted) for p in made if p.predictor == predictor]))


def test_every_purifier_is_predicted_by_every_predictor_and_the_constant() -> None:
    made = predictions(0)
    names = [(predictor, name) for predictor in ("compression", "t_star", "constant") for name in NAMES]
    assert [(p.predictor, p.purifier) for p in made] == names
    assert [p.observed for p in made[:10]] == observed("scaled", 0)


def test_compression_predicts_sigmoid_data_better_than_baselines() -> None:
    for seed in range(3):
        made = predictions(seed)
        errors = {name: absolute_error(made, name) for name in ("compression", "t_star", "constant")}
        assert errors["compression"] < 0.05 < 3 * errors["compression"] + 0.05 < errors["constant"]
        assert errors["compression"] < errors["t_star"]


def test_a_prediction_is_made_from_the_others_alone() -> None:
    robust = observed("scaled", 1)
    for i in (0, 4, 9):
        others = [j for j in range(10) if j != i]
        fitted = fit("scaled", [robust[j] for j in others], RATES[others], [400] * 9)
        made = predictions(1)
        assert made[i].predicted == pytest.approx(float(np.clip(fitted.predict(RATES[[i]])[0], 0, 1)), rel=1e-9)
        assert made[20 + i].predicted == pytest.approx(np.mean([robust[j] for j in others]))


def test_the_null_models_compression_predicts_with_the_same_sigmoid_and_other_features_with_a_line() -> None:
    features = {name: RATES.tolist() for name in ("compression", "null compression", "line")}
    made = leave_one_out(NAMES, features, observed("scaled", 0), COUNTS, clean=CLEAN, level=0.9)
    predicted = {name: [p.predicted for p in made if p.predictor == name] for name in features}
    assert predicted["null compression"] == predicted["compression"] != predicted["line"]
    rates, robust = RATES[1:], observed("scaled", 0)[1:]
    slope, intercept = np.linalg.lstsq(np.column_stack([rates, np.ones(9)]), robust, rcond=None)[0]
    assert predicted["line"][0] == pytest.approx(min(intercept + slope * RATES[0], 1.0), rel=1e-9)


def test_straight_lines_are_predicted_exactly_by_their_feature() -> None:
    robust = (0.9 - 0.5 * RATES).tolist()
    made = leave_one_out(NAMES, {"line": RATES.tolist()}, robust, COUNTS, clean=CLEAN, level=0.9)
    for p in made[:10]:
        assert p.predicted == pytest.approx(p.observed, abs=1e-12)
        assert p.high - p.low == pytest.approx(0, abs=1e-9)


def test_intervals_use_the_other_points_residuals_under_a_student_law() -> None:
    made = [p for p in predictions(2) if p.predictor == "constant"]
    residuals = np.array([p.observed - p.predicted for p in made])
    for i, p in enumerate(made):
        width = t.ppf(0.95, 9) * np.sqrt(np.mean(np.delete(residuals, i) ** 2))
        assert (p.low, p.high) == pytest.approx((max(p.predicted - width, 0), min(p.predicted + width, 1)))


def test_prediction_intervals_cover_about_their_level() -> None:
    made = [p for seed in range(20) for p in predictions(seed) if p.predictor == "compression"]
    covered = np.mean([p.low <= p.observed <= p.high for p in made])
    assert covered == pytest.approx(0.9, abs=0.07)
    assert all(0 <= p.low <= p.predicted <= p.high <= 1 for p in made)
