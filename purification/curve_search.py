"""The best curve of a form through accuracies, whether or not the points determine it.

The variance of an accuracy on n images is taken from the curve itself, p (1 - p) / n, so that an
observed 0 or 1 does not get infinite weight. The best curve is then the one that iteratively
reweighted least squares ends at, where they end: they may go back and forth between two curves for
ever (Wedderburn, Biometrika 61:439, 1974).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter
from scipy.optimize import least_squares
from scipy.special import xlogy

from purification.sigmoids import Form

Array = NDArray[Any]
LOWEST = (0.0, -2.0, 0.0)  # of k, c, A
HIGHEST = (500.0, 3.0, 3.0)
SIZES = (10.0, 0.3, 1.0)  # by which the search scales k, c, A
STEPS = 200  # of a search, at most
STARTS = 2  # searches, at most
WORTH = 3.0  # misfit of a curve to start from, at most, over that of the best one
CLOSE = 1e-3  # standard errors (of half right, half wrong) within which a point lies on the curve


@dataclass(frozen=True)
class BestCurve:
    """The best curve of a form within the limits of the search.

    parameters  in the order of the form's names
    deviation   (points,) standard error of each accuracy by the curve's own variance
    slopes      (points, parameters) derivatives, each point divided by its standard error
    residuals   (points,) observed minus expected, in standard errors
    settled     whether the search converged
    """

    parameters: Array
    deviation: Array
    slopes: Array
    residuals: Array
    settled: bool


def _deviation(expected: Array, n: Array) -> Array:
    """Standard error of an accuracy on n images; p (1 - p) is not let below 1 / n."""
    return np.asarray(np.sqrt(np.maximum(expected * (1.0 - expected), 1.0 / n) / n))


def _starts(form: Form, x: Array, y: Array, n: Array) -> list[Array]:
    """The best few of the curves of a grid of k and c that are better than their neighbours.

    A, in which the form is linear, is the least-squares one for each.
    """
    steepness = np.geomspace(0.3, 300.0, 16)
    middle = np.linspace(max(x.min() - 1.5, LOWEST[1]), min(x.max() + 0.3, HIGHEST[1]), 25)
    k, c = (axis[..., None] for axis in np.meshgrid(steepness, middle, indexing="ij"))
    if len(form.names) == 2:
        top = np.ones_like(k)
        shapes = form.curve(x, k, c)
    else:
        shapes = form.curve(x, k, c, 1.0)
        squares = np.maximum((n * shapes**2).sum(axis=-1, keepdims=True), 1e-300)
        products = (n * shapes * y).sum(axis=-1, keepdims=True)
        top = np.clip(products / squares, LOWEST[2], HIGHEST[2])
    misfit = np.square(deviance_residuals(y, top * shapes, n)[0]).sum(axis=-1)
    best = np.argwhere(misfit == minimum_filter(misfit, size=3, mode="nearest"))
    good = best[misfit[tuple(best.T)] <= WORTH * misfit.min()]
    places = sorted((tuple(place) for place in good), key=lambda place: float(misfit[place]))
    found = [np.array([k[i, 0, 0], c[0, j, 0], top[i, j, 0]]) for i, j in places[:STARTS]]
    return [start[: len(form.names)] for start in found]


def best_curve(form: Form, x: Array, y: Array, n: Array) -> BestCurve:
    """The curve of the largest quasi-likelihood within the limits of k, c and A.

    It is searched from the best curves of a grid.

    x, y, n  (points,) compression rates, accuracies in [0, 1], images behind each
    """
    size = len(form.names)

    def residuals(parameters: Array) -> Array:
        return deviance_residuals(y, form.curve(x, *parameters), n)[0]

    def slopes(parameters: Array) -> Array:
        change = deviance_residuals(y, form.curve(x, *parameters), n)[1]
        return np.asarray(change[:, None] * form.slope(x, *parameters))

    searched = [
        least_squares(
            residuals,
            start,
            jac=slopes,
            method="dogbox",
            bounds=(LOWEST[:size], HIGHEST[:size]),
            x_scale=SIZES[:size],
            xtol=1e-8,
            ftol=1e-10,
            gtol=1e-8,
            max_nfev=STEPS,
        )
        for start in _starts(form, x, y, n)
    ]
    found = min(searched, key=lambda each: float(each.cost))
    expected = form.curve(x, *found.x)
    deviation = _deviation(expected, n)
    return BestCurve(
        found.x,
        deviation,
        form.slope(x, *found.x) / deviation[:, None],
        (y - expected) / deviation,
        settled=found.status > 0,
    )


def deviance_residuals(y: Array, expected: Array, n: Array) -> tuple[Array, Array]:
    """Signed roots of the quasi-deviance, and their derivatives by the expected accuracy p.

    The quasi-deviance is 2 n times the integral from p to y of (y - u) / v(u) du, with v(u) = u (1
    - u), not below 1 / n: the binomial deviance, but for accuracies that a single image could
    make.
    """
    difference = y - expected
    deviance = 2.0 * n * (_integral(y, y, n) - _integral(expected, y, n))
    variance = np.maximum(expected * (1.0 - expected), 1.0 / n)
    between = expected + difference / 3.0
    close = np.abs(difference) * np.sqrt(n) < CLOSE  # the integral is lost in rounding there
    ratio = np.sqrt(np.maximum(between * (1.0 - between), 1.0 / n) / n)
    far = np.sign(difference) * np.sqrt(np.maximum(deviance, 0.0))
    roots = np.where(close, difference / ratio, far)
    ratio = np.where(close, ratio, difference / np.where(close, 1.0, roots))
    return roots, -n * ratio / variance


def _integral(u: Array, y: Array, n: Array) -> Array:
    """An integral of (y - u) / v(u) over u."""
    # v is 1 / n below the edge, and above 1 minus it
    edge = (1.0 - np.sqrt(np.maximum(1.0 - 4.0 / n, 0.0))) / 2.0
    inside = np.clip(u, edge, 1.0 - edge)
    outside = n * (y * (u - inside) - (u**2 - inside**2) / 2.0)
    return np.asarray(xlogy(y, inside) + xlogy(1.0 - y, 1.0 - inside) + outside)


def r_squared(curve: BestCurve, y: Array) -> float:
    """1 - explained part of the weighted squares; NaN where the accuracies are equal."""
    weights = 1.0 / curve.deviation**2
    mean = float((weights * y).sum() / weights.sum())
    total = float((weights * (y - mean) ** 2).sum())
    if np.ptp(y) == 0.0:
        return float("nan")
    return 1.0 - float(np.square(curve.residuals).sum()) / total
