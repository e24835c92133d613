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

from purification.models.denoisers import Denoiser
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
        value = potential(leaf).sum()
        if not value.requires_grad:
            return torch.zeros_like(state)
        (direction,) = torch.autograd.grad(value, leaf, create_graph=recording)
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


def predicted(own: Tensor, logits: Tensor) -> Tensor:
    """log p(y | u) of the label that the network gives the input, (B,)."""
    label = own.argmax(dim=1, keepdim=True)
    return F.log_softmax(logits, dim=1).gather(1, label).squeeze(1)


def expected(own: Tensor, logits: Tensor) -> Tensor:
    """log p(y | u) averaged over the labels that the network gives the input, (B,)."""
    return (own.softmax(dim=1) * F.log_softmax(logits, dim=1)).sum(dim=1)


def absent(own: Tensor, logits: Tensor) -> Tensor:
    """No term for the label, (B,)."""
    return 0.0 * logits.sum(dim=1)


LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"predicted": predicted, "expected": expected, "none": absent}


def at_state(state: Tensor, level: Level, denoiser: Denoiser) -> Tensor:
    """The state without its scale, u / sqrt(abar): a noisy image on [-1, 1]."""
    return state / math.sqrt(level.alpha_bar)


def at_estimate(state: Tensor, level: Level, denoiser: Denoiser) -> Tensor:
    """The one-step estimate of the clean image."""
    eps = denoiser.epsilon(state, level)
    return (state - math.sqrt(1.0 - level.alpha_bar) * eps) / math.sqrt(level.alpha_bar)


PLACES: dict[str, Callable[[Tensor, Level, Denoiser], Tensor]] = {"state": at_state, "estimate": at_estimate}


@dataclass(frozen=True)
class NetworkGuidance:
    """Pull towards what an auxiliary classifier c sees in the image being purified (AGDM, arXiv 2403.16067).

    g_t = grad_u [log p(y | u) - KL(c(x') || c(u))], factor `scale`, beside the variance of the step.

    denoiser  its `auxiliary` is c, images in [0, 1] -> logits
    label     y is the one c has "predicted" for x', the mean over its "expected" ones, or "none": without this term
    place     c is evaluated at the "state" without its scale or at the one-step "estimate"
    """

    denoiser: Denoiser
    label: str
    place: str
    scale: float

    def pull(self, state: Tensor, images: Tensor, level: Level, noise: Noise, number: int) -> Tensor:
        guide = self.denoiser.auxiliary
        if guide is None:
            raise ValueError("expected a denoiser with a guide, got none — name a network under guidance")
        own = guide(images)

        def potential(u: Tensor) -> Tensor:
            logits = guide(0.5 * (PLACES[self.place](u, level, self.denoiser) + 1.0))
            target, found = F.log_softmax(own, dim=1), F.log_softmax(logits, dim=1)
            unlike = F.kl_div(found, target, reduction="none", log_target=True).sum(dim=1)
            return LABELS[self.label](own, logits) - unlike

        return gradient_at(state, potential)

    def weight(self, level: Level) -> float:
        return self.scale


def _image(settings: Mapping[str, Any], denoiser: Denoiser) -> Guidance:
    return ImageGuidance(settings["distance"], settings["reference"], settings["scale"], settings["assumed"])


def _network(settings: Mapping[str, Any], denoiser: Denoiser) -> Guidance:
    return NetworkGuidance(denoiser, settings["label"], settings["place"], settings["scale"])


GUIDES: dict[str, Callable[[Mapping[str, Any], Denoiser], Guidance]] = {"image": _image, "network": _network}


def make_guidance(settings: Mapping[str, Any], denoiser: Denoiser) -> Guidance:
    """Guidance of one `guidance` section."""
    return GUIDES[settings["guide"]](settings, denoiser)
