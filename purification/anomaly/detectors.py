"""Detectors as a purifier and a head, so that every attack and gradient of a defence is theirs too.

The head gives the logits (0, A) for the score A. With label 0 for a normal image and 1 for an anomaly the margin of
these logits is +A and -A: an attack that raises the margin raises the score of normal images and lowers that of
anomalies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from purification.anomaly.maps import ErrorMap
from purification.batching import map_batches
from purification.defence import Defence
from purification.models.denoisers import Denoiser
from purification.noise import FORWARD, Noise, NoiseSource
from purification.purifiers import FunctionPurifier, Purifier, make_purifier
from purification.schedule import Level, sigma_equivalent

Split = Callable[[Tensor], tuple[Tensor, Tensor]]
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda deviation: deviation.flatten(1).amax(dim=1),
    "mean": lambda deviation: deviation.flatten(1).mean(dim=1),
}


@dataclass(frozen=True)
class Head:
    """From what a purifier gives to the score A = max (or mean) over pixels of |Err_ms - E|.

    split     purified -> images (B, C, H, W) and reconstructions (B, m, C, H, W), on [-1, 1]
    baseline  E (H, W), the mean map of normal training images; zeros before the calibration
    """

    split: Split
    error: ErrorMap
    summary: str
    baseline: Tensor

    def maps(self, purified: Tensor) -> Tensor:
        """Err_ms, (B, H, W)."""
        return self.error(*self.split(purified))

    def deviation(self, purified: Tensor) -> Tensor:
        """|Err_ms - E|, (B, H, W)."""
        return (self.maps(purified) - self.baseline.to(purified)).abs()

    def __call__(self, purified: Tensor) -> Tensor:
        """Logits (0, A), (B, 2)."""
        score = POOLS[self.summary](self.deviation(purified))
        return torch.stack([torch.zeros_like(score), score], dim=1)


@dataclass(frozen=True)
class Projection:
    """Reconstruction without a diffusion model: the nearest point of the span of the training images' principal axes.

    mean (D,); axes (q, D), orthonormal; on [-1, 1] images
    """

    mean: Tensor
    axes: Tensor

    def split(self, purified: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and their projections."""
        u = 2.0 * purified - 1.0
        mean, axes = self.mean.to(u), self.axes.to(u)
        rebuilt = mean + ((u.flatten(1) - mean) @ axes.T) @ axes
        return u, rebuilt.view(len(u), 1, *u.shape[1:])


def fit_projection(images: Tensor, components: int) -> Projection:
    """Principal axes of images (n, C, H, W) in [0, 1], in float64; raises ValueError for n or more of them."""
    if not 1 <= components < len(images):
        raise ValueError(
            f"expected 1 to {len(images) - 1} components for {len(images)} images, got {components} — lower it"
        )
    u = (2.0 * images.double() - 1.0).flatten(1)
    mean = u.mean(dim=0)
    axes = torch.linalg.svd(u - mean, full_matrices=False).Vh[:components]
    return Projection(mean.float(), axes.float())


def estimate(denoiser: Denoiser, u: Tensor, level: Level) -> Tensor:
    """Data behind a state in one step, (u - sqrt(1 - abar) eps(u)) / sqrt(abar)."""
    rest = math.sqrt(1.0 - level.alpha_bar)
    return (u - rest * denoiser.epsilon(u, level)) / math.sqrt(level.alpha_bar)


def one_shot(denoiser: Denoiser, level: Level, shots: int) -> Purifier:
    """Images -> images on [-1, 1] and `shots` reconstructions, each from noise of its own: (B, (1 + shots) C, H, W)."""
    root, rest = math.sqrt(level.alpha_bar), math.sqrt(1.0 - level.alpha_bar)

    def run(images: Tensor, noise: Noise) -> Tensor:
        u = 2.0 * images - 1.0
        states = (root * u + rest * noise.normal(FORWARD, shot) for shot in range(shots))
        return torch.cat([u, *(estimate(denoiser, state, level) for state in states)], dim=1)

    return FunctionPurifier(run)


def paired(channels: int) -> Split:
    """Undo the concatenation of `one_shot`."""

    def split(purified: Tensor) -> tuple[Tensor, Tensor]:
        parts = purified.view(len(purified), -1, channels, *purified.shape[2:])
        return parts[:, 0], parts[:, 1:]

    return split


@dataclass(frozen=True)
class Parts:
    """What all arms of one comparison share: the denoiser of normal images, the projection, the image shape."""

    denoiser: Denoiser
    projection: Projection
    shape: tuple[int, int, int]
    device: torch.device


Made = tuple[Purifier, Split]


def _advrad(parts: Parts, settings: Mapping[str, Any]) -> Made:
    level = parts.denoiser.schedule.level(settings["level"])
    return one_shot(parts.denoiser, level, settings["shots"]), paired(parts.shape[0])


def _plain(parts: Parts, settings: Mapping[str, Any]) -> Made:
    return FunctionPurifier(lambda images, noise: images), parts.projection.split


def _purified(parts: Parts, settings: Mapping[str, Any]) -> Made:
    """Purify, then detect: the same detector as `plain`, behind a purifier with the same denoiser as `advrad`."""
    return make_purifier(settings["purifier"], parts.denoiser, parts.shape, parts.device), parts.projection.split


ARMS: dict[str, Callable[[Parts, Mapping[str, Any]], Made]] = {
    "advrad": _advrad,
    "purified": _purified,
    "plain": _plain,
}


def noise_scale(denoiser: Denoiser, index: int) -> float:
    """sigma of images in [0, 1] whose noise is that of a level: half of sqrt((1 - abar) / abar)."""
    return 0.5 * sigma_equivalent(denoiser.schedule.level(index).alpha_bar)


def noised(scale: float, of_noisy: Callable[[Tensor], Tensor]) -> Purifier:
    """x -> f(x + sigma n): f is given the noisy image and nothing else, which is what a certificate needs."""
    return FunctionPurifier(lambda images, noise: of_noisy(images + scale * noise.normal(FORWARD)))


def _estimate_of_noisy(parts: Parts, index: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    level = parts.denoiser.schedule.level(index)

    def run(noisy: Tensor) -> tuple[Tensor, Tensor]:
        u = 2.0 * noisy - 1.0
        return u, estimate(parts.denoiser, math.sqrt(level.alpha_bar) * u, level)

    return run


def _smooth_advrad(parts: Parts, index: int) -> Made:
    """The error against the noisy image itself: against the clean one the score would not be covered."""
    run = _estimate_of_noisy(parts, index)
    return noised(noise_scale(parts.denoiser, index), lambda noisy: torch.cat(run(noisy), dim=1)), paired(
        parts.shape[0]
    )


def _smooth_purified(parts: Parts, index: int) -> Made:
    """One-shot denoising of the noisy image, then the plain detector on the result."""
    run = _estimate_of_noisy(parts, index)
    return noised(noise_scale(parts.denoiser, index), lambda noisy: 0.5 * (run(noisy)[1] + 1.0)), parts.projection.split


def _smooth_plain(parts: Parts, index: int) -> Made:
    return noised(noise_scale(parts.denoiser, index), lambda noisy: noisy), parts.projection.split


SMOOTHED: dict[str, Callable[[Parts, int], Made]] = {
    "advrad": _smooth_advrad,
    "purified": _smooth_purified,
    "plain": _smooth_plain,
}


def calibrated(
    made: Made,
    images: Tensor,
    ids: Sequence[int],
    source: NoiseSource,
    settings: Mapping[str, Any],
    *,
    batch_size: int,
    gradient_batch_size: int,
) -> Defence:
    """The detector with E, the mean map of normal training images over `settings["calibration"]` draws."""
    purifier, split = made
    error = ErrorMap(tuple(settings["scales"]), settings["window"])
    head = Head(split, error, settings["summary"], torch.zeros(images.shape[-2:]))
    bare = Defence(purifier, head, batch_size, gradient_batch_size=gradient_batch_size)
    total = torch.zeros(images.shape[-2:], dtype=torch.float64)
    for draw in range(settings["calibration"]):
        total += maps(bare, images, ids, source, draw).double().mean(dim=0).cpu()
    whole = replace(head, baseline=(total / settings["calibration"]).float())
    return Defence(purifier, whole, batch_size, gradient_batch_size=gradient_batch_size)


def head_of(detector: Defence) -> Head:
    """What scores maps in a detector; raises TypeError for a defence in front of another classifier."""
    if not isinstance(detector.classifier, Head):
        raise TypeError(f"expected a detector with a head that scores maps, got {type(detector.classifier).__name__}")
    return detector.classifier


def maps(detector: Defence, images: Tensor, ids: Sequence[int], source: NoiseSource, draw: int) -> Tensor:
    """|Err_ms - E| of images at one draw, (n, H, W)."""
    purified = detector.purify(images, ids, source, draw)
    head = head_of(detector)
    with torch.no_grad():
        return map_batches(lambda block: head.deviation(purified[block]), range(len(images)), detector.batch_size)


def scores(detector: Defence, images: Tensor, ids: Sequence[int], source: NoiseSource, draw: int) -> Tensor:
    """A of images at one draw, (n,)."""
    return detector.logits(detector.purify(images, ids, source, draw))[:, 1]
