"""Random defences: affine or pixelwise purifiers with normal noise, in front of linear classifiers.

`FAULTY` are some of them with a gradient that is not that of what runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purification.known_truth.affine import Affine, compose_chain
from purification.known_truth.building import (
    Map,
    count_pixels,
    draw_choice,
    draw_normal,
    know_affine,
    know_value,
    read_matrix,
)
from purification.known_truth.catalogue import Entry, Group, Known
from purification.known_truth.chains import make_chain
from purification.known_truth.examples import Conditions, Examples, LinearClassifier
from purification.known_truth.honest import compute_in_float64, smooth_tanh
from purification.known_truth.masking import (
    LEAK,
    OFFSET,
    THRESHOLDS,
    Build,
    at,
    clamp,
    round_pixels,
    soft_stair,
)
from purification.known_truth.truths import Truth, affine_truth, separable_truth
from purification.noise import FORWARD, REVERSE, Noise
from purification.purifiers import FunctionPurifier, purify

PROBABILITY = 0.85  # of the coin
NOISY = Conditions("linf", 0.05)
COLOUR = replace(NOISY, shape=(3, 8, 8), epsilon=0.03)
EUCLIDEAN = replace(NOISY, norm="l2", epsilon=0.25)
SPARSE = Conditions("l1", 0.3, strength=(0.0, 0.06), jitter=0.05)
BLOCKS = Conditions("linf", 0.04, classes=5, blocks=True)
COARSE = Conditions("linf", 0.06, strength=(0.04, 0.22), jitter=0.06)
CERTAIN = Conditions("linf", 0.03, classes=10, strength=(0.25, 0.3), jitter=0.02)


def add_noise(sigma: float) -> Build:
    """Normal noise on every pixel."""
    return lambda on: know_affine(on, Affine.identity(count_pixels(on)).with_noise(FORWARD, 0, sigma))


def _mixing(on: Examples, stream: str) -> Affine:
    """A random matrix near the identity, around grey."""
    pixels = count_pixels(on)
    matrix = torch.eye(pixels, dtype=torch.float64) + 0.4 * draw_normal(on, stream, pixels, pixels) / math.sqrt(pixels)
    centre = torch.full((pixels,), 0.5, dtype=torch.float64)
    return Affine(matrix, centre - matrix @ centre)


def mix_and_add(sigma: float) -> Build:
    """A random matrix, then noise."""
    return lambda on: know_affine(on, _mixing(on, "mixing").with_noise(FORWARD, 0, sigma))


def blur_and_add(sigma: float) -> Build:
    """A blur along the columns, then noise."""
    return lambda on: know_affine(on, read_matrix(compute_in_float64, on).with_noise(FORWARD, 0, sigma))


def add_correlated(sigma: float) -> Build:
    """Noise that a random matrix has mixed."""

    def build(on: Examples) -> Known:
        pixels = count_pixels(on)
        matrix = sigma * draw_normal(on, "correlation", pixels, pixels) / math.sqrt(pixels)
        return know_affine(on, replace(Affine.identity(pixels), noise={(FORWARD, 0): matrix}))

    return build


def add_twice(first: float, second: float) -> Build:
    """Forward noise, a random matrix, reverse noise."""

    def build(on: Examples) -> Known:
        mixing = _mixing(on, "mixing")
        last = second * torch.eye(count_pixels(on), dtype=torch.float64)
        return know_affine(on, replace(mixing, noise={(FORWARD, 0): first * mixing.matrix, (REVERSE, 0): last}))

    return build


def run_chain(sampler: str, **options: Any) -> Build:
    """Forward noise and a sampler on the optimal denoiser of Gaussian data."""

    def build(on: Examples) -> Known:
        chain, epsilon = make_chain(on, sampler, forward_noise=True, **options)
        return Known(chain, on.classifier, affine_truth(on, compose_chain(chain, epsilon)))

    return build


def map_and_add(function: Map, sigma: float, *, thresholds: tuple[float, ...] = ()) -> Build:
    """A function pixel by pixel, then noise."""

    def build(on: Examples) -> Known:
        alone = FunctionPurifier(lambda images, noise: function(images))
        truth = separable_truth(on, alone, thresholds=thresholds, sigma=sigma)

        def run(images: Tensor, noise: Noise) -> Tensor:
            return function(images) + sigma * noise.normal(FORWARD).to(images)

        return Known(FunctionPurifier(run), on.classifier, truth)

    return build


def toss_coin(on: Examples) -> Known:
    """Right with PROBABILITY on every image of the budget, and its gradient has nothing to do with it.

    The purifier writes a uniform number into the last pixel. The classifier, which no budget fools, answers with the
    next class where that is above a threshold. A faint linear part gives attacks something to follow.
    """
    weights = on.classifier.weights.clone()
    weights[:, -1] = 0.0
    linear = LinearClassifier(weights, on.classifier.biases + 0.5 * on.classifier.weights[:, -1])
    if not affine_truth(replace(on, classifier=linear), Affine.identity(count_pixels(on))).frozen.all():
        raise ValueError("expected images that no budget fools, got others — lower epsilon")
    threshold = 2.0 * PROBABILITY - 1.0
    faint = 0.01 * draw_normal(on, "faint", count_pixels(on), on.classes)

    def write(images: Tensor, noise: Noise) -> Tensor:
        chance = noise.uniform(FORWARD).to(images).flatten(1)[:, -1:]
        return torch.cat([images.flatten(1)[:, :-1], chance], dim=1).view_as(images)

    def classify(images: Tensor) -> Tensor:
        true = linear(images).argmax(dim=1)
        chance = images.flatten(1)[:, -1]
        said = torch.where(chance < threshold, true, (true + 1) % on.classes)
        return 4.0 * torch.eye(on.classes).to(images)[said] + images.flatten(1) @ faint.to(images)

    chance = on.noise("fixed")(on.ids).uniform(FORWARD).flatten(1)[:, -1].numpy()
    return Known(FunctionPurifier(write), classify, Truth(np.full(len(on.ids), PROBABILITY), chance < threshold, True))


RANDOMISED: Group = {
    "noise .02": Entry(at(NOISY, 0.04), add_noise(0.02)),
    "noise .1": Entry(NOISY, add_noise(0.1)),
    "noise .3": Entry(at(NOISY, 0.03), add_noise(0.3)),
    "noise 1": Entry(at(NOISY, 0.1), add_noise(1.0)),
    "noise .15, colour": Entry(COLOUR, add_noise(0.15)),
    "blur, noise .1": Entry(at(NOISY, 0.03), blur_and_add(0.1)),
    "matrix, noise .15, l2": Entry(EUCLIDEAN, mix_and_add(0.15)),
    "matrix, noise .05, l1": Entry(SPARSE, mix_and_add(0.05)),
    "correlated noise .2": Entry(at(NOISY, 0.07), add_correlated(0.2)),
    "noise before and after a matrix": Entry(EUCLIDEAN, add_twice(0.1, 0.1)),
    "tanh, noise .2": Entry(at(NOISY, 0.06), map_and_add(smooth_tanh(4.0), 0.2)),
    "five classes, noise .1": Entry(BLOCKS, add_noise(0.1)),
    "five classes, noise .3": Entry(BLOCKS, add_noise(0.3)),
    "DDPM chain": Entry(at(NOISY, 0.03), run_chain("ddpm", variance="fixed_small", t_star=150, steps=6)),
    "DDPM chain, large variance": Entry(at(NOISY, 0.06), run_chain("ddpm", variance="fixed_large", t_star=60, steps=6)),
    "DDIM chain, eta .5": Entry(EUCLIDEAN, run_chain("ddim", eta=0.5, t_star=100, steps=5)),
    "SDE chain": Entry(at(NOISY, 0.02), run_chain("vp_sde", t_star=80, steps=8)),
    "one-step chain": Entry(at(NOISY, 0.045), run_chain("one_step", t_star=200)),
    "coin": Entry(CERTAIN, toss_coin),
}


def detach_guidance(on: Examples) -> Known:
    """A chain that a term of the image pulls, which autograd does not see and which is stronger than the chain."""
    chain, epsilon = make_chain(on, "ddpm", variance="fixed_small", t_star=150, steps=6, forward_noise=True)
    whole = compose_chain(chain, epsilon)
    rest = torch.eye(count_pixels(on), dtype=torch.float64)
    pull = 1.5 * rest - 1.8 * whole.matrix

    def run(images: Tensor, noise: Noise) -> Tensor:
        guidance = (images.detach().flatten(1) - 0.5) @ pull.T.to(images)
        return purify(chain, images, noise) + guidance.view_as(images)

    offset = whole.offset - 0.5 * pull.sum(dim=1)
    return know_value(on, Affine(whole.matrix + pull, offset, whole.noise), run)


def borrow_derivative(other: Callable[[Examples, Affine], Tensor], sigma: float) -> Build:
    """A random matrix with noise whose derivative is another matrix."""

    def build(on: Examples) -> Known:
        affine = _mixing(on, "mixing").with_noise(FORWARD, 0, sigma)
        wrong = other(on, affine)

        def run(images: Tensor, noise: Noise) -> Tensor:
            lent = (images.flatten(1) @ wrong.T.to(images)).view_as(images)
            return affine.apply(images.detach(), noise) + (lent - lent.detach())

        return know_value(on, affine, run)

    return build


def _rotated(on: Examples, affine: Affine) -> Tensor:
    """A derivative at a state that was not visited, nearly unrelated to the true one."""
    pixels = count_pixels(on)
    rotation: Tensor = torch.linalg.qr(draw_normal(on, "unvisited", pixels, pixels))[0]
    return 0.9 * rotation + 0.1 * affine.matrix


def _reflected(on: Examples, affine: Affine) -> Tensor:
    """The derivative with the sign of three fifths of the pixels turned."""
    turned = 1.0 - 2.0 * draw_choice(on, "turned", 0.6).double().flatten()
    return affine.matrix * turned


def answer_hard_labels(sigma: float) -> Build:
    """Noise, and a classifier that says which class it is and a faint number that has nothing to do with it."""

    def build(on: Examples) -> Known:
        known = add_noise(sigma)(on)
        logits = len(on.classifier.biases)
        faint = 0.01 * draw_normal(on, "faint", count_pixels(on), logits)

        def classify(images: Tensor) -> Tensor:
            said = on.classifier(images).argmax(dim=1)
            return 4.0 * torch.eye(logits).to(images)[said] + images.flatten(1) @ faint.to(images)

        return Known(known.purifier, classify, known.truth)

    return build


def scale_logits(factor: float, sigma: float) -> Build:
    """Noise, and logits so large that the cross-entropy is 0 in float32."""

    def build(on: Examples) -> Known:
        known = add_noise(sigma)(on)
        linear = LinearClassifier(factor * on.classifier.weights, factor * on.classifier.biases)
        return Known(known.purifier, linear, known.truth)

    return build


def detach_some(share: float, sigma: float) -> Build:
    """Noise, and no derivative at some of the pixels."""

    def build(on: Examples) -> Known:
        affine = Affine.identity(count_pixels(on)).with_noise(FORWARD, 0, sigma)
        chosen = draw_choice(on, "detached", share)
        return know_value(
            on, affine, lambda images, noise: affine.apply(torch.where(chosen > 0, images.detach(), images), noise)
        )

    return build


STEPS = replace(COARSE, strength=(0.06, 0.3), lattice=OFFSET)

FAULTY: Group = {
    "detached guidance": Entry(NOISY, detach_guidance),
    "derivative at other states": Entry(at(NOISY, 0.06), borrow_derivative(_rotated, 0.1)),
    "derivative partly reflected": Entry(EUCLIDEAN, borrow_derivative(_reflected, 0.1)),
    "detached, 80 % of the pixels, noise .1": Entry(at(NOISY, 0.04), detach_some(0.8, 0.1)),
    "clamped contrast, noise .3": Entry(COARSE, map_and_add(clamp, 0.3)),
    "rounded with a leak, noise .1": Entry(
        COARSE, map_and_add(lambda images: round_pixels(images) - LEAK * images, 0.1, thresholds=THRESHOLDS)
    ),
    "stair of sigmoids, noise .1": Entry(STEPS, map_and_add(soft_stair(5000.0, 0.0), 0.1)),
    "hard labels, noise .2": Entry(at(NOISY, 0.05), answer_hard_labels(0.2)),
    "logits x 1000, noise .1": Entry(at(NOISY, 0.07), scale_logits(1000.0, 0.1)),
}
