"""Singular values with their weights: all of a Jacobian, or the quadrature of its spectrum from random directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from purification.statistics import Array


def spectra(frame: pd.DataFrame) -> tuple[Array, Array]:
    """Singular values and weights of rows of `jacobian`, both (images, directions, values); weights sum to 1."""
    if frame.empty:
        return np.zeros((0, 1, 0)), np.zeros((0, 1, 0))
    directions = int(frame.directions.iloc[0])
    values, weights = (np.stack(frame[name].to_list()) for name in ("singular_values", "weights"))
    shape = (len(frame), directions, -1)
    return values.reshape(shape), weights.reshape(shape)


def means(frame: pd.DataFrame, of: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Mean of a function of the singular values per image, and its standard error over directions, 0 of all values."""
    values, weights = spectra(frame)
    found = (weights * of(values)).sum(axis=2)
    count = found.shape[1]
    errors = found.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(found))
    return found.mean(axis=1), errors


def joint_error(errors: Array) -> float:
    """Standard error of the mean over images of values with these standard errors."""
    return float(np.sqrt(np.square(errors).sum()) / len(errors))
