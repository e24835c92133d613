"""The no-attack control of an attack: random perturbations as large as its own, image by image."""

from __future__ import annotations

import torch
from torch import Tensor

from purification.balls import NORMS
from purification.threat import TOLERANCE


def matched(adversarial: Tensor, images: Tensor, normal: Tensor, *, norm: str, epsilon: float) -> Tensor:
    """Images (B, C, H, W) in [0, 1] with random perturbations of the adversarial ones' sizes in the threat's norm.

    s_i = ||x'_i - x_i||; the perturbation is s_i sign(n) for linf and s_i n / ||n|| else, n standard normal. Pixels
    that leave the box are clipped. Where that makes a perturbation smaller they go the other way, which keeps its
    size as long as no pixel moves by more than 1/2. A size that is the budget up to rounding is the budget.
    """
    size = NORMS[norm].size(adversarial - images).to(images)
    size = torch.where((size - epsilon).abs() < TOLERANCE, torch.full_like(size, epsilon), size)
    unit = normal.sign() if norm == "linf" else normal / NORMS[norm].size(normal).to(normal).view(-1, 1, 1, 1)
    step = size.view(-1, 1, 1, 1) * unit
    clipped = (images + step).clamp(0.0, 1.0)
    inside = (images + step >= 0.0) & (images + step <= 1.0)
    turned = torch.where(inside, images + step, images - step).clamp(0.0, 1.0)
    short = NORMS[norm].size(clipped - images) < size - TOLERANCE
    return torch.where(short.view(-1, 1, 1, 1), turned, clipped)
