"""That a gradient exists and is the derivative of what runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from purification.contract.trial import FAILED, IMAGES, OK, Finding, Trial, double_fault, wide
from purification.noise import NoiseSource
from purification.user_code import NO_PATH, explained

# Central differences (type, step, tolerance), whichever fits. float64: rounding 1e-10, a kink within the step 1e-6. A
# float32 network inside a float64 purifier: rounding 1e-7 over the longer step. float32 alone: rounding up to 1e-2
# where a network amplifies it a thousandfold. The gradient of something else is off by the share it gets wrong.
DOUBLE = ((torch.float64, 1e-6, 1e-3), (torch.float64, 1e-3, 1e-2))
SINGLE = ((torch.float32, 1e-3, 5e-2),)
DIRECTIONS = 5  # the median over them forgives a direction that crosses a kink


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


def _error(trial: Trial, dtype: torch.dtype, step: float) -> float:
    """Error of directional derivatives in units of their size; the worst image, the median direction.

    Images are from -.05 to 1.05, so that a clamp to [0, 1] acts.
    """
    images = wide(trial.images(dtype))[:IMAGES]
    weights, ids = _weights(trial, images, IMAGES), range(IMAGES)
    gradient = _slope(trial, images, weights).double()
    if not torch.isfinite(gradient).all():
        raise ValueError("expected a finite gradient slightly outside [0, 1], got NaN or infinity — clamp first")
    slopes, differences = [], []
    for draw in range(DIRECTIONS):
        direction = trial.source(dtype)(ids, draw).normal("direction")
        with torch.no_grad():
            up, down = (trial.run(images + sign * step * direction, ids) for sign in (1, -1))
        differences.append(((up - down).double() * weights).flatten(1).sum(dim=1) / (2 * step))
        slopes.append((gradient * direction).flatten(1).sum(dim=1))
    a, b = torch.stack(slopes), torch.stack(differences)
    size = torch.maximum(a.square(), b.square()).mean(dim=0).sqrt().clamp_min(1e-30)
    return float(((a - b).abs().median(dim=0).values / size).max())


def gradient(trial: Trial) -> Finding:
    """The gradient is the derivative of what runs, by central differences."""
    errors = []
    for dtype, step, tolerance in SINGLE if double_fault(trial) else DOUBLE:
        errors.append(_error(trial, dtype, step))
        if errors[-1] <= tolerance:
            return Finding("gradient", OK, f"the derivative of what runs, to {errors[-1]:.0e} ({dtype})")
    return Finding(
        "gradient",
        FAILED,
        f"expected the derivative of what runs, got one that differs from it by {100 * min(errors):.0f} % (finite "
        "differences) — detach and round nothing, replace no backward pass",
    )
