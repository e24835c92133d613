"""Variance-preserving noise schedules on [-1, 1] images.

Discrete (Ho et al. 2020): beta_i linear in i, abar_i = prod_{j<=i} (1 - beta_j), index i = 0..T-1.
Continuous (Song et al. 2021): beta(t) = b_min + (b_max - b_min) t, abar(t) = exp(-(b_min t + (b_max - b_min) t^2 / 2)).
Index i corresponds to t = (i + 1) / T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """A noise level: its position in the schedule, as given to the network (an index, or a float between), and abar."""

    position: float
    alpha_bar: float


@dataclass(frozen=True)
class Schedule:
    """Linear schedule with `train_steps` levels; tables are float64."""

    beta_start: float
    beta_end: float
    train_steps: int

    @cached_property
    def alpha_bars(self) -> np.ndarray:
        """abar_0 .. abar_{T-1}."""
        return np.cumprod(1.0 - np.linspace(self.beta_start, self.beta_end, self.train_steps))

    def level(self, index: int) -> Level:
        """Discrete level; index -1 is the clean image (abar = 1)."""
        if not -1 <= index < self.train_steps:
            raise ValueError(f"expected a noise index in -1..{self.train_steps - 1}, got {index}")
        return Level(float(index), 1.0 if index == -1 else float(self.alpha_bars[index]))

    def beta(self, time: float) -> float:
        """Continuous beta(t), t in [0, 1]."""
        low, high = self.beta_start * self.train_steps, self.beta_end * self.train_steps
        return low + (high - low) * time

    def level_at(self, time: float) -> Level:
        """Continuous level at time t in [0, 1]; its index T t - 1 agrees with the discrete one, never below 0."""
        low, high = self.beta_start * self.train_steps, self.beta_end * self.train_steps
        alpha_bar = math.exp(-(low * time + 0.5 * (high - low) * time**2))
        return Level(max(self.train_steps * time - 1.0, 0.0), alpha_bar)

    def position_of(self, sigma: float) -> float:
        """Continuous position of the level with noise `sigma` per unit of signal, kept within 0 and T - 1.

        abar = 1 / (1 + sigma^2) at the time t with low t + (high - low) t^2 / 2 = ln(1 + sigma^2), at position T t - 1.
        """
        low, high = self.beta_start * self.train_steps, self.beta_end * self.train_steps
        total = math.log1p(sigma**2)
        time = 2.0 * total / (low + math.sqrt(low**2 + 2.0 * (high - low) * total))
        return min(max(self.train_steps * time - 1.0, 0.0), self.train_steps - 1.0)


def sigma_equivalent(alpha_bar: float) -> float:
    """Noise standard deviation per unit of signal, sqrt((1 - abar) / abar), on [-1, 1] images."""
    return math.sqrt((1.0 - alpha_bar) / alpha_bar)
