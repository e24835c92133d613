"""Noise as an argument: the randomness of a purification, drawn from the counter-based generator of `philox`.

An image receives the same noise whatever its batch, its shard, its device or the number of restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from purification.philox import generator

FORWARD = "forward"
REVERSE = "reverse"


@dataclass(frozen=True)
class Noise:
    """The randomness of one purification of a batch.

    seed    experiment seed
    role    what the draw is for ("fixed", "attack", "evaluation", ...): roles never share a number
    images  dataset index of every batch member
    draws   draw number of every batch member
    shape   (C, H, W) of one image
    held    streams that are taken from another `Noise` (deterministic white-box variants, ADDT arXiv 2404.14309)
    """

    seed: int
    role: str
    images: tuple[int, ...]
    draws: tuple[int, ...]
    shape: tuple[int, int, int]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    held: Mapping[str, Noise] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.draws):
            raise ValueError(
                f"expected one draw number per image, got {len(self.images)} images and {len(self.draws)} draws"
            )

    def normal(self, stream: str, step: int = 0) -> Tensor:
        """Standard normals, (B, C, H, W)."""
        if stream in self.held:
            return self.held[stream].normal(stream, step)
        return self._fill(stream, step, lambda g: g.standard_normal(self.shape, dtype=np.float32))

    def uniform(self, stream: str, step: int = 0) -> Tensor:
        """Uniform numbers in [-1, 1), (B, C, H, W)."""
        if stream in self.held:
            return self.held[stream].uniform(stream, step)
        return self._fill(stream, step, lambda g: 2 * g.random(self.shape, dtype=np.float32) - 1)

    def _fill(self, stream: str, step: int, sample: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
        cells = zip(self.images, self.draws, strict=True)
        rows = [sample(generator(self.seed, self.role, stream, image, draw, step)) for image, draw in cells]
        return torch.from_numpy(np.stack(rows)).to(device=self.device, dtype=self.dtype)

    def sized(self, size: int) -> Noise:
        """The noise of the same images at another height and width: other numbers, as reproducible."""
        held = {stream: noise.sized(size) for stream, noise in self.held.items()}
        return replace(self, shape=(self.shape[0], size, size), held=held)

    def on(self, device: torch.device | str) -> Noise:
        """The same numbers on a device: they are drawn on the CPU and moved."""
        return replace(self, device=device, held={stream: noise.on(device) for stream, noise in self.held.items()})

    def hold(self, streams: Sequence[str], source: Noise) -> Noise:
        """The same noise with `streams` taken from `source`."""
        return replace(self, held={**self.held, **dict.fromkeys(streams, source)})


@dataclass(frozen=True)
class NoiseSource:
    """Makes the `Noise` of a batch for one role.

    held  streams that come from draw 0 of the role "fixed"
    pool  > 0: there are only so many draws, and their numbers are taken modulo it
    """

    seed: int
    role: str
    shape: tuple[int, int, int]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    held: tuple[str, ...] = ()
    pool: int = 0

    def __call__(self, images: Sequence[int], draw: int | Sequence[int] = 0) -> Noise:
        """Noise of `images` (dataset indices) at one draw number for all, or one each."""
        draws = (draw,) * len(images) if isinstance(draw, int) else tuple(draw)
        if self.pool:
            draws = tuple(number % self.pool for number in draws)
        noise = Noise(self.seed, self.role, tuple(images), draws, self.shape, self.device, self.dtype)
        if not self.held:
            return noise
        fixed = replace(noise, role="fixed", draws=(0,) * len(images))
        return noise.hold(self.held, fixed)
