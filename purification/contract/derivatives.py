"""That a gradient exists and is the derivative of what runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from purification.contract.trial import FAILED, IMAGES, OK, Finding, Trial, double_fault, wide
from purification.differences import DIRECTIONS, DOUBLE, SINGLE, Difference, directional_error
from purification.noise import NoiseSource
from purification.user_code import NO_PATH, explained


def _slope(trial: Trial, images: Tensor, weights: Tensor) -> Tensor:
    """Gradient of sum_b <weights_b, f(images)_b> at the images; raises ValueError without a path to them."""
    leaf = images.clone().requires_grad_()
    result = trial.run(leaf, range(len(images)))
    with explained(trial.function.path, trial.function.factory):
        (slope,) = torch.autograd.grad((result * weights).sum(), leaf, allow_unused=True)
    if slope is None:
        raise ValueError(NO_PATH)
    return slope


def _weights(trial: Trial, like: Tensor, count: int) -> Tensor:
    """Random weights for the results of `count` images."""
    source = NoiseSource(0, "weights", (1, 1, int(np.prod(trial.function.shape))), "cpu", like.dtype)
    return source(range(count)).normal("weights").view(count, *trial.function.shape)


def differentiable(trial: Trial) -> Finding:
    """There is a gradient, finite also at black and white images, and not zero everywhere."""
    name, images = "differentiable", trial.images()
    slope = _slope(trial, images, _weights(trial, images, len(images)))
    broken = int((~torch.isfinite(slope)).flatten(1).any(dim=1).sum())
    if broken:
        bad = f"expected a finite gradient, got NaN or infinity for {broken} of {len(images)} images"
        return Finding(name, FAILED, f"{bad} — avoid sqrt, log and division at 0 (a black and a white image are tried)")
    if slope.any():
        return Finding(name, OK, "the gradient is finite and not zero")
    with torch.no_grad():
        result = trial.run(images, [0] * len(images))
    ignores = torch.equal(result, result[:1].expand_as(result))
    cause = "it ignores the images" if ignores else "it rounds, thresholds or sorts into levels"
    return Finding(name, FAILED, f"expected a gradient, got zero everywhere: {cause} — attacks would find nothing")


def _error(trial: Trial, difference: Difference) -> float:
    """Error of directional derivatives in units of their size; the worst image, the median direction.

    Images are from -.05 to 1.05, so that a clamp to [0, 1] acts.
    """
    dtype = difference.dtype
    images = wide(trial.images(dtype))[:IMAGES]
    weights, ids = _weights(trial, images, IMAGES), range(IMAGES)
    gradient = _slope(trial, images, weights).double()
    if not torch.isfinite(gradient).all():
        raise ValueError("expected a finite gradient slightly outside [0, 1], got NaN or infinity — clamp first")
    source = trial.source(dtype)
    directions = torch.stack([source(ids, draw).normal("direction") for draw in range(DIRECTIONS)])

    def values(moved: Tensor) -> Tensor:
        with torch.no_grad():
            return (trial.run(moved, ids).double() * weights).flatten(1).sum(dim=1)

    return float(directional_error(values, images, gradient, directions, difference.step).max())


def gradient(trial: Trial) -> Finding:
    """The gradient is the derivative of what runs, by central differences."""
    errors = []
    for difference in SINGLE if double_fault(trial) else DOUBLE:
        errors.append(_error(trial, difference))
        if errors[-1] <= difference.tolerance:
            seen = f"the derivative of what runs, to {errors[-1]:.0e} ({difference.dtype})"
            return Finding("gradient", OK, seen)
    return Finding(
        "gradient",
        FAILED,
        f"expected the derivative of what runs, got one that differs from it by {100 * min(errors):.0f} % (finite "
        "differences) — detach and round nothing, replace no backward pass; a purifier whose gradient stands in for "
        "one on purpose says so with `derivative: approximate` in its entry",
    )
