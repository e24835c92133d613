"""Purifiers: a deterministic, differentiable map of (images, noise).

A purifier is a chain start -> step 0 .. num_steps-1 -> finish. The chain is what lets `gradients` replay it one step
at a time; `purify` composes it. A purifier without inner steps is a chain of length zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from purification.guidance import Guidance, make_guidance
from purification.models.denoisers import Denoiser, resized
from purification.noise import FORWARD, REVERSE, Noise
from purification.samplers import CONTINUOUS, SAMPLERS, Step
from purification.user_code import own_purifier

CLIPS = ("none", "clamp", "straight_through")
Shape = tuple[int, int, int]


class Purifier(Protocol):
    """images (B, C, H, W) in [0, 1]; noise for the same images -> images of the same shape."""

    @property
    def num_steps(self) -> int: ...

    def start(self, images: Tensor, noise: Noise) -> Tensor: ...

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor: ...

    def finish(self, state: Tensor) -> Tensor: ...


def purify(purifier: Purifier, images: Tensor, noise: Noise) -> Tensor:
    """Run the whole chain."""
    state = purifier.start(images, noise)
    for number in range(purifier.num_steps):
        state = purifier.step(number, state, images, noise)
    return purifier.finish(state)


@dataclass(frozen=True)
class FunctionPurifier:
    """A purifier given as one function of (images, noise)."""

    function: Callable[[Tensor, Noise], Tensor]
    num_steps: int = 0

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return self.function(images, noise)

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        raise IndexError(f"expected no step of a purifier without steps, got step {number}")

    def finish(self, state: Tensor) -> Tensor:
        return state


def _clip(x0: Tensor, clip: str) -> Tensor:
    if clip == "none":
        return x0
    clamped = x0.clamp(-1.0, 1.0)
    return clamped if clip == "clamp" else x0 + (clamped - x0).detach()


def _diffused(u: Tensor, noise: Noise, alpha_bar: float, round_number: int) -> Tensor:
    if alpha_bar == 1.0:
        return u
    return math.sqrt(alpha_bar) * u + math.sqrt(1.0 - alpha_bar) * noise.normal(FORWARD, round_number)


@dataclass(frozen=True)
class DiffusionPurifier:
    """Noise to t*, then a reverse sampler down to the data (DiffPure, Nie et al. 2022).

    denoiser       eps(u, level) on [-1, 1]
    table          reverse steps, see `samplers`
    start_alpha_bar abar of the forward noise (1 for reverse-only)
    clip           what is done to the data estimate in every step: "none", "clamp" (zero gradient where active) or
                   "straight_through" (clamped value, gradient of the unclamped one)
    clamp_output   whether the result is clamped to [0, 1] before the classifier
    """

    denoiser: Denoiser
    table: tuple[Step, ...]
    start_alpha_bar: float
    clip: str
    clamp_output: bool

    @property
    def num_steps(self) -> int:
        return len(self.table)

    def noised(self, images: Tensor, noise: Noise, alpha_bar: float) -> Tensor:
        """sqrt(abar) (2x - 1) + sqrt(1 - abar) eps with the forward noise of this draw."""
        return _diffused(2.0 * images - 1.0, noise, alpha_bar, 0)

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return self.noised(images, noise, self.start_alpha_bar)

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        step = self.table[number]
        eps = self.denoiser.epsilon(state, step.level)
        root, rest = math.sqrt(step.level.alpha_bar), math.sqrt(1.0 - step.level.alpha_bar)
        if self.clip == "none":
            state_weight = step.state_weight + step.x0_weight / root
            out = state_weight * state + (step.eps_weight - step.x0_weight * rest / root) * eps
        else:
            x0 = _clip((state - rest * eps) / root, self.clip)
            out = step.x0_weight * x0 + step.state_weight * state + step.eps_weight * eps
        return out + step.noise_weight * noise.normal(REVERSE, number) if step.noise_weight else out

    def finish(self, state: Tensor) -> Tensor:
        images = 0.5 * (state + 1.0)
        return images.clamp(0.0, 1.0) if self.clamp_output else images


@dataclass(frozen=True)
class GuidedPurifier:
    """Rounds of noising and denoising, each reverse step pulled by a guidance (GDMP, Wang et al. 2022).

    u' = step(u) + v_t w_t g(u, x'), v_t the variance of the step, w_t g the weight and direction of the guidance.

    inner      the purifier without guidance; its table holds the steps of all rounds
    per_round  steps of one round; later rounds start from the last state, noised with forward noise of their own
    variances  v_t of every step
    """

    inner: DiffusionPurifier
    per_round: int
    variances: tuple[float, ...]
    guidance: Guidance

    @property
    def num_steps(self) -> int:
        return len(self.inner.table)

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return self.inner.start(images, noise)

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        if number and number % self.per_round == 0:
            state = _diffused(state, noise, self.inner.start_alpha_bar, number // self.per_round)
        out = self.inner.step(number, state, images, noise)
        level = self.inner.table[number].level
        if self.variances[number] == 0.0:
            return out
        weight = self.variances[number] * self.guidance.weight(level)
        return out + weight * self.guidance.pull(state, images, level, noise, self.num_steps + number)

    def finish(self, state: Tensor) -> Tensor:
        return self.inner.finish(state)


@dataclass(frozen=True)
class ResizedPurifier:
    """A purifier that works at another size: images are brought to it before (bilinear), and back after (DiffPure).

    inner  the purifier at `size`
    sides  height and width of the images
    """

    inner: Purifier
    size: int
    sides: tuple[int, int]

    @property
    def num_steps(self) -> int:
        return self.inner.num_steps

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return self.inner.start(resized(images, self.size), noise.sized(self.size))

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        return self.inner.step(number, state, resized(images, self.size), noise.sized(self.size))

    def finish(self, state: Tensor) -> Tensor:
        return F.interpolate(self.inner.finish(state), size=self.sides, mode="bilinear", align_corners=False)


def _variances(table: tuple[Step, ...], variance: str) -> tuple[float, ...]:
    """Variance of every step; of the last, which adds no noise, what "fixed_large" or "fixed_small" would give it."""
    last = 1.0 - table[-1].level.alpha_bar if variance == "fixed_large" else 0.0
    return (*(step.noise_weight**2 for step in table[:-1]), last)


def _chain(settings: Mapping[str, Any], denoiser: Denoiser | None) -> DiffusionPurifier | None:
    """Chain of one entry with a sampler; None for t_star 0."""
    if denoiser is None:
        kind = settings["kind"]
        raise ValueError(f"expected a denoiser for a purifier of kind {kind!r}, got none — name one in the entry")
    t_star, clip = settings["t_star"], settings["clip"]
    if clip not in CLIPS:
        raise ValueError(f"expected clip to be one of {CLIPS}, got {clip!r}")
    if t_star > denoiser.schedule.train_steps:
        raise ValueError(f"expected t_star <= {denoiser.schedule.train_steps} (the schedule's length), got {t_star}")
    if t_star == 0:
        return None
    options = {key: settings[key] for key in ("steps", "variance", "eta", "spacing") if key in settings}
    if clip != "none" and settings["sampler"] in CONTINUOUS:
        raise ValueError(
            f"expected clip 'none' with {settings['sampler']}, got {clip!r} — it has no data estimate to clip"
        )
    table = SAMPLERS[settings["sampler"]](denoiser.schedule, t_star=t_star, **options)
    index = settings.get("noise_index", t_star - 1)
    start = denoiser.schedule.level(index).alpha_bar if settings["forward_noise"] else 1.0
    return DiffusionPurifier(denoiser, tuple(table), start, clip, settings["clamp_output"])


def _at_size(purifier: Purifier, settings: Mapping[str, Any], shape: Shape) -> Purifier:
    """The purifier, at another size where its entry has one."""
    return ResizedPurifier(purifier, settings["size"], shape[1:]) if "size" in settings else purifier


def diffusion(settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device) -> Purifier:
    """Purifier of one `kind: diffusion` entry; t_star 0 is the identity."""
    chain = _chain(settings, denoiser)
    if chain is None:
        return _identity(settings, denoiser, shape, device)
    return _at_size(chain, settings, shape)


def guided(settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device) -> Purifier:
    """Purifier of one `kind: guided` entry: its chain in `rounds`, every step pulled by its `guidance`."""
    if settings["sampler"] != "ddpm":
        raise ValueError(f"expected sampler 'ddpm' for a guided purifier, got {settings['sampler']!r} — change it")
    chain = _chain(settings, denoiser)
    if chain is None:
        return _identity(settings, denoiser, shape, device)
    variances = _variances(chain.table, settings["variance"]) * settings["rounds"]
    rounds = replace(chain, table=chain.table * settings["rounds"])
    guidance = make_guidance(settings["guidance"], chain.denoiser)
    return _at_size(GuidedPurifier(rounds, len(chain.table), variances, guidance), settings, shape)


def _blur(settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device) -> Purifier:
    sigma, channels = float(settings["sigma"]), shape[0]
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    weight = kernel.expand(channels, 1, -1, -1)

    def blur(images: Tensor, noise: Noise) -> Tensor:
        padded = F.pad(images, (radius,) * 4, mode="replicate")
        return F.conv2d(padded, weight.to(images), groups=channels)

    return FunctionPurifier(blur)


def _constant(settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device) -> Purifier:
    return FunctionPurifier(lambda images, noise: torch.full_like(images, settings["value"]) + 0.0 * images)


def _identity(settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device) -> Purifier:
    return FunctionPurifier(lambda images, noise: images)


def _python(settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device) -> Purifier:
    own = own_purifier(settings, shape, device)
    return FunctionPurifier(lambda images, noise: own(images.to(device), noise.on(device)).to(images.device))


KINDS: dict[str, Callable[[Mapping[str, Any], Denoiser | None, Shape, torch.device], Purifier]] = {
    "diffusion": diffusion,
    "guided": guided,
    "identity": _identity,
    "constant": _constant,
    "blur": _blur,
    "python": _python,
}


def make_purifier(
    settings: Mapping[str, Any], denoiser: Denoiser | None, shape: Shape, device: torch.device
) -> Purifier:
    """Purifier of one configuration entry."""
    return KINDS[settings["kind"]](settings, denoiser, shape, device)
