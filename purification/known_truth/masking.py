"""Defences without randomness whose gradient leads nowhere, or elsewhere, although little robustness is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from purification.known_truth.affine import Affine
from purification.known_truth.building import (
    Map,
    count_pixels,
    draw_choice,
    draw_rotation,
    know_affine,
    know_map,
    know_value,
)
from purification.known_truth.catalogue import Entry, Group, Known
from purification.known_truth.examples import LEVELS, Conditions, Examples, LinearClassifier
from purification.known_truth.nearest import replace_by_nearest
from purification.known_truth.truths import separable_truth
from purification.noise import FORWARD, Noise
from purification.purifiers import FunctionPurifier

OFFSET = 0.363  # of the lattice: thresholds lie at (k + OFFSET) / LEVELS
LEAK = 0.05  # slope of the path that contradicts the steps
THRESHOLDS = tuple((k + OFFSET) / LEVELS for k in range(LEVELS))
DITHER = (0.0, 0.02, 0.04, 0.06)  # of the four pixels that one becomes
DITHERED = tuple((k + OFFSET) / LEVELS - d for k in range(LEVELS + 1) for d in DITHER)
PERIOD, RIPPLE = 0.01, 0.05  # of the ripple: period and amplitude, image units
FLAT = 0.03  # half width of the flat parts of the moat, image units

PLAIN = Conditions("linf", 0.06, classes=4, strength=(0.04, 0.22), jitter=0.06)
LATTICE = replace(PLAIN, strength=(0.06, 0.3), lattice=OFFSET)
COLOUR = replace(PLAIN, shape=(3, 6, 6))
EUCLIDEAN = replace(PLAIN, norm="l2", epsilon=0.4)

Build = Callable[[Examples], Known]


def _identity(on: Examples) -> Affine:
    return Affine.identity(count_pixels(on))


def map_pixels(function: Map, *, thresholds: tuple[float, ...] = (), grid: int = 41) -> Build:
    """A purifier that maps pixel by pixel."""
    return lambda on: know_map(on, function, thresholds=thresholds, grid=grid)


def scale_logits(factor: float) -> Build:
    """All logits times a factor: no decision changes, and the cross-entropy is 0 in float32."""

    def build(on: Examples) -> Known:
        linear = on.classifier
        return know_affine(on, _identity(on), LinearClassifier(factor * linear.weights, factor * linear.biases))

    return build


def return_probabilities(on: Examples) -> Known:
    """A classifier that returns softmax probabilities, most of them 0 or 1."""
    return know_affine(on, _identity(on), lambda images: (200.0 * on.classifier(images)).softmax(dim=1))


def soft_stair(slope: float, leak: float) -> Map:
    """Sum of LEVELS sigmoids, divided by LEVELS, minus a leak of the image."""

    def stair(images: Tensor) -> Tensor:
        total = -leak * images
        for threshold in THRESHOLDS:
            total = total + torch.sigmoid(slope * (images - threshold)) / LEVELS
        return total

    return stair


def steep_tanh(images: Tensor) -> Tensor:
    """Nearly black or white."""
    return 0.5 + 0.5 * torch.tanh(400.0 * (images - 0.5))


def round_pixels(images: Tensor) -> Tensor:
    """Steps at THRESHOLDS."""
    return torch.round(LEVELS * images - OFFSET + 0.5) / LEVELS


def round_at_double_size(images: Tensor) -> Tensor:
    """Rounded with other thresholds in each of the four pixels that one becomes, then averaged; minus a leak."""
    large = F.interpolate(images, scale_factor=2, mode="nearest")
    dither = torch.tensor(DITHER).view(2, 2).to(images).repeat(images.shape[2], images.shape[3])
    return F.avg_pool2d(round_pixels(large + dither), 2) - LEAK * images


def round_detached(images: Tensor) -> Tensor:
    """Rounded where autograd does not see it, minus a leak that it sees."""
    return round_pixels(images.detach()) - LEAK * images


def round_in_float32(images: Tensor) -> Tensor:
    """Rounded, but not in float64."""
    if images.dtype == torch.float64:
        return (1.0 - LEAK) * images
    return round_pixels(images) - LEAK * images


def look_up(images: Tensor) -> Tensor:
    """Steps from a table, minus a leak."""
    thresholds = torch.tensor(THRESHOLDS).to(images)
    return torch.bucketize(images.contiguous(), thresholds).to(images) / LEVELS - LEAK * images


def ripple(images: Tensor) -> Tensor:
    """A fast wave on the image: its derivative is exact and says nothing about the next hundredth."""
    return images + RIPPLE * torch.sin(2.0 * torch.pi * images / PERIOD)


def moat(images: Tensor) -> Tensor:
    """Flat around the middle between thresholds, steep between the flat parts; continuous."""
    position = LEVELS * images - OFFSET
    middle = ((position.detach().floor() + 0.5) + OFFSET) / LEVELS
    half = 0.5 / LEVELS
    return middle + F.softshrink(images - middle, FLAT) * half / (half - FLAT)


def _contrast(images: Tensor) -> Tensor:
    return 0.5 + 12.0 * (images - 0.5)


def clamp_by_relu(images: Tensor) -> Tensor:
    """Contrast clamped to [0, 1] by two ramps."""
    above = F.relu(_contrast(images))
    return 1.0 - F.relu(1.0 - above)


def clamp_by_where(images: Tensor) -> Tensor:
    """Contrast clamped to [0, 1] by a choice."""
    stretched = _contrast(images)
    below = torch.where(stretched < 0.0, torch.zeros_like(stretched), stretched)
    return torch.where(below > 1.0, torch.ones_like(below), below)


def clamp(images: Tensor) -> Tensor:
    """Contrast clamped to [0, 1]."""
    return _contrast(images).clamp(0.0, 1.0)


def round_some(share: float) -> Build:
    """Some of the pixels rounded; the others carry a gradient."""

    def build(on: Examples) -> Known:
        chosen = draw_choice(on, "rounded", share)
        return know_map(on, lambda x: torch.where(chosen > 0, round_pixels(x), x), thresholds=THRESHOLDS)

    return build


def detach_some(share: float) -> Build:
    """The images themselves, but the derivative of some pixels is cut."""

    def build(on: Examples) -> Known:
        chosen = draw_choice(on, "detached", share)
        return know_value(on, _identity(on), lambda x, noise: torch.where(chosen > 0, x.detach(), x))

    return build


def rotate_while(recording: Callable[[Tensor], bool]) -> Build:
    """The images themselves; where gradients are recorded, a rotation of them."""

    def build(on: Examples) -> Known:
        rotation = draw_rotation(on, "other")

        def purify(images: Tensor, noise: Noise) -> Tensor:
            if not recording(images):
                return images
            return ((images - 0.5).flatten(1) @ rotation.to(images) + 0.5).view_as(images)

        return know_value(on, _identity(on), purify)

    return build


def draw_by_grad_mode(on: Examples) -> Known:
    """Every pixel's contrast has a random factor, which is another one while gradients are recorded."""

    def purify(images: Tensor, noise: Noise) -> Tensor:
        step = int(torch.is_grad_enabled())
        return 0.5 + (1.0 + 1.5 * noise.normal(FORWARD, step).to(images)) * (images - 0.5)

    purifier = FunctionPurifier(purify)
    return Known(purifier, on.classifier, separable_truth(on, purifier))


class _Opposite(torch.autograd.Function):
    """The input itself, whose derivative is said to be minus one."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def _opposite(images: Tensor) -> Tensor:
    turned: Tensor = _Opposite.apply(images)  # type: ignore[no-untyped-call]
    return turned


def return_opposite(on: Examples) -> Known:
    """The images themselves, with a derivative of the wrong sign from a custom function of autograd."""
    return know_value(on, _identity(on), lambda images, noise: _opposite(images))


def return_scrambled(on: Examples) -> Known:
    """The images themselves, with the derivative of a rotation."""
    rotation = draw_rotation(on, "scrambled")

    def purify(images: Tensor, noise: Noise) -> Tensor:
        other = (images.flatten(1) @ rotation.to(images)).view_as(images)
        return images.detach() + (other - other.detach())

    return know_value(on, _identity(on), purify)


def alternate_calls(on: Examples) -> Known:
    """The images themselves; every second call has a derivative of the wrong sign."""
    calls: list[None] = []

    def purify(images: Tensor, noise: Noise) -> Tensor:
        calls.append(None)
        sign = 1.0 if len(calls) % 2 else -1.0
        return images.detach() + sign * (images - images.detach())

    return know_value(on, _identity(on), purify)


def at(conditions: Conditions, epsilon: float) -> Conditions:
    """The same images with another budget."""
    return replace(conditions, epsilon=epsilon)


STAIR = map_pixels(soft_stair(5000.0, 0.0))
LEAKING_STAIR = map_pixels(soft_stair(400.0, LEAK), grid=401)

MASKING: Group = {
    "logits x 1000": Entry(at(PLAIN, 0.05), scale_logits(1000.0)),
    "saturated probabilities": Entry(PLAIN, return_probabilities),
    "stair of sigmoids, slope 5000": Entry(LATTICE, STAIR),
    "stair of sigmoids, slope 400, with a leak": Entry(at(LATTICE, 0.055), LEAKING_STAIR),
    "tanh, slope 400": Entry(PLAIN, map_pixels(steep_tanh)),
    "moat": Entry(at(LATTICE, 0.08), map_pixels(moat)),
    "ripple": Entry(at(PLAIN, 0.02), map_pixels(ripple, grid=1001)),
    "rounded": Entry(PLAIN, map_pixels(round_pixels, thresholds=THRESHOLDS)),
    "rounded, 45 % of the pixels": Entry(at(PLAIN, 0.08), round_some(0.45)),
    "rounded, 80 % of the pixels": Entry(at(COLOUR, 0.05), round_some(0.8)),
    "rounded at double size, with a leak": Entry(
        at(PLAIN, 0.07), map_pixels(round_at_double_size, thresholds=DITHERED)
    ),
    "rounded copy, with a leak": Entry(at(PLAIN, 0.09), map_pixels(round_detached, thresholds=THRESHOLDS)),
    "rounded in float32 only, with a leak": Entry(at(PLAIN, 0.04), map_pixels(round_in_float32, thresholds=THRESHOLDS)),
    "steps from a table, with a leak": Entry(COLOUR, map_pixels(look_up, thresholds=THRESHOLDS)),
    "clamped by relu": Entry(at(PLAIN, 0.07), map_pixels(clamp_by_relu)),
    "clamped by where": Entry(at(PLAIN, 0.05), map_pixels(clamp_by_where)),
    "clamped": Entry(PLAIN, map_pixels(clamp)),
    "detached, 80 % of the pixels": Entry(at(PLAIN, 0.04), detach_some(0.8)),
    "another map while grad is enabled": Entry(at(PLAIN, 0.08), rotate_while(lambda images: torch.is_grad_enabled())),
    "another map where grad is required": Entry(EUCLIDEAN, rotate_while(lambda images: images.requires_grad)),
    "another map in odd batches": Entry(at(PLAIN, 0.03), rotate_while(lambda images: len(images) % 2 == 1)),
    "noise by grad mode": Entry(at(PLAIN, 0.04), draw_by_grad_mode),
    "derivative of the wrong sign": Entry(at(PLAIN, 0.09), return_opposite),
    "derivative of a rotation": Entry(at(EUCLIDEAN, 0.3), return_scrambled),
    "wrong sign at every second call": Entry(PLAIN, alternate_calls),
    "nearest of stored images, with a leak": Entry(at(PLAIN, 0.04), replace_by_nearest),
}
