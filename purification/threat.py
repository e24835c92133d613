"""Threat models: the set an adversarial image must stay in, and the steps that suit its norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purification.balls import NORMS

TOLERANCE = 1e-6  # float32 rounding allowed when a budget is checked


@dataclass(frozen=True)
class ThreatModel:
    """{x' in [0, 1]: ||x' - x|| <= epsilon}; epsilon in image units.

    share   l1 only: share of the pixels that one step of steepest ascent moves
    """

    norm: str
    epsilon: float
    share: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"expected a norm among {sorted(NORMS)}, got {self.norm!r}")
        if self.epsilon < 0:
            raise ValueError(f"expected epsilon >= 0, got {self.epsilon}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"expected share in (0, 1], got {self.share}")

    def size(self, delta: Tensor) -> Tensor:
        """Length (B,) of perturbations in the norm."""
        return NORMS[self.norm].size(delta)

    def project(self, candidate: Tensor, images: Tensor) -> Tensor:
        """Nearest image of ball and box."""
        return NORMS[self.norm].project(candidate, images, self.epsilon)

    def ascend(
        self, current: Tensor, gradient: Tensor, length: float | Tensor, images: Tensor, share: Tensor | None = None
    ) -> Tensor:
        """One projected step along the norm's steepest-ascent direction.

        length   of the step, one number or (B, 1, 1, 1)
        share    (B,) in place of the threat model's
        """
        if share is None:
            if self.share is None and self.norm == "l1":
                raise ValueError(
                    "expected share with norm l1, got none — set the share of the pixels that a step moves"
                )
            share = current.new_full((len(current),), self.share or 1.0)
        return self.project(current + length * NORMS[self.norm].steepest(gradient, current, share), images)

    def random_start(self, uniform: Tensor, radius: Tensor, images: Tensor) -> Tensor:
        """A uniform point of the ball, then of the box, from uniform numbers in [-1, 1) and (B,) in [0, 1)."""
        return self.project(images + self.epsilon * NORMS[self.norm].ball(uniform, radius), images)

    def random(self, normal: Tensor, images: Tensor) -> Tensor:
        """A random perturbation as large as the budget, from standard normals: the control of every attack."""
        return self.project(images + self.epsilon * NORMS[self.norm].unit(normal), images)

    def check(self, adversarial: Tensor, images: Tensor) -> None:
        """Raise ValueError unless every adversarial image is finite, in the ball and in the box."""
        if not torch.isfinite(adversarial).all():
            raise ValueError("expected finite adversarial images, got NaN or infinity — the attack diverged")
        size = float(self.size(adversarial.double() - images.double()).max())
        if size > self.epsilon + TOLERANCE:
            raise ValueError(f"expected ||x' - x||_{self.norm} <= {self.epsilon}, got {size}")
        low, high = float(adversarial.min()), float(adversarial.max())
        if low < 0.0 or high > 1.0:
            raise ValueError(f"expected adversarial images in [0, 1], got [{low}, {high}]")
