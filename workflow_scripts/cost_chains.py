"""The first steps of a purifier, from which the cost of all of them is extrapolated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from purification.noise import Noise
from purification.purifiers import DiffusionPurifier, Purifier, ResizedPurifier


@dataclass(frozen=True)
class Shortened:
    """The first steps of a purifier."""

    purifier: Purifier
    num_steps: int

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return self.purifier.start(images, noise)

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        return self.purifier.step(number, state, images, noise)

    def finish(self, state: Tensor) -> Tensor:
        return self.purifier.finish(state)


def first_steps(purifier: Purifier, steps: int) -> Purifier:
    """The purifier itself where it has no more."""
    if steps >= purifier.num_steps:
        return purifier
    if isinstance(purifier, DiffusionPurifier):
        return replace(purifier, table=purifier.table[:steps])
    if isinstance(purifier, ResizedPurifier):
        return replace(purifier, inner=first_steps(purifier.inner, steps))
    return Shortened(purifier, steps)
