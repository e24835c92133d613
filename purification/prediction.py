"""Robust accuracy of purifiers predicted from others that are left out of the fit, and the interval of a prediction.

Every predictor predicts with the same forms: the scaled sigmoid of `fit`, rising or falling, and a straight line. All
are fitted to the same points, so that errors can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import t

from purification.fit import best_curve
from purification.resampling import Labels
from purification.sigmoids import FAMILIES

Array = NDArray[Any]
CONSTANT = "constant"
SIGMOID, LINE, MEAN = "sigmoid", "line", "mean"


@dataclass(frozen=True)
class Prediction:
    """Out-of-sample prediction of one purifier's robust accuracy by one predictor in one form."""

    predictor: str
    form: str
    purifier: str
    observed: float
    predicted: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """How far predictions are off beyond the sampling of the predicted accuracy itself, as angles.

    excess   variance of the angle arcsin(sqrt(p)) beyond 1 / (4 n); not below 0
    freedom  number of left-out groups behind it
    """

    excess: float
    freedom: int

    def interval(self, predicted: float, n: float, *, level: float) -> tuple[float, float]:
        """Interval of an accuracy on n images that is predicted so: Student's, on the angle, within [0, 1].

        NaN without a left-out group. The angle has the variance 1 / (4 n) whatever the accuracy.
        """
        if not self.freedom:
            return float("nan"), float("nan")
        width = float(t.ppf(0.5 + level / 2.0, self.freedom)) * np.sqrt(self.excess + 1.0 / (4.0 * n))
        angle = float(_angle(predicted))
        low, high = np.clip([angle - width, angle + width], 0.0, np.pi / 2.0)
        return min(float(np.sin(low) ** 2), predicted), max(float(np.sin(high) ** 2), predicted)


def _angle(accuracy: Any) -> Array:
    return np.asarray(np.arcsin(np.sqrt(np.clip(accuracy, 0.0, 1.0))))


def spread_of(observed: Array, predicted: Array, n: Array, folds: Array) -> Spread:
    """Spread of the errors of predictions; every left-out group counts once, however many purifiers it has."""
    squares = (_angle(observed) - _angle(predicted)) ** 2 - 1.0 / (4.0 * n)
    groups = np.unique(folds)
    means = [float(squares[folds == group].mean()) for group in groups]
    return Spread(max(float(np.mean(means)), 0.0) if means else 0.0, len(groups))


def _sigmoid(x: Array, y: Array, n: Array, at: Array) -> Array:
    """The better of the best falling and the best rising sigmoid, in units of the feature's range."""
    everywhere = np.concatenate([x, at])
    span = float(np.ptp(everywhere))
    if np.ptp(x) == 0.0 or not np.isfinite(1.0 / span):
        return np.full(len(at), y.mean())
    found = []
    for sign in (1.0, -1.0):
        start = float((sign * everywhere).min())
        curve = best_curve(FAMILIES["scaled"], (sign * x - start) / span, y, n)
        fitted = FAMILIES["scaled"].curve((sign * x - start) / span, *curve.parameters)
        made = FAMILIES["scaled"].curve((sign * at - start) / span, *curve.parameters)
        found.append((_deviance(y, np.clip(fitted, 1e-9, 1.0 - 1e-9), n), made))
    return min(found, key=lambda pair: pair[0])[1]


def _deviance(observed: Array, expected: Array, n: Array) -> float:
    """-2 log likelihood of accuracies on n images, up to a constant."""
    wrong = xlogy(1.0 - observed, 1.0 - expected)
    return float(-2.0 * (n * (xlogy(observed, expected) + wrong)).sum())


def _line(x: Array, y: Array, n: Array, at: Array) -> Array:
    centred = x - x.mean()
    square = float((centred**2).sum())
    slope = float((centred * y).sum()) / square if square > 0.0 else 0.0
    return np.asarray(y.mean() + slope * (at - x.mean()))


def _mean(x: Array, y: Array, n: Array, at: Array) -> Array:
    return np.full(len(at), y.mean())


PREDICT = {SIGMOID: _sigmoid, LINE: _line, MEAN: _mean}


def _predict_left_out(form: str, x: Array, y: Array, n: Array, folds: Array) -> Array:
    """Every point predicted by a fit to the points of the other folds."""
    predicted = np.empty(len(y))
    for fold in np.unique(folds):
        own = folds == fold
        made = PREDICT[form](x[~own], y[~own], n[~own], x[own])
        predicted[own] = np.clip(made, 0.0, 1.0)
    return predicted


def leave_out(
    purifiers: Sequence[str],
    features: Mapping[str, Sequence[float]],
    robust: Sequence[float],
    n: Sequence[int],
    *,
    folds: Labels,
    forms: Sequence[str] = (SIGMOID, LINE),
    level: float,
) -> list[Prediction]:
    """Predict every purifier from a fit to the purifiers of other folds.

    features  name -> one finite number per purifier; "constant" (mean of the others) is always added
    robust    robust accuracies in [0, 1] on n images
    folds     one label per purifier: what is left out together
    The interval of a prediction covers `level` if the errors of all folds are alike: its spread is that of the errors of
    the other folds, each predicted while it was left out itself, and the sampling of its own accuracy.
    """
    y, counts = np.asarray(robust, dtype=float), np.asarray(n, dtype=float)
    labels = np.unique(np.asarray(folds), return_inverse=True)[1]
    out = []
    for name, form in [*((name, form) for name in features for form in forms), (CONSTANT, MEAN)]:
        x = np.zeros(len(y)) if name == CONSTANT else np.asarray(features[name], dtype=float)
        predicted = _predict_left_out(form, x, y, counts, labels)
        for i, purifier in enumerate(purifiers):
            other = labels != labels[i]
            spread = spread_of(y[other], predicted[other], counts[other], labels[other])
            middle = float(predicted[i])
            low, high = spread.interval(middle, counts[i], level=level)
            out.append(Prediction(name, form, purifier, float(y[i]), middle, low, high))
    return out
