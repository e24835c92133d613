"""Robust accuracy as a sigmoid of the compression rate (Fig. 3b of arXiv 2505.22839), and how well it predicts.

Forms (the paper's own is not readable; see docs/methods.md):
    scaled     r = A / (1 + exp(k (CR - c)))                       3 parameters
    anchored   r = a s(-k (CR - c)) / s(k c), a = clean accuracy   2 parameters, r(0) = a by construction
    logistic   r = 1 / (1 + exp(k (CR - c)))                       2 parameters, intercept free
with s the logistic function. Fits minimise binomially weighted squares; weights come from the fitted curve's own
variance p (1 - p) / n, iterated, so that an observed 0 or 1 does not get infinite weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.special import expit
from scipy.stats import t

Array = NDArray[Any]
REWEIGHTINGS = 10


def scaled(cr: Array, k: float, c: float, top: float) -> Array:
    """A / (1 + exp(k (CR - c)))."""
    return np.asarray(top * expit(-k * (cr - c)))


def logistic(cr: Array, k: float, c: float) -> Array:
    """1 / (1 + exp(k (CR - c)))."""
    return np.asarray(expit(-k * (cr - c)))


def anchored(clean: float) -> Callable[[Array, float, float], Array]:
    """a s(-k (CR - c)) / s(k c): passes through the clean accuracy at CR = 0."""

    def curve(cr: Array, k: float, c: float) -> Array:
        return np.asarray(clean * expit(-k * (cr - c)) / expit(k * c))

    return curve


@dataclass(frozen=True)
class Fit:
    """A fitted curve.

    parameters, errors   estimates and standard errors (order of the form's arguments)
    low, high            95 % intervals of the parameters (Student t)
    covariance           of the parameters
    r_squared            weighted, on the points given;  chi_squared: reduced
    """

    form: str
    names: tuple[str, ...]
    parameters: Array
    errors: Array
    low: Array
    high: Array
    covariance: Array
    r_squared: float
    chi_squared: float
    n: int
    curve: Callable[..., Array]

    def predict(self, cr: Array) -> Array:
        """Fitted robust accuracy at compression rates."""
        return self.curve(np.asarray(cr, dtype=float), *self.parameters)

    def band(self, cr: Array, *, level: float) -> tuple[Array, Array]:
        """Pointwise confidence band of the curve by the delta method, Student t like the parameters' intervals."""
        cr = np.asarray(cr, dtype=float)
        step = 1e-5 * np.maximum(np.abs(self.parameters), 1e-3)
        shifts = [np.where(np.arange(len(step)) == i, h, 0.0) for i, h in enumerate(step)]
        up = np.array([self.curve(cr, *(self.parameters + s)) for s in shifts])
        down = np.array([self.curve(cr, *(self.parameters - s)) for s in shifts])
        slope = (up - down) / (2 * step[:, None])
        spread = np.sqrt(np.einsum("ip,ij,jp->p", slope, self.covariance, slope))
        middle, width = self.predict(cr), float(t.ppf(0.5 + level / 2, self.n - len(self.names))) * spread
        return middle - width, middle + width


def _form(name: str, clean: float) -> tuple[Callable[..., Array], tuple[str, ...], list[float]]:
    forms: dict[str, tuple[Callable[..., Array], tuple[str, ...], list[float]]] = {
        "scaled": (scaled, ("k", "c", "A"), [10.0, 0.25, max(clean, 0.1)]),
        "anchored": (anchored(clean), ("k", "c"), [10.0, 0.25]),
        "logistic": (logistic, ("k", "c"), [10.0, 0.25]),
    }
    return forms[name]


SIGMOID_PREDICTORS = ("compression", "null compression")
FORMS = ("scaled", "anchored", "logistic")


def fit_sigmoid(form: str, cr: Sequence[float], robust: Sequence[float], n: Sequence[int], *, clean: float) -> Fit:
    """Fit one form to points (compression rate, robust accuracy in [0, 1] on n images).

    clean  clean accuracy of the purified system (used by "anchored" and as a starting value)
    k is searched in [0, 500], c in [-2, 3], A in [0, 3].
    Raises ValueError with fewer points than parameters + 1.
    """
    x, y, counts = (np.asarray(v, dtype=float) for v in (cr, robust, n))
    curve, names, start = _form(form, clean)
    if len(x) <= len(names):
        raise ValueError(f"expected more than {len(names)} points for the {form} form, got {len(x)}")
    expected, limits = np.clip(y, 0.05, 0.95), [500.0, 3.0, 3.0][: len(start)]
    for _ in range(REWEIGHTINGS):
        sigma = np.sqrt(np.clip(expected * (1.0 - expected), 1.0 / counts, None) / counts)
        parameters, covariance = curve_fit(
            curve, x, y, p0=start, sigma=sigma, absolute_sigma=True, bounds=([0.0, -2.0, 0.0][: len(start)], limits)
        )
        expected, start = np.clip(curve(x, *parameters), 0.0, 1.0), list(parameters)
    weights, residual = 1.0 / sigma**2, y - curve(x, *parameters)
    mean = float((weights * y).sum() / weights.sum())
    freedom = len(x) - len(parameters)
    errors = np.sqrt(np.diag(covariance))
    width = float(t.ppf(0.975, freedom)) * errors
    chi, total = float((weights * residual**2).sum()), float((weights * (y - mean) ** 2).sum())
    return Fit(
        form, names, parameters, errors, parameters - width, parameters + width, covariance,
        r_squared=1.0 - chi / total if total else float("nan"),
        chi_squared=chi / freedom, n=len(x), curve=curve,
    )  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Out-of-sample prediction of one purifier's robust accuracy by one predictor."""

    predictor: str
    purifier: str
    observed: float
    predicted: float
    low: float
    high: float


def _regression(x: Array, y: Array, at: float) -> float:
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope * at + intercept)


def prediction_interval(middle: float, residuals: Array, *, level: float) -> tuple[float, float]:
    """Interval of an accuracy under a Student law with the spread of leave-one-out residuals, cut to [0, 1]."""
    spread = float(np.sqrt(np.mean(residuals**2)))
    width = float(t.ppf(0.5 + level / 2, len(residuals))) * spread
    return max(middle - width, 0.0), min(middle + width, 1.0)


def leave_one_out(
    purifiers: Sequence[str],
    features: Mapping[str, Sequence[float]],
    robust: Sequence[float],
    n: Sequence[int],
    *,
    clean: float,
    level: float,
) -> list[Prediction]:
    """Predict every purifier from a fit to the others.

    features  those of `SIGMOID_PREDICTORS` predict with the scaled sigmoid, the others with a straight line;
              "constant" (mean of the others) is always added
    The interval of a prediction covers `level` under a Student law whose spread is that of the other points' own
    leave-one-out residuals (their sampling noise included).
    """
    y, counts = np.asarray(robust, dtype=float), np.asarray(n, dtype=float)
    out = []
    for name in (*features, "constant"):
        x = np.zeros(len(y)) if name == "constant" else np.asarray(features[name], dtype=float)
        predicted = np.array([_predict_left_out(name, x, y, counts, i, clean) for i in range(len(y))])
        for i, purifier in enumerate(purifiers):
            low, high = prediction_interval(predicted[i], np.delete(y - predicted, i), level=level)
            out.append(Prediction(name, purifier, y[i], predicted[i], low, high))
    return out


def _predict_left_out(name: str, x: Array, y: Array, n: Array, i: int, clean: float) -> float:
    keep = np.arange(len(y)) != i
    if name == "constant":
        return float(y[keep].mean())
    if name not in SIGMOID_PREDICTORS:
        return float(np.clip(_regression(x[keep], y[keep], x[i]), 0.0, 1.0))
    counts = [int(v) for v in n[keep]]
    fitted = fit_sigmoid("scaled", list(x[keep]), list(y[keep]), counts, clean=clean)
    return float(np.clip(fitted.predict(np.array([x[i]]))[0], 0.0, 1.0))
