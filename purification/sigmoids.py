"""The forms of the compression-robustness curve and their derivatives by the parameters.

The paper's own form (Fig. 3b of arXiv 2505.22839) is not readable; see docs/methods.md, section 12:
    scaled     r = A / (1 + exp(k (CR - c)))                       3 parameters
    anchored   r = a s(-k (CR - c)) / s(k c), a = clean accuracy   2 parameters, r(0) = a by construction
    logistic   r = 1 / (1 + exp(k (CR - c)))                       2 parameters, intercept free
with s the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

Array = NDArray[Any]
FORMS = ("scaled", "anchored", "logistic")


@dataclass(frozen=True)
class Form:
    """A family of curves: curve(CR, *parameters) and slope(CR, *parameters) -> (points, parameters)."""

    names: tuple[str, ...]
    curve: Callable[..., Array]
    slope: Callable[..., Array]


def scaled(cr: Array, k: float, c: float, top: float) -> Array:
    """A / (1 + exp(k (CR - c)))."""
    return np.asarray(top * expit(-k * (cr - c)))


def logistic(cr: Array, k: float, c: float) -> Array:
    """1 / (1 + exp(k (CR - c)))."""
    return np.asarray(expit(-k * (cr - c)))


def anchored(clean: float) -> Callable[[Array, float, float], Array]:
    """a s(-k (CR - c)) / s(k c): passes through the clean accuracy at CR = 0."""

    def curve(cr: Array, k: float, c: float) -> Array:
        return np.asarray(clean * np.exp(log_expit(-k * (cr - c)) - log_expit(k * c)))

    return curve


def _slope_scaled(cr: Array, k: float, c: float, top: float) -> Array:
    share = expit(-k * (cr - c))
    change = top * share * (1.0 - share)
    return np.stack([-change * (cr - c), change * k, share], axis=1)


def _slope_logistic(cr: Array, k: float, c: float) -> Array:
    return _slope_scaled(cr, k, c, 1.0)[:, :2]


def _slope_anchored(clean: float) -> Callable[[Array, float, float], Array]:
    curve = anchored(clean)

    def slope(cr: Array, k: float, c: float) -> Array:
        value = curve(cr, k, c)
        here = expit(k * (cr - c))
        start = expit(-k * c)
        return np.stack([-value * ((cr - c) * here + c * start), value * k * (here - start)], axis=1)

    return slope


FAMILIES = {
    "scaled": Form(("k", "c", "A"), scaled, _slope_scaled),
    "logistic": Form(("k", "c"), logistic, _slope_logistic),
}


def family(form: str, clean: float) -> Form:
    """The form of this name; `clean` is the clean accuracy that "anchored" passes through."""
    if form == "anchored":
        return Form(("k", "c"), anchored(clean), _slope_anchored(clean))
    return FAMILIES[form]
