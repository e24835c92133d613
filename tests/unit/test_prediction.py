"""Predictions of purifiers that were left out: from the others alone, one form for all predictors,
honest intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from law_simulation import RATES as DESIGN
from law_simulation import STARS, Scatter, judged
from scipy.stats import t

from purification.fit import Fit, fit_sigmoid
from purification.prediction import LINE, MEAN, SIGMOID, Prediction, Spread, leave_out, spread_of
from purification.sigmoids import scaled
from purification.statistics import Array

RATES = np.array([0.13, 0.18, 0.24, 0.3, 0.36, 0.45, 0.55, 0.7, 0.85, 1.0])
NAMES = [f"purifier {i}" for i in range(len(RATES))]
LAW = (13.2, 0.31, 0.88)


def observed(seed: int, n: int = 400) -> Array:
    return np.asarray(np.random.default_rng(seed).binomial(n, scaled(RATES, *LAW)) / n)


def predict(
    robust: Array,
    features: dict[str, Array],
    *,
    folds: Sequence[object] = NAMES,
    forms: tuple[str, ...] = (SIGMOID, LINE),
    n: int = 400,
    level: float = 0.9,
) -> list[Prediction]:
    lists = {name: list(values) for name, values in features.items()}
    return leave_out(NAMES, lists, list(robust), [n] * len(NAMES), folds=folds, forms=forms, level=level)


def of(made: list[Prediction], predictor: str, form: str = SIGMOID) -> list[Prediction]:
    return [each for each in made if (each.predictor, each.form) == (predictor, form)]


def error(made: list[Prediction]) -> float:
    return float(np.mean([abs(each.observed - each.predicted) for each in made]))


def test_every_purifier_is_predicted_by_every_predictor_in_every_form() -> None:
    made = predict(observed(0), {"compression": RATES, "t*": RATES[::-1]})
    pairs = [(name, form) for name in ("compression", "t*") for form in (SIGMOID, LINE)]
    kinds = [*pairs, ("constant", MEAN)]
    assert [(each.predictor, each.form, each.purifier) for each in made] == [
        (*k, name) for k in kinds for name in NAMES
    ]
    assert [each.observed for each in made[:10]] == list(observed(0))


def test_compression_predicts_sigmoid_data_better_than_what_has_nothing_to_do_with_it() -> None:
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=len(RATES))
        made = predict(observed(seed), {"compression": RATES, "noise": noise})
        ours = error(of(made, "compression"))
        assert ours < 0.05 < 3 * ours + 0.05 < error(of(made, "constant", MEAN))
        assert ours < error(of(made, "noise"))


def test_a_prediction_is_made_from_the_others_alone() -> None:
    robust = observed(1)
    made = predict(robust, {"compression": RATES})
    for i in (0, 4, 9):
        kept = np.arange(10) != i
        fitted = fit_sigmoid("scaled", list(RATES[kept]), list(robust[kept]), [400] * 9, clean=0.9)
        assert isinstance(fitted, Fit)
        expected = float(np.clip(fitted.predict(RATES[[i]])[0], 0, 1))
        assert of(made, "compression")[i].predicted == pytest.approx(expected, abs=1e-4)
        assert of(made, "constant", MEAN)[i].predicted == pytest.approx(robust[kept].mean())


def test_purifiers_of_one_fold_are_left_out_together() -> None:
    robust, folds = observed(1), np.repeat(np.arange(5), 2)
    made = predict(robust, {"compression": RATES}, folds=list(folds))
    for fold in range(5):
        kept = folds != fold
        fitted = fit_sigmoid("scaled", list(RATES[kept]), list(robust[kept]), [400] * 8, clean=0.9)
        assert isinstance(fitted, Fit)
        found = [each.predicted for each in of(made, "compression")[2 * fold : 2 * fold + 2]]
        assert found == pytest.approx(list(np.clip(fitted.predict(RATES[~kept]), 0, 1)), abs=1e-4)


@pytest.mark.parametrize(
    "feature",
    [RATES, 1000.0 * RATES + 7.0, -RATES],
    ids=["as it is", "in other units", "turned round"],
)
def test_a_predictor_is_judged_by_what_it_says_not_by_its_unit_or_direction(
    feature: Array,
) -> None:
    """The same sigmoid for all: a predictor that rises with the accuracy is as good as one that
    falls.
    """
    made = predict(observed(0), {"compression": RATES, "other": feature})
    for form in (SIGMOID, LINE):
        found = [each.predicted for each in of(made, "other", form)]
        assert found == pytest.approx([each.predicted for each in of(made, "compression", form)], abs=1e-4)


def test_straight_lines_are_predicted_exactly_by_their_feature() -> None:
    robust = 0.9 - 0.5 * RATES
    for each in of(predict(robust, {"line": RATES}), "line", LINE):
        assert each.predicted == pytest.approx(each.observed, abs=1e-12)
        assert each.low < each.observed < each.high, "400 images leave a sampling error"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("robust", [np.zeros(10), np.ones(10), np.full(10, 0.3)], ids=["none", "all", "equal"])
@pytest.mark.parametrize("feature", [RATES, np.ones(10), np.zeros(10), RATES * 1e-300], ids=str)
def test_equal_accuracies_or_features_are_predicted_by_the_mean(robust: Array, feature: Array) -> None:
    for each in predict(robust, {"feature": feature}):
        assert each.predicted == pytest.approx(robust[0], abs=1e-6) and each.low <= each.predicted <= each.high


def test_intervals_have_the_spread_of_the_other_folds_errors_and_the_sampling_of_the_point() -> None:
    made = of(predict(observed(2), {"compression": RATES}), "constant", MEAN)
    angles = np.array([[np.arcsin(np.sqrt(value)) for value in (each.observed, each.predicted)] for each in made])
    squares = (angles[:, 0] - angles[:, 1]) ** 2
    for i, each in enumerate(made):
        width = t.ppf(0.95, 9) * np.sqrt(np.delete(squares, i).mean())
        ends = np.clip([angles[i, 1] - width, angles[i, 1] + width], 0, np.pi / 2)
        assert (each.low, each.high) == pytest.approx(tuple(np.sin(ends) ** 2))


def test_errors_smaller_than_sampling_leave_the_sampling() -> None:
    found = spread_of(np.full(8, 0.3), np.full(8, 0.3), np.full(8, 100.0), np.arange(8))
    assert found == Spread(0.0, 8)
    low, high = found.interval(0.3, 100.0, level=0.9)
    width = t.ppf(0.95, 8) / 20
    assert (low, high) == pytest.approx(tuple(np.sin(np.arcsin(np.sqrt(0.3)) + np.array([-width, width])) ** 2))
    assert np.isnan(Spread(0.1, 0).interval(0.3, 100.0, level=0.9)).all()


SCATTERS = {"binomial": Scatter(1.0), "purifiers": Scatter(6.6), "t*": Scatter(6.6, star=0.5)}


@pytest.mark.parametrize("scatter", SCATTERS.values(), ids=SCATTERS)
@pytest.mark.parametrize("folds", [np.arange(len(DESIGN)), STARS], ids=["one left out", "one t* left out"])
def test_prediction_intervals_cover_about_their_level(folds: Array, scatter: Scatter) -> None:
    """So that the share of purifiers off the law is 1 - level where the law holds."""
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(10):
        robust = judged((10.4, 0.378, 0.55), scatter, 300, rng).mean(axis=0)
        names = [str(i) for i in range(len(DESIGN))]
        arguments = (names, {"compression": list(DESIGN)}, list(robust), [300] * len(DESIGN))
        made = leave_out(*arguments, folds=folds, forms=(SIGMOID,), level=0.9)
        hits += [each.low <= each.observed <= each.high for each in of(made, "compression")]
    assert np.mean(hits) == pytest.approx(0.91, abs=0.05)
