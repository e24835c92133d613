"""Threat models: the set an adversarial image must stay in, and the steps that suit its norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-6  # float32 rounding allowed when a budget is checked


def _norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.clamp_min(1e-12).view(-1, 1, 1, 1)


def _scale_to(delta: Tensor, epsilon: float) -> Tensor:
    return delta * (epsilon / _norms(delta)).clamp_max(1.0)


@dataclass(frozen=True)
class Norm:
    """size (B,) of perturbations, projection onto the ball of radius epsilon, and the unit ascent direction."""

    size: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]
    direction: Callable[[Tensor], Tensor]


NORMS = {
    "linf": Norm(
        size=lambda delta: delta.flatten(1).abs().amax(dim=1),
        project=lambda delta, epsilon: delta.clamp(-epsilon, epsilon),
        direction=torch.sign,
    ),
    "l2": Norm(
        size=lambda delta: delta.flatten(1).norm(dim=1),
        project=_scale_to,
        direction=lambda gradient: gradient / _norms(gradient),
    ),
}


@dataclass(frozen=True)
class ThreatModel:
    """{x' in [0, 1]: ||x' - x|| <= epsilon}; epsilon in [0, 1] image units."""

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"expected a norm among {sorted(NORMS)}, got {self.norm!r}")
        if self.epsilon < 0:
            raise ValueError(f"expected epsilon >= 0, got {self.epsilon}")

    def project(self, candidate: Tensor, images: Tensor) -> Tensor:
        """Nearest image of ball and box (exactly for linf; ball, then box otherwise)."""
        delta = NORMS[self.norm].project(candidate - images, self.epsilon)
        return (images + delta).clamp(0.0, 1.0)

    def ascend(self, current: Tensor, gradient: Tensor, step_size: float, images: Tensor) -> Tensor:
        """One projected step of length `step_size` along the norm's steepest-ascent direction."""
        return self.project(current + step_size * NORMS[self.norm].direction(gradient), images)

    def random_start(self, uniform: Tensor, images: Tensor) -> Tensor:
        """A point of the ball from uniform numbers in [-1, 1)."""
        return self.project(images + self.epsilon * uniform, images)

    def random(self, normal: Tensor, images: Tensor) -> Tensor:
        """A random perturbation as large as the budget, from standard normals: the control of every attack."""
        return self.project(images + self.epsilon * NORMS[self.norm].direction(normal), images)

    def check(self, adversarial: Tensor, images: Tensor) -> None:
        """Raise ValueError unless every adversarial image is finite, in the ball and in the box."""
        if not torch.isfinite(adversarial).all():
            raise ValueError("expected finite adversarial images, got NaN or infinity — the attack diverged")
        size = float(NORMS[self.norm].size(adversarial - images).max())
        if size > self.epsilon + TOLERANCE:
            raise ValueError(f"expected ||x' - x||_{self.norm} <= {self.epsilon}, got {size}")
        low, high = float(adversarial.min()), float(adversarial.max())
        if low < 0.0 or high > 1.0:
            raise ValueError(f"expected adversarial images in [0, 1], got [{low}, {high}]")
