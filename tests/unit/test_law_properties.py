"""Whatever points a run finds, the law is fitted or says why it is not: no exception, no warning, no half answer."""

from __future__ import annotations

import warnings
from datetime import timedelta

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from law_rows import law_rows
from test_law import CLAIMS, SENTENCE

from purification.curve_search import best_curve, deviance_residuals
from purification.fit import Fit, Undetermined, fit_sigmoid
from purification.prediction import leave_out
from purification.reporting import law
from purification.reporting.controls import controls
from purification.reporting.figures import Extras, draw
from purification.reporting.predictions import prediction, predictions
from purification.reporting.rows import Rows
from purification.sigmoids import FAMILIES, FORMS
from purification.statistics import Array

MOST = 12  # points
WRONG = ("", "not measured")
rates = st.one_of(
    st.floats(0.0, 3.0),
    st.sampled_from([0.0, 0.3, 1.0, np.nan, np.inf]),
)
accuracies = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.5, 1.0, np.nan]))
counts = st.sampled_from([1, 2, 5, 30, 1000])
points = st.lists(st.tuples(rates, accuracies, counts), max_size=MOST)
few = settings(max_examples=12, deadline=timedelta(seconds=60))


def rounded(robust: list[float], n: list[int]) -> list[float]:
    """Accuracies that so many images can have."""
    return [float(np.round(value * count) / count) for value, count in zip(robust, n, strict=True)]


@given(points, st.sampled_from(FORMS), st.floats(0.0, 1.0), st.data())
@settings(max_examples=150, deadline=timedelta(seconds=10))
def test_any_points_are_fitted_or_determine_nothing(
    drawn: list[tuple[float, float, int]], form: str, clean: float, data: st.DataObject
) -> None:
    x, y, n = ([point[place] for point in drawn] for place in range(3))
    robust = rounded([float(value) for value in y], [int(count) for count in n])
    labels = st.lists(st.integers(0, 5), min_size=len(x), max_size=len(x))
    factors = {"t*": data.draw(labels), "sampler": data.draw(labels)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_sigmoid(form, x, robust, n, clean=clean, factors=factors)
        if isinstance(found, Undetermined):
            assert found.reason and found.sentence.startswith(SENTENCE)
            return
        assert isinstance(found, Fit) and np.isfinite(found.parameters).all()
        assert found.n > len(found.names) and 0.0 < found.r_squared <= 1.0
        grid = np.linspace(0.0, 1.2, 7)
        low, high = found.band(grid, level=0.95)
        assert (low <= found.predict(grid)).all() and (found.predict(grid) <= high).all()
        assert (np.diff(found.predict(grid)) <= 1e-12).all(), "a sigmoid of the law falls"
        assert all(spread.variance >= 0.0 for spread in found.spreads(0.0))


def ordinary(seed: int, scatter: float, k: float, images: int) -> tuple[Array, Array, Array]:
    """Points of a sigmoid with noise: rates, accuracies, images."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 1.0, 12)
    chance = 0.9 / (1.0 + np.exp(k * (x - 0.4))) + scatter * rng.normal(size=12)
    return x, rng.binomial(images, np.clip(chance, 0.0, 1.0)) / images, np.full(12, float(images))


@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.03, 0.1]),
    st.floats(3.0, 25.0),
    st.sampled_from([30, 300]),
)
@settings(max_examples=40, deadline=timedelta(seconds=20))
def test_no_other_start_finds_a_much_better_curve(seed: int, scatter: float, k: float, images: int) -> None:
    x, y, n = ordinary(seed, scatter, k, images)
    form = FAMILIES["scaled"]
    best = best_curve(form, x, y, n)
    misfit = np.square(deviance_residuals(y, form.curve(x, *best.parameters), n)[0]).sum()
    for start in np.array([[5.0, 0.2, 0.5], [20.0, 0.5, 1.0], [80.0, 0.3, 0.8], [2.0, -0.5, 2.0]]):
        others = start * np.random.default_rng(seed).uniform(0.8, 1.2, (200, 3))
        expected = form.curve(x, *(column[:, None] for column in others.T))
        found = np.square(deviance_residuals(y, expected, n)[0]).sum(axis=1)
        assert misfit <= 1.02 * found.min() + 1e-6


@given(points.filter(lambda drawn: len(drawn) > 1), st.data())
@settings(max_examples=40, deadline=timedelta(seconds=30))
def test_any_points_are_predicted_within_bounds(drawn: list[tuple[float, float, int]], data: st.DataObject) -> None:
    finite = [point for point in drawn if np.isfinite(point[:2]).all()]
    if len(finite) < 2:
        return
    x, y, n = ([point[place] for point in finite] for place in range(3))
    robust = rounded([float(value) for value in y], [int(count) for count in n])
    folds = [*data.draw(st.lists(st.integers(0, 3), min_size=len(x) - 1, max_size=len(x) - 1)), 9]
    if len(set(folds)) < 2:
        return
    names = [str(place) for place in range(len(x))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = leave_out(names, {"compression": x}, robust, n, folds=folds, level=0.9)
    for each in made:
        assert 0.0 <= each.low <= each.predicted <= each.high <= 1.0


@st.composite
def runs(draw: st.DrawFn) -> Rows:
    """Rows of a run with random or degenerate points."""
    size = draw(st.integers(1, MOST))
    images = draw(st.sampled_from([1, 4, 60]))
    chosen = draw(st.lists(rates.filter(lambda rate: rate != np.inf), min_size=size, max_size=size))
    seed = draw(st.integers(0, 100))
    kind = draw(st.sampled_from(["random", "equal", "falling", "right", "wrong"]))
    known = np.nan_to_num(np.array(chosen), nan=0.5)
    chances = {
        "random": np.random.default_rng(seed).random(size),
        "equal": np.full(size, 0.5),
        "falling": 0.9 / (1.0 + np.exp(10.0 * (known - 0.4))),
        "right": np.ones(size),
        "wrong": np.zeros(size),
    }
    uniform = np.random.default_rng(seed).random((images, 1 if kind == "equal" else size))
    right = np.broadcast_to(uniform, (images, size)) < chances[kind]
    base = draw(st.sampled_from([None, [0.0] * 14, [1.0] * 14]))
    return law_rows(chosen, right.astype(float), clean=draw(st.sampled_from([0.0, 0.9, 1.0])), base=base)


@given(runs())
@few
def test_tables_claims_and_figures_of_any_points_come(rows: Rows) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = law.points(rows)
        parameters, curves = law.fits(rows, table)
        seen = law.against_the_law(rows, table)
        made = predictions(rows, table)
        errors = prediction(rows)
        checked = controls(rows)
        claims = [claim(rows) for claim in CLAIMS.values()]
        fitted = {"points": seen, "parameters": parameters, "curves": curves, "predictions": made}
        for name in ("compression_robustness", "prediction"):
            draw(name, rows, Extras(fitted)).canvas.draw()
    unknown = parameters[~parameters.determined]
    assert unknown.note.str.startswith(SENTENCE).all() and unknown.intercept.isna().all()
    assert len(curves) == parameters.determined.sum() * len(law.GRID)
    for frame in (seen, checked):
        undetermined = frame.off_the_law == "not determined"
        assert (undetermined == frame.predicted.isna()).all()
    assert (errors.predictor.notna() | errors.note.str.startswith(SENTENCE)).all()
    for claim in claims:
        assert claim.verdict in ("pass", "fail", "inconclusive")
        known = np.isfinite([claim.low, claim.high]).all()
        assert known or (claim.verdict == "inconclusive" and claim.note not in WRONG)
    assert isinstance(pd.DataFrame([vars(claim) for claim in claims]), pd.DataFrame)
