"""Central differences beside derivatives: the steps they are taken with, and the error that a gradient is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 5  # the median over them forgives a direction that crosses a kink


@dataclass(frozen=True)
class Difference:
    """A type of numbers, a step in units of the images, and the relative error that its differences may have."""

    dtype: torch.dtype
    step: float
    tolerance: float


# The step that fits decides. float64: rounding is 1e-10 over the first step; the second is shorter,
# so that fewer of a network's thousand kinks lie within it. The third holds a float32 network
# inside (rounding 1e-7), the fourth float16 (1e-4), the last bfloat16 (1e-3). float32 alone:
# rounding up to 1e-2 where a network amplifies it a thousandfold. The gradient of something else is
# off by the share it gets wrong, at every step.
DOUBLE = (
    Difference(torch.float64, 1e-6, 1e-3),
    Difference(torch.float64, 1e-8, 1e-3),
    Difference(torch.float64, 1e-3, 1e-2),
    Difference(torch.float64, 1e-2, 5e-2),
    Difference(torch.float64, 5e-2, 5e-2),
)
SINGLE = (
    Difference(torch.float32, 1e-3, 5e-2),
    Difference(torch.float32, 1e-2, 5e-2),
    Difference(torch.float32, 1e-4, 5e-2),
    Difference(torch.float32, 5e-2, 5e-2),
)


def relative_error(derivatives: Tensor, differences: Tensor) -> Tensor:
    """Error (n,) of directional derivatives (K, n) against differences (K, n), in units of their size.

    The median over the K directions of |d - f|, over the root mean square of the larger of the two; 0 where both are.
    """
    derivatives = derivatives.double().T.contiguous()  # (n, K): sums within an image do not depend on the others
    differences = differences.double().T.contiguous()
    largest = torch.maximum(derivatives.square(), differences.square())
    size = largest.mean(dim=1).sqrt().clamp_min(1e-300)
    error: Tensor = (derivatives - differences).abs().median(dim=1).values / size
    return error


def directional_error(
    values: Callable[[Tensor], Tensor], images: Tensor, gradient: Tensor, directions: Tensor, step: float
) -> Tensor:
    """Relative error (n,) of a gradient (n, C, H, W) of `values`, by central differences along directions (K, n, ...).

    values  images (n, C, H, W) -> one number per image (n,)
    """
    derivatives = (gradient * directions).flatten(2).sum(dim=2)
    differences = []
    for direction in directions:
        up = values(images + step * direction).double()
        down = values(images - step * direction).double()
        differences.append((up - down) / (2 * step))
    return relative_error(derivatives, torch.stack(differences))
