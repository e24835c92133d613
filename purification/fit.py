"""Robust accuracy as a sigmoid of the compression rate (Fig. 3b of arXiv 2505.22839).

Forms: `sigmoids`. Search: `curve_search`. Points that determine no curve are an outcome
(`Undetermined`), not an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, t

from purification.curve_search import HIGHEST, LOWEST, SIZES, BestCurve, best_curve, r_squared
from purification.intervals import CONFIDENCE
from purification.resampling import GROUPS, IMAGES, PURIFIERS, Labels, Spread, grouped_variance
from purification.sigmoids import Form, family

Array = NDArray[Any]
NEAR = 1e-4  # of its range: a parameter this close to an end of it has not been found inside
# smallest singular value of the scaled slopes, over the largest, of parameters that are determined
TELL_APART = 1e-5
FLAT = 1e-3  # R2 up to which a curve describes the points no better than a constant
STEEP = 50.0  # k from which a curve falls between two points of most sweeps
STEP = "a step of any steepness describes them equally well"
SAME = 0.05  # p-value above which accuracies count as equal but for sampling


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
    """Covariance of the parameters for one unit of resampling, and its degrees of freedom."""

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
    at_limit     parameters that ended at a limit of their search: their intervals mean nothing and
                 are NaN
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
        """Standard errors with purifiers as units: scaled by the root of the chi-squared above 1."""
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
        width = self._width(np.eye(len(self.names)), CONFIDENCE)
        return np.asarray(self.parameters + side * width)

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
        """Pointwise band of the curve by the delta method, as wide as the widest unit makes it."""
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
    """Why accuracies determine no relation: they are equal, but for sampling. Empty if they do."""
    y, counts = np.asarray(robust, dtype=float), np.asarray(n, dtype=float)
    if not len(y):
        return "no usable point"
    if np.ptp(y) == 0.0:
        return f"all robust accuracies are equal ({y[0]:.3g})"
    mean = float((counts * y).sum() / counts.sum())
    statistic = float((counts * (y - mean) ** 2).sum() / (mean * (1.0 - mean)))
    chance = float(chi2.sf(statistic, len(y) - 1))
    if chance > SAME:
        test = f"chi-squared test, p = {chance:.2g}"
        return f"the robust accuracies differ no more than by sampling ({test})"
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
    if HIGHEST[0] - curve.parameters[0] < NEAR * HIGHEST[0]:
        return STEP
    if not curve.settled or not np.isfinite(curve.slopes).all():
        return "the search for the best sigmoid did not settle"
    if not _told_apart(curve.slopes * np.array(SIZES[: len(form.names)])):
        return STEP if curve.parameters[0] > STEEP else "many sigmoids describe them equally well"
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
    factors     name -> one label per point: points with the same label are not independent
                (`resampling`)
    covariance  (points, points) of the accuracies over the images, which the points share; the
                fitted curve's binomial variance takes the place of its diagonal. Independent
                points if none is given
    Points whose rate or accuracy is not finite are left out. k is searched in [0, 500], c in [-2,
    3], A in [0, 3].
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
    errors = np.zeros((len(x), len(x)))
    if covariance is not None:
        errors += covariance[np.ix_(usable, usable)]
    np.fill_diagonal(errors, curve.deviation**2)
    return Fit(
        form,
        chosen.names,
        curve.parameters,
        _covariance(curve),
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
    purifiers  binomial covariance times the reduced chi-squared (McCullagh and Nelder 1989,
               section 4.5)
    groups     leave-one-group-out ("CV3": MacKinnon, Nielsen and Webb, J. Econometrics 232:272,
               2023)
    The error that all purifiers share because they are judged on the same images moves all points
    together, so that their scatter does not show it: it is added to the last two.
    """
    points, size = curve.slopes.shape
    binomial = _covariance(curve)
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
    """Covariance of the parameters from leaving out every group of points once, linearised.

    Infinite where the other points of a group do not determine the parameters.
    """
    size = np.array(SIZES[: curve.slopes.shape[1]])
    slopes = curve.slopes * size
    total = np.zeros((len(size), len(size)))
    groups = np.unique(labels)
    for group in groups:
        own = labels == group
        others = slopes[~own]
        if not _told_apart(others):
            return np.full_like(total, np.inf)
        change = size * np.linalg.solve(others.T @ others, slopes[own].T @ curve.residuals[own])
        total += np.outer(change, change)
    return (len(groups) - 1.0) / len(groups) * total


def _told_apart(slopes: Array) -> bool:
    """Whether slopes in units of SIZES determine all parameters."""
    if len(slopes) < slopes.shape[1]:
        return False
    singular = np.linalg.svd(slopes, compute_uv=False)
    return bool(singular[-1] > TELL_APART * singular[0])


def _covariance(curve: BestCurve) -> Array:
    """Covariance of the parameters from binomial noise."""
    size = np.array(SIZES[: curve.slopes.shape[1]])
    slopes = curve.slopes * size
    return np.asarray(np.linalg.inv(slopes.T @ slopes) * np.outer(size, size))
