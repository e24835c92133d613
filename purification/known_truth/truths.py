"""Closed forms of robust accuracy.

An image is right as long as its margin over every rival is positive. Where margins are affine in the image, a budget
lowers each of them by epsilon times the dual norm of its weights at most, and some perturbation does exactly that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom, norm
from torch import Tensor

from purification.known_truth.affine import Affine
from purification.known_truth.examples import Examples
from purification.purifiers import Purifier, purify
from purification.statistics import Array

DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}  # order of the dual norm
NODES = 80  # of the Gauss-Hermite quadrature
FEW = 1e-6  # image units: how far beside a threshold a pixel is tried


@dataclass(frozen=True)
class Truth:
    """What is true of every image.

    probability  (n,) least probability, over the budget, of being right over the defence's randomness
    frozen       (n,) right for every image of the budget under the frozen noise
    binary       whether there is one wrong answer only: then a majority of draws decides a vote
    """

    probability: Array
    frozen: Array
    binary: bool

    def average(self) -> Array:
        """(n,) what Avg.Rob averages."""
        return self.probability

    def worst_of(self, attempts: int) -> Array:
        """(n,) what Wor.Rob_N averages, P_i^N."""
        return np.asarray(self.probability**attempts)

    def majority(self, votes: int) -> Array:
        """(n,) probability of a majority of `votes` draws, ties lost; NaN where several answers are wrong."""
        if not self.binary:
            return np.full(len(self.probability), np.nan)
        return np.asarray(binom.sf(votes // 2, votes, self.probability))


def certain(robust: Tensor) -> Truth:
    """The truth (n,) of a defence without randomness."""
    values = robust.numpy()
    return Truth(values.astype(float), values, binary=True)


def dual_norm(weights: Tensor, norm_name: str) -> Tensor:
    """Largest <weights, delta> over ||delta|| <= 1, along the last dimension."""
    size: Tensor = torch.linalg.vector_norm(weights, ord=DUAL[norm_name], dim=-1)
    return size


def worst_perturbation(weights: Tensor, norm_name: str, epsilon: float) -> Tensor:
    """The delta with ||delta|| <= epsilon that has the least <weights, delta>, along the last dimension."""
    if norm_name == "linf":
        return -epsilon * weights.sign()
    if norm_name == "l2":
        length: Tensor = torch.linalg.vector_norm(weights, dim=-1, keepdim=True)
        return -epsilon * weights / length
    steepest = weights.abs().argmax(dim=-1, keepdim=True)
    largest = torch.zeros_like(weights).scatter(-1, steepest, 1.0)
    return -epsilon * weights.sign() * largest


def _lowest_means(on: Examples, affine: Affine) -> Tensor:
    """(n, rivals) least mean margins over the budget; ValueError where the box would forbid a worst perturbation."""
    images = on.images.double().flatten(1)
    pulled = on.differences @ affine.matrix
    moved = images[:, None] + worst_perturbation(pulled, on.threat.norm, on.threat.epsilon)
    if moved.min() < 0.0 or moved.max() > 1.0:
        reach = f"[{float(moved.min()):.3f}, {float(moved.max()):.3f}]"
        raise ValueError(f"expected worst perturbations within [0, 1], got {reach} — lower epsilon, strength or jitter")
    margins = torch.einsum("nrd,nd->nr", on.differences, affine.mean(images)) + on.bias_differences
    return margins - on.threat.epsilon * dual_norm(pulled, on.threat.norm)


def affine_truth(on: Examples, affine: Affine) -> Truth:
    """Truth of a purifier A x + b + sum_k B_k n_k, n_k standard normal, in front of the linear classifier.

    One margin (two classes): P = Phi((margin - epsilon ||A^T w||_*) / sqrt(sum_k ||B_k^T w||^2)).
    Several margins: every one has the same worst perturbation, else ValueError, and P is an integral over the noise
    of the true logit, whose noise must be independent of the others' (`blocks`).
    Under the frozen noise: every margin, with its noise, stays positive after its own worst perturbation.
    """
    lowest = _lowest_means(on, affine)
    frozen_noise = affine.noise_of(on.noise("fixed")(on.ids))
    known = lowest + torch.einsum("nrd,nd->nr", on.differences, frozen_noise)
    frozen = (known > 0.0).all(dim=1)
    if not affine.noise:
        return certain(frozen)
    integrate = _one_margin if on.classes == 2 else _independent_logits
    return Truth(integrate(on, affine, lowest), frozen.numpy(), binary=on.classes == 2)


def _one_margin(on: Examples, affine: Affine, lowest: Tensor) -> Array:
    """Rivals 0 and 1 are each other's; the two constant logits are never the largest."""
    spread = affine.spread(on.differences[:, 0])
    return np.asarray(norm.cdf((lowest[:, 0] / spread).numpy()))


def _independent_logits(on: Examples, affine: Affine, lowest: Tensor) -> Array:
    """Integral of prod_c Phi((m_c + s_y t) / s_c) over t ~ N(0, 1), m_c the least mean margins (Gauss-Hermite)."""
    pulled = (on.differences @ affine.matrix).numpy()
    if on.threat.norm != "linf" or (pulled.max(axis=1) * pulled.min(axis=1) < 0).any():
        raise ValueError("expected one worst perturbation for all rivals, got several — use blocks and linf")
    spreads = affine.spread(on.classifier.weights)
    own = spreads[on.labels].numpy()
    others = spreads[on.rivals].numpy()
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    above = (lowest.numpy()[:, :, None] + own[:, None, None] * points) / others[:, :, None]
    product = norm.cdf(above).prod(axis=1)
    return np.asarray(product @ weights / weights.sum())


def pixel_range(on: Examples, purifier: Purifier, *, thresholds: Sequence[float], grid: int) -> tuple[Tensor, Tensor]:
    """Least and largest value (n, D) of every purified pixel over the budget, for a purifier that maps pixel by pixel.

    Pixels are tried at `grid` points of their interval, both ends among them, and beside every threshold in it. That
    is exact for monotone maps, and for maps that are monotone between their thresholds.
    """
    epsilon = on.threat.epsilon
    images = on.images
    frozen = on.noise("fixed")(on.ids)
    low = images - epsilon
    high = images + epsilon
    if low.min() < 0.0 or high.max() > 1.0:
        raise ValueError(
            "expected images farther than epsilon from 0 and 1, got nearer ones — lower strength or jitter"
        )
    tried = [images + epsilon * float(t) for t in torch.linspace(-1.0, 1.0, grid)]
    for threshold in thresholds:
        tried += [torch.full_like(images, threshold + side).clamp(low, high) for side in (-FEW, FEW)]
    smallest = torch.full(images.flatten(1).shape, torch.inf, dtype=torch.float64)
    largest = -smallest
    with torch.no_grad():
        for candidate in tried:
            values = purify(purifier, candidate, frozen).double().flatten(1)
            smallest = torch.minimum(smallest, values)
            largest = torch.maximum(largest, values)
    return smallest, largest


def separable_truth(
    on: Examples, purifier: Purifier, *, thresholds: Sequence[float] = (), grid: int = 41, sigma: float = 0.0
) -> Truth:
    """Truth of a purifier that maps pixel by pixel, with normal noise of deviation `sigma` added after it.

    Under l_inf every pixel moves by itself, so that the least margin over a rival is the sum of the pixels' worst
    values. With noise there must be two classes: then every draw has the same worst perturbation. `purifier` is the
    map without its noise.
    """
    if on.threat.norm != "linf":
        raise ValueError(f"expected norm linf for a map pixel by pixel, got {on.threat.norm!r} — change the conditions")
    smallest, largest = pixel_range(on, purifier, thresholds=thresholds, grid=grid)
    differences = on.differences
    worst = torch.where(differences > 0, smallest[:, None], largest[:, None])
    lowest = (differences * worst).sum(dim=2) + on.bias_differences
    if sigma == 0.0:
        return certain((lowest > 0.0).all(dim=1))
    return noisy_margin_truth(on, lowest, sigma)


def noisy_margin_truth(on: Examples, lowest: Tensor, sigma: float) -> Truth:
    """Truth of two classes whose least mean margins (n, rivals) meet normal noise added to the purified image."""
    if on.classes != 2:
        raise ValueError(f"expected two classes for a map with noise, got {on.classes} — change the conditions")
    added = Affine.identity(on.images[0].numel()).with_noise("forward", 0, sigma)
    noise = added.noise_of(on.noise("fixed")(on.ids))
    known = lowest + torch.einsum("nrd,nd->nr", on.differences, noise)
    probability = _one_margin(on, added, lowest)
    return Truth(probability, (known > 0.0).all(dim=1).numpy(), binary=True)
