"""Guidance: what a reverse step of a purifier is pulled towards, as a gradient at the state.

A guided step adds weight * grad_u R(u, x') to the step of its sampler, where x' is the image being purified. That
gradient is part of the defence: it is computed for every image on its own, and differentiating the step differentiates
it too (second order), by the state and by x'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from purification.noise import REVERSE, Noise
from purification.schedule import Level

WINDOW, SIGMA = 11, 1.5  # of the Gaussian window of SSIM (Wang et al. 2004)
RANGE = 2.0  # of images on [-1, 1]
Distance = Callable[[Tensor, Tensor], Tensor]


class Guidance(Protocol):
    """What pulls at the state of a reverse step."""

    def pull(self, state: Tensor, images: Tensor, level: Level, noise: Noise, number: int) -> Tensor:
        """Direction (B, C, H, W) at a state of `level`, differentiable by state and images.

        images   (B, C, H, W) in [0, 1], the input of the purifier
        number   of the fresh reverse noise it may use; steps of the sampler use smaller ones
        """

    def weight(self, level: Level) -> float:
        """Factor of the direction, beside the variance of the step."""


def gradient_at(state: Tensor, potential: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of a potential (B,) at the state, itself differentiable where gradients are being recorded."""
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = state if recording and state.requires_grad else state.detach().requires_grad_()
        (direction,) = torch.autograd.grad(potential(leaf).sum(), leaf, create_graph=recording)
    return direction if recording else direction.detach()


def mse_pull(state: Tensor, reference: Tensor) -> Tensor:
    """Gradient of -||u - r||^2 / N at u, N pixels of one image: -2 (u - r) / N."""
    return (reference - state) * (2.0 / state[0].numel())


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity per image on [-1, 1] (Wang et al. 2004: 11x11 Gaussian windows inside the image), (B,)."""
    if min(a.shape[-2:]) < WINDOW:
        got = f"{tuple(a.shape[-2:])} — SSIM needs a window, use distance mse"
        raise ValueError(f"expected images of at least {WINDOW}x{WINDOW} pixels, got {got}")
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    window = (torch.outer(taps, taps) / taps.sum() ** 2).expand(a.shape[1], 1, -1, -1)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=a.shape[1])

    mean_a, mean_b = mean(a), mean(b)
    spread = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    shared = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    ratio = (2 * mean_a * mean_b + c1) * (2 * shared + c2) / ((mean_a**2 + mean_b**2 + c1) * (spread + c2))
    return ratio.flatten(1).mean(dim=1)


def ssim_pull(state: Tensor, reference: Tensor) -> Tensor:
    """Gradient of SSIM(u, r) at u."""
    return gradient_at(state, lambda u: ssim(u, reference))


DISTANCES: dict[str, Distance] = {"mse": mse_pull, "ssim": ssim_pull}
REFERENCES = ("noised", "clean")


@dataclass(frozen=True)
class ImageGuidance:
    """Pull towards the image being purified (GDMP, Wang et al. 2022, arXiv 2205.14969).

    g_t = grad_u R(u, r_t), R = -mean squared error or SSIM of each image;
    factor c_t = sqrt(1 - abar_t) / (m sqrt(abar_t)), m = 2 assumed / (3 scale), images on [-1, 1].

    distance   "mse" or "ssim"
    reference  r_t is the image "noised" to the level of the state with fresh noise, or the "clean" one as it came
    scale      strength; that of the authors' code with a batch of one
    assumed    size of the perturbation, images in [0, 1]
    """

    distance: str
    reference: str
    scale: float
    assumed: float

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(f"expected distance to be one of {sorted(DISTANCES)}, got {self.distance!r}")
        if self.reference not in REFERENCES:
            raise ValueError(f"expected reference to be one of {REFERENCES}, got {self.reference!r}")

    def pull(self, state: Tensor, images: Tensor, level: Level, noise: Noise, number: int) -> Tensor:
        reference = 2.0 * images - 1.0
        if self.reference == "noised":
            fresh = noise.normal(REVERSE, number)
            reference = math.sqrt(level.alpha_bar) * reference + math.sqrt(1.0 - level.alpha_bar) * fresh
        return DISTANCES[self.distance](state, reference)

    def weight(self, level: Level) -> float:
        m = 2.0 * self.assumed / (3.0 * self.scale)
        return math.sqrt(1.0 - level.alpha_bar) / (m * math.sqrt(level.alpha_bar))


def _image(settings: Mapping[str, Any]) -> Guidance:
    return ImageGuidance(settings["distance"], settings["reference"], settings["scale"], settings["assumed"])


GUIDES: dict[str, Callable[[Mapping[str, Any]], Guidance]] = {"image": _image}


def make_guidance(settings: Mapping[str, Any]) -> Guidance:
    """Guidance of one `guidance` section."""
    return GUIDES[settings["guide"]](settings)
