"""One user's function, the images and noise it is tried on, and what a check finds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purification.noise import Noise, NoiseSource
from purification.user_code import UserFunction

OK, NOTE, FAILED, SKIPPED = "ok", "note", "FAILED", "not checked"
IMAGES = 4  # random ones; a black and a white one follow


@dataclass(frozen=True)
class Finding:
    """Outcome of one check: verdict OK, NOTE (worth knowing), FAILED or SKIPPED, and a sentence."""

    check: str
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Trial:
    """A user's function under trial; `noisy` functions take noise beside the images.

    make  makes it anew for a device
    """

    function: UserFunction
    make: Callable[[torch.device], UserFunction]
    image_shape: tuple[int, int, int]
    noisy: bool

    def noise(self, images: Tensor, ids: Sequence[int], draw: int = 0) -> list[Noise]:
        """Arguments that follow the images."""
        return [self.source(images.dtype, images.device)(ids, draw)] if self.noisy else []

    def source(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> NoiseSource:
        return NoiseSource(0, "contract", self.image_shape, device, dtype)

    def images(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random images in [0, 1], then a black and a white one."""
        uniform = 0.5 + 0.5 * self.source(dtype)(range(IMAGES)).uniform("images")
        return torch.cat([uniform, torch.zeros_like(uniform[:1]), torch.ones_like(uniform[:1])])

    def run(self, images: Tensor, ids: Sequence[int], draw: int = 0) -> Tensor:
        """Result for images with the noise of `ids`; raises ValueError like any call."""
        return self.function(images, *self.noise(images, ids, draw))


def verdict(check: str, holds: bool, good: str, bad: str) -> Finding:
    return Finding(check, OK if holds else FAILED, good if holds else bad)


def plain(trial: Trial, error: ValueError) -> str:
    """The sentence of an error without the name of the file, which the reader knows."""
    return str(error).removeprefix(f"{trial.function.path}, {trial.function.factory}: ")


def random_state() -> tuple[Any, ...]:
    """Global random state of torch, NumPy and Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def set_random_state(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])


def wide(images: Tensor) -> Tensor:
    """The same images from -.05 to 1.05."""
    return 1.1 * images - 0.05


def double_fault(trial: Trial) -> str | None:
    """Why it does not run in float64; None when it does."""
    images = trial.images(torch.float64)
    try:
        with torch.no_grad():
            trial.run(images, range(len(images)))
    except ValueError as error:
        return plain(trial, error)
    return None
