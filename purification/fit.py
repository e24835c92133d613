"""Robust accuracy as a sigmoid of the compression rate (Fig. 3b of arXiv 2505.22839).

Fits minimise binomially weighted squares; weights come from the fitted curve's own variance p (1 - p) / n, iterated, so
that an observed 0 or 1 does not get infinite weight. The forms: `sigmoids`.

Points that determine no curve are an outcome (`Undetermined`), not an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.stats import chi2, t

from purification.intervals import CONFIDENCE
from purification.resampling import GROUPS, IMAGES, PURIFIERS, Labels, Spread, grouped_variance
from purification.sigmoids import Form, family

Array = NDArray[Any]
LOWEST = (0.0, -2.0, 0.0)  # of k, c, A
HIGHEST = (500.0, 3.0, 3.0)
SIZES = (10.0, 0.3, 1.0)  # by which the search scales k, c, A
NEAR = 1e-4  # of its range: a parameter this close to an end of it has not been found inside
REWEIGHTINGS = 50  # at most
SETTLED = 1e-7  # largest change of the fitted accuracies at which the weights are final
TELL_APART = 1e-7  # smallest singular value of the scaled slopes, over the largest, of parameters that are determined
FLAT = 1e-3  # R2 up to which a curve describes the points no better than a constant
SAME = 0.05  # p-value above which accuracies count as equal but for sampling


@dataclass(frozen=True)
class BestCurve:
    """The best curve of a form within the limits of the search, whether or not the points determine it.

    slopes     (points, parameters), each point divided by its standard error
    residuals  (points,), in standard errors
    settled    whether the weights and the parameters converged
    """

    parameters: Array
    deviation: Array
    slopes: Array
    residuals: Array
    settled: bool


def _deviation(expected: Array, n: Array) -> Array:
    """Standard error of an accuracy on n images; p (1 - p) is not let below 1 / n."""
    return np.asarray(np.sqrt(np.maximum(expected * (1.0 - expected), 1.0 / n) / n))


def _start(form: Form, x: Array, y: Array, deviation: Array) -> Array:
    """The best curve of a grid of k and c; A, in which the form is linear, is the best one for each."""
    steepness = np.geomspace(0.3, 300.0, 16)
    middle = np.linspace(max(x.min() - 0.4, LOWEST[1]), min(x.max() + 0.2, HIGHEST[1]), 17)
    k, c = (axis.ravel()[:, None] for axis in np.meshgrid(steepness, middle, indexing="ij"))
    weights = 1.0 / deviation**2
    if len(form.names) == 2:
        top = np.ones_like(k)
        shapes = form.curve(x, k, c)
    else:
        shapes = form.curve(x, k, c, 1.0)
        squares = np.maximum((weights * shapes**2).sum(axis=1, keepdims=True), 1e-300)
        top = np.clip((weights * shapes * y).sum(axis=1, keepdims=True) / squares, LOWEST[2], HIGHEST[2])
    best = int((weights * (y - top * shapes) ** 2).sum(axis=1).argmin())
    return np.array([k[best, 0], c[best, 0], top[best, 0]])[: len(form.names)]


def best_curve(form: Form, x: Array, y: Array, n: Array) -> BestCurve:
    """Iteratively reweighted least squares within the limits of k, c and A, from the best curve of a grid."""
    size = len(form.names)
    limits = (LOWEST[:size], HIGHEST[:size])
    deviation = _deviation(np.clip(y, 0.05, 0.95), n)
    parameters = _start(form, x, y, deviation)
    expected = np.full(len(x), np.inf)
    settled = False
    for _ in range(REWEIGHTINGS):
        found = least_squares(
            lambda p, s=deviation: (form.curve(x, *p) - y) / s,
            parameters,
            jac=lambda p, s=deviation: form.slope(x, *p) / s[:, None],
            bounds=limits,
            x_scale=SIZES[:size],
            xtol=1e-11,
            ftol=1e-11,
            gtol=1e-11,
        )
        before, parameters = expected, found.x
        expected = form.curve(x, *parameters)
        settled = bool(np.abs(expected - before).max() < SETTLED and found.status > 0)
        if settled:
            break
        deviation = _deviation(np.clip(expected, 0.0, 1.0), n)
    slopes = form.slope(x, *parameters) / deviation[:, None]
    return BestCurve(parameters, deviation, slopes, (y - expected) / deviation, settled)


def r_squared(curve: BestCurve, y: Array) -> float:
    """1 - explained part of the weighted squares; NaN where the accuracies are equal."""
    weights = 1.0 / curve.deviation**2
    mean = float((weights * y).sum() / weights.sum())
    total = float((weights * (y - mean) ** 2).sum())
    return 1.0 - float(np.square(curve.residuals).sum()) / total if np.ptp(y) > 0.0 else float("nan")


@dataclass(frozen=True)
class Undetermined:
    """No fit, and why."""

    form: str
    n: int
    reason: str

    @property
    def sentence(self) -> str:
        return f"not determined by these points: {self.reason}"


@dataclass(frozen=True)
class Scatter:
    """Covariance of the parameters when one kind of unit is resampled, and its degrees of freedom."""

    unit: str
    covariance: Array
    freedom: float


@dataclass(frozen=True)
class Fit:
    """A fitted curve.

    parameters   estimates, in the order of `names`
    covariance   of the parameters, from binomial noise alone
    scatters     what the intervals are taken from: each of them is the widest one's
    r_squared    weighted, on the points given;  chi_squared: reduced
    at_limit     parameters that ended at a limit of their search: their intervals mean nothing and are NaN
    """

    form: str
    names: tuple[str, ...]
    parameters: Array
    covariance: Array
    scatters: tuple[Scatter, ...]
    r_squared: float
    chi_squared: float
    n: int
    at_limit: tuple[str, ...]
    family: Form

    @property
    def errors(self) -> Array:
        """Standard errors with purifiers as the units: scaled by the root of the reduced chi-squared above 1."""
        return np.asarray(np.sqrt(np.diag(self.covariance) * max(self.chi_squared, 1.0)))

    @property
    def low(self) -> Array:
        """Lower ends of the parameters' 95 % intervals."""
        return self._ends(-1.0)

    @property
    def high(self) -> Array:
        """Upper ends of the parameters' 95 % intervals."""
        return self._ends(1.0)

    def _ends(self, side: float) -> Array:
        if self.at_limit:
            return np.full(len(self.names), np.nan)
        return np.asarray(self.parameters + side * self._width(np.eye(len(self.names)), CONFIDENCE))

    def _width(self, slopes: Array, level: float) -> Array:
        """Half the interval of slopes @ parameters: the widest of all scatters."""
        widths = []
        for scatter in self.scatters:
            variance = np.einsum("pi,ij,pj->p", slopes, scatter.covariance, slopes)
            quantile = float(t.ppf(0.5 + level / 2.0, scatter.freedom))
            widths.append(quantile * np.sqrt(np.maximum(variance, 0.0)))
        return np.asarray(np.max(widths, axis=0))

    def predict(self, cr: ArrayLike) -> Array:
        """Fitted robust accuracy at compression rates."""
        return self.family.curve(np.asarray(cr, dtype=float), *self.parameters)

    def band(self, cr: ArrayLike, *, level: float) -> tuple[Array, Array]:
        """Pointwise confidence band of the curve by the delta method, Student t like the parameters' intervals."""
        rates = np.asarray(cr, dtype=float)
        middle = self.predict(rates)
        width = self._width(self.family.slope(rates, *self.parameters), level)
        return middle - width, middle + width

    def widest(self, cr: float) -> str:
        """The unit of resampling that gives the widest interval at a compression rate."""
        found = self.spreads(cr)
        return max(found, key=lambda spread: spread.half(CONFIDENCE)).unit

    def spreads(self, cr: float) -> tuple[Spread, ...]:
        """Variance of the curve at one compression rate, by unit of resampling."""
        slope = self.family.slope(np.array([cr]), *self.parameters)[0]
        found = []
        for scatter in self.scatters:
            variance = max(float(slope @ scatter.covariance @ slope), 0.0)
            found.append(Spread(scatter.unit, variance, scatter.freedom))
        return tuple(found)


def undetermined_accuracies(robust: ArrayLike, n: ArrayLike) -> str:
    """Why accuracies determine no relation: equal, or no more different than by sampling. Empty if they do."""
    y, counts = np.asarray(robust, dtype=float), np.asarray(n, dtype=float)
    if not len(y):
        return "no usable point"
    if np.ptp(y) == 0.0:
        return f"all robust accuracies are equal ({y[0]:.3g})"
    mean = float((counts * y).sum() / counts.sum())
    statistic = float((counts * (y - mean) ** 2).sum() / (mean * (1.0 - mean)))
    chance = float(chi2.sf(statistic, len(y) - 1))
    if chance > SAME:
        return f"the robust accuracies differ no more than by sampling (chi-squared test, p = {chance:.2g})"
    return ""


def _missing(names: tuple[str, ...], x: Array, y: Array, n: Array) -> str:
    """Why the points cannot determine a curve, before any is fitted."""
    if len(x) <= len(names):
        return f"{len(x)} usable points, {len(names) + 1} are needed"
    if np.ptp(x) == 0.0:
        return f"all compression rates are equal ({x[0]:.3g})"
    return undetermined_accuracies(y, n)


def _at_limit(form: Form, parameters: Array) -> tuple[str, ...]:
    low, high = (np.array(limits[: len(form.names)]) for limits in (LOWEST, HIGHEST))
    near = NEAR * (high - low)
    ended = (parameters - low < near) | (high - parameters < near)
    return tuple(name for name, end in zip(form.names, ended, strict=True) if end)


def _unclear(form: Form, curve: BestCurve, y: Array) -> str:
    """Why the best curve is not determined by the points."""
    if not r_squared(curve, y) > FLAT:
        return "no falling sigmoid describes them better than a constant"
    if not curve.settled or not np.isfinite(curve.slopes).all():
        return "the search for the best sigmoid did not settle"
    size = np.array(SIZES[: len(form.names)])
    singular = np.linalg.svd(curve.slopes * size, compute_uv=False)
    if singular[-1] <= TELL_APART * singular[0]:
        return "many sigmoids describe them equally well"
    return ""


def fit_sigmoid(
    form: str,
    cr: Sequence[float],
    robust: Sequence[float],
    n: Sequence[int],
    *,
    clean: float,
    factors: Mapping[str, Labels] | None = None,
    covariance: Array | None = None,
) -> Fit | Undetermined:
    """Fit one form to points (compression rate, robust accuracy in [0, 1] on n images).

    clean       clean accuracy of the purified system, in (0, 1] (used by "anchored")
    factors     name -> one label per point: points with the same label are not independent (`resampling`)
    covariance  (points, points) of the accuracies over the images, which the points share; the fitted curve's binomial
                variance takes the place of its diagonal. Independent points if none is given
    Points whose rate or accuracy is not finite are left out. k is searched in [0, 500], c in [-2, 3], A in [0, 3].
    """
    x, y, counts = (np.asarray(values, dtype=float) for values in (cr, robust, n))
    usable = np.isfinite(x) & np.isfinite(y) & (counts > 0)
    x, y, counts = x[usable], y[usable], counts[usable]
    chosen = family(form, clean)
    if reason := _missing(chosen.names, x, y, counts):
        return Undetermined(form, len(x), reason)
    if form == "anchored" and not clean > 0.0:
        return Undetermined(form, len(x), "the clean accuracy is not positive")
    curve = best_curve(chosen, x, y, counts)
    if reason := _unclear(chosen, curve, y):
        return Undetermined(form, len(x), reason)
    freedom = len(x) - len(chosen.names)
    groups = {name: np.asarray(labels)[usable] for name, labels in (factors or {}).items()}
    errors = np.zeros((len(x), len(x))) if covariance is None else covariance[np.ix_(usable, usable)].copy()
    np.fill_diagonal(errors, curve.deviation**2)
    return Fit(
        form,
        chosen.names,
        curve.parameters,
        np.linalg.inv(curve.slopes.T @ curve.slopes),
        _scatters(curve, groups, errors),
        r_squared=r_squared(curve, y),
        chi_squared=float(np.square(curve.residuals).sum()) / freedom,
        n=len(x),
        at_limit=_at_limit(chosen, curve.parameters),
        family=chosen,
    )


def _scatters(curve: BestCurve, factors: Mapping[str, Labels], errors: Array) -> tuple[Scatter, ...]:
    """Covariances of the parameters for resampled images, purifiers and groups of purifiers.

    images     the accuracies' covariance over images, carried through the fit
    purifiers  binomial covariance times the reduced chi-squared (McCullagh and Nelder 1989, section 4.5)
    groups     leave-one-group-out ("CV3": MacKinnon, Nielsen and Webb, J. Econometrics 232:272, 2023)
    The error that all purifiers share because they are judged on the same images moves all points together, so that
    their scatter does not show it: it is added to the last two.
    """
    points, size = curve.slopes.shape
    binomial = np.linalg.inv(curve.slopes.T @ curve.slopes)
    carry = binomial @ curve.slopes.T / curve.deviation
    shared = carry @ (errors - np.diag(np.diag(errors))) @ carry.T
    dispersion = float(np.square(curve.residuals).sum()) / (points - size)
    found = [
        Scatter(IMAGES, carry @ errors @ carry.T, points - size),
        Scatter(PURIFIERS, dispersion * binomial + shared, points - size),
    ]
    grouped = grouped_variance(lambda labels: _left_out(curve, labels), factors)
    if grouped is not None:
        found.append(Scatter(GROUPS, grouped[0] + shared, grouped[1]))
    return tuple(found)


def _left_out(curve: BestCurve, labels: Array) -> Array:
    """Covariance of the parameters from leaving out every group of points once, linearised; infinite if it cannot be."""
    size = curve.slopes.shape[1]
    information = curve.slopes.T @ curve.slopes
    total = np.zeros((size, size))
    groups = np.unique(labels)
    for group in groups:
        own = labels == group
        if np.linalg.matrix_rank(curve.slopes[~own]) < size:
            return np.full((size, size), np.inf)
        others = information - curve.slopes[own].T @ curve.slopes[own]
        change = np.linalg.solve(others, curve.slopes[own].T @ curve.residuals[own])
        total += np.outer(change, change)
    return (len(groups) - 1.0) / len(groups) * total
