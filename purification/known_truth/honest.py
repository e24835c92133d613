"""Defences without randomness that look odd, although their gradient is that of what runs and leads where it should."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from purification.known_truth.affine import Affine, compose_chain
from purification.known_truth.building import (
    count_pixels,
    draw_choice,
    draw_normal,
    draw_rotation,
    know_affine,
    know_value,
    read_matrix,
)
from purification.known_truth.catalogue import Entry, Group, Known
from purification.known_truth.chains import make_chain
from purification.known_truth.examples import Conditions, Examples, LinearClassifier
from purification.known_truth.masking import Build, at, map_pixels
from purification.known_truth.nearest import replace_by_nearest
from purification.known_truth.truths import affine_truth, certain
from purification.noise import Noise
from purification.purifiers import FunctionPurifier

MANY = Conditions("linf", 0.04, classes=5)
COLOUR = replace(MANY, shape=(3, 6, 6))
EUCLIDEAN = replace(MANY, norm="l2", epsilon=0.28)
APART = replace(MANY, epsilon=0.02, strength=(0.12, 0.25), jitter=0.05)
SPARSE = Conditions("l1", 0.25, classes=4, strength=(0.0, 0.06), jitter=0.05)


def _scaled(on: Examples, gain: float, offset: float) -> Known:
    """x -> gain (x - 1/2) + offset, and a classifier that undoes it."""
    pixels = count_pixels(on)
    matrix = gain * torch.eye(pixels, dtype=torch.float64)
    affine = Affine(matrix, torch.full((pixels,), offset - 0.5 * gain, dtype=torch.float64))
    weights = on.classifier.weights / gain
    biases = on.classifier.biases + (0.5 - offset / gain) * on.classifier.weights.sum(dim=1)
    undone = LinearClassifier(weights, biases)
    return know_affine(replace(on, classifier=undone), affine, undone)


def contract(gain: float, offset: float = 0.5) -> Build:
    """A map that contracts or shifts all pixels, in front of a classifier that expects it."""
    return lambda on: _scaled(on, gain, offset)


def scale_logits(factor: float) -> Build:
    """Tiny or large logits that do not saturate."""

    def build(on: Examples) -> Known:
        linear = on.classifier
        scaled = LinearClassifier(factor * linear.weights, factor * linear.biases)
        return know_affine(on, Affine.identity(count_pixels(on)), scaled)

    return build


def return_constant(on: Examples) -> Known:
    """One image whatever the input, with a path to it: the gradient is zero because nothing changes."""
    constant = on.images[:1].mean(dim=0, keepdim=True) * 0.5
    purifier = FunctionPurifier(lambda images, noise: constant.to(images) + 0.0 * images)
    answer = on.classifier(constant.double()).argmax(dim=1)
    return Known(purifier, on.classifier, certain(answer == on.labels))


def rotate(on: Examples) -> Known:
    """A rotation of all pixels around grey, in front of a classifier of the rotated images."""
    rotation = draw_rotation(on, "rotation")
    centre = torch.full((count_pixels(on),), 0.5, dtype=torch.float64)
    weights = on.classifier.weights @ rotation.T
    biases = on.classifier.biases + on.classifier.weights @ centre - weights @ centre
    rotated = LinearClassifier(weights, biases)
    return know_affine(replace(on, classifier=rotated), Affine(rotation, centre - rotation @ centre), rotated)


def mix_pixels(on: Examples) -> Known:
    """A random matrix near the identity."""
    pixels = count_pixels(on)
    mixing = 0.4 * draw_normal(on, "mixing", pixels, pixels) / math.sqrt(pixels)
    matrix = torch.eye(pixels, dtype=torch.float64) + mixing
    centre = torch.full((pixels,), 0.5, dtype=torch.float64)
    return know_affine(on, Affine(matrix, centre - matrix @ centre))


def know_linear(function: Callable[[Tensor], Tensor]) -> Build:
    """A linear function of images; its matrix is read off in float64."""
    return lambda on: know_value(on, read_matrix(function, on), lambda images, noise: function(images))


def resize(images: Tensor) -> Tensor:
    """To half the size and back."""
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(small, size=images.shape[2:], mode="bicubic")


def filter_frequencies(images: Tensor) -> Tensor:
    """A smooth low-pass filter in the Fourier domain."""
    height, width = images.shape[2:]
    rows = torch.fft.fftfreq(height)[:, None]
    columns = torch.fft.rfftfreq(width)
    keep = torch.exp(-0.5 * (rows**2 + columns**2) / 0.3**2)
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * keep.to(images), s=(height, width))
    return filtered


def descend(images: Tensor) -> Tensor:
    """One step down the energy of neighbouring pixels' differences; the purifier differentiates inside."""
    with torch.enable_grad():
        leaf = images if images.requires_grad else images.detach().requires_grad_()
        energy = (leaf - leaf.roll(1, dims=3)).square().sum() / 2
        (slope,) = torch.autograd.grad(energy, leaf, create_graph=True)
        descended: Tensor = leaf - 0.1 * slope
        return descended


def compute_in_float64(images: Tensor) -> Tensor:
    """A blur in float64, whatever comes in."""
    exact = images.double()
    return (0.6 * exact + 0.2 * exact.roll(1, dims=2) + 0.2 * exact.roll(-1, dims=2)).to(images.dtype)


def compute_in_float32(on: Examples) -> Known:
    """A matrix of float32, which refuses other types."""
    known = mix_pixels(on)
    affine = read_matrix(lambda images: known.purifier.start(images, on.noise("fixed")([0])), on)
    matrix, offset = affine.matrix.float(), affine.offset.float()

    def purify(images: Tensor, noise: Noise) -> Tensor:
        if images.dtype != torch.float32:
            raise ValueError(f"expected images in float32, got {images.dtype} — convert them")
        return (images.flatten(1) @ matrix.T + offset).view_as(images)

    return know_value(on, affine, purify)


def blacken_some(on: Examples) -> Known:
    """Two fifths of the pixels are replaced by grey: their derivative is zero because they do not matter."""
    chosen = draw_choice(on, "blackened", 0.4)
    keep = torch.diag(1.0 - chosen.double().flatten())
    affine = Affine(keep, 0.5 * chosen.double().flatten())
    return know_value(on, affine, lambda images, noise: torch.where(chosen > 0, 0.5 * torch.ones_like(images), images))


def round_declared(images: Tensor) -> Tensor:
    """Rounded to sixteen levels by code that autograd cannot follow, and that does not claim to have a derivative."""
    return torch.round(15.0 * images.detach()) / 15.0


ROUNDED = tuple((k + 0.5) / 15.0 for k in range(15))


def run_chain(sampler: str, **options: Any) -> Build:
    """A sampler without noise on the optimal denoiser of Gaussian data."""

    def build(on: Examples) -> Known:
        chain, epsilon = make_chain(on, sampler, forward_noise=False, **options)
        return Known(chain, on.classifier, affine_truth(on, compose_chain(chain, epsilon)))

    return build


def smooth_tanh(slope: float) -> Callable[[Tensor], Tensor]:
    """A steep curve through grey that leaves a gradient everywhere."""
    return lambda images: 0.5 + 0.5 * torch.tanh(slope * (images - 0.5))


def bend(images: Tensor) -> Tensor:
    """A kink at grey."""
    return F.leaky_relu(images - 0.5, 0.25) + 0.5


def wave(images: Tensor) -> Tensor:
    """A monotone wave."""
    return images + 0.02 * torch.sin(2.0 * torch.pi * images / 0.2)


HONEST: Group = {
    "identity": Entry(MANY, contract(1.0)),
    "contracting, gain .1": Entry(at(MANY, 0.03), contract(0.1)),
    "almost constant, gain .001": Entry(COLOUR, contract(0.001)),
    "expanding, gain 30, offset 10": Entry(at(MANY, 0.05), contract(30.0, 10.0)),
    "constant": Entry(MANY, return_constant),
    "logits x .000001": Entry(at(MANY, 0.06), scale_logits(1e-6)),
    "logits x 10": Entry(EUCLIDEAN, scale_logits(10.0)),
    "rotation": Entry(EUCLIDEAN, rotate),
    "random matrix": Entry(SPARSE, mix_pixels),
    "two fifths of the pixels grey": Entry(at(MANY, 0.03), blacken_some),
    "resized inside": Entry(at(MANY, 0.015), know_linear(resize)),
    "filtered in the Fourier domain": Entry(COLOUR, know_linear(filter_frequencies)),
    "differentiates inside": Entry(at(MANY, 0.05), know_linear(descend)),
    "float64 inside": Entry(at(MANY, 0.025), know_linear(compute_in_float64)),
    "float32 only": Entry(at(MANY, 0.03), compute_in_float32),
    "tanh, slope 6": Entry(at(MANY, 0.05), map_pixels(smooth_tanh(6.0))),
    "tanh, slope 20": Entry(at(MANY, 0.03), map_pixels(smooth_tanh(20.0))),
    "gamma 1.2": Entry(at(MANY, 0.025), map_pixels(lambda images: images.clamp_min(0.0) ** 1.2)),
    "kink at grey": Entry(at(MANY, 0.06), map_pixels(bend)),
    "monotone wave": Entry(at(MANY, 0.02), map_pixels(wave)),
    "clamp that is never active": Entry(at(MANY, 0.07), map_pixels(lambda images: images.clamp(0.0, 1.0))),
    "rounded, declared": Entry(at(MANY, 0.05), map_pixels(round_declared, thresholds=ROUNDED)),
    "nearest stored image, with a leak": Entry(APART, replace_by_nearest),
    "DDIM chain": Entry(at(MANY, 0.03), run_chain("ddim", eta=0.0, t_star=200, steps=8)),
    "flow chain": Entry(EUCLIDEAN, run_chain("pf_ode", t_star=150, steps=6)),
}
