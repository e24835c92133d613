"""Adversarial training of a classifier that also sees noise: the auxiliary network of guided purification (AGDM).

TRADES (Zhang et al. 2019, arXiv 1901.08573): cross-entropy on clean images plus `weight` times the divergence between
the outputs on clean and on adversarial images. Guidance evaluates the network at noisy states, so images get Gaussian
noise of a random strength, the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification.journal import NO_JOURNAL, Journal
from purification.models.classifiers import ResidualNetwork
from purification.training import evaluating, fit_classifier

START = 1e-3  # deviation of the first perturbation: at 0 the divergence has no gradient (TRADES)


def divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(other)) of logits (B, classes), (B,)."""
    pair = F.log_softmax(other, dim=1), F.log_softmax(clean, dim=1)
    return F.kl_div(*pair, reduction="none", log_target=True).sum(dim=1)


def noised(images: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    """Images plus normals of a deviation uniform in [0, noise) for every image, not clipped."""
    deviation = torch.from_numpy(noise * rng.random((len(images), 1, 1, 1), dtype=np.float32)).to(images)
    return images + deviation * torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(images)


def perturbation(network: nn.Module, images: Tensor, settings: Mapping[str, Any], rng: np.random.Generator) -> Tensor:
    """Signed ascent of the divergence inside the ball of radius `epsilon`, (B, C, H, W); no box: images are noisy."""
    budget = settings["epsilon"]
    delta = START * torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(images)
    with evaluating(network):
        with torch.no_grad():
            clean = network(images)
        for _ in range(settings["iterations"]):
            leaf = delta.requires_grad_()
            (slope,) = torch.autograd.grad(divergence(clean, network(images + leaf)).sum(), leaf)
            delta = (delta.detach() + settings["step_size"] * budget * slope.sign()).clamp(-budget, budget)
    return delta.detach()


def evaluations(settings: Mapping[str, Any]) -> dict[str, int]:
    """Passes of one batch through the network in a whole training, from its settings."""
    steps, inner = settings["steps"], settings["adversary"]["iterations"]
    return {"network_forward": steps * (3 + inner), "network_backward": steps * (2 + inner)}


def train_robust_classifier(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], seed: int, journal: Journal = NO_JOURNAL
) -> tuple[ResidualNetwork, list[float]]:
    """TRADES on noised images in [0, 1]; returns the network in evaluation mode and the loss per step.

    A training of the same arguments goes on from the state that `journal` kept, to the same bits.
    """
    adversary = settings["adversary"]

    def objective(network: ResidualNetwork, batch: Tensor, truth: Tensor, rng: np.random.Generator) -> Tensor:
        noisy = noised(batch, settings["noise"], rng)
        delta = perturbation(network, noisy, adversary, rng)
        logits = network(noisy)
        natural: Tensor = F.cross_entropy(logits, truth)
        unlike: Tensor = adversary["weight"] * divergence(logits, network(noisy + delta)).mean()
        return natural + unlike

    return fit_classifier(images, labels, settings, seed, objective, "robust classifier", journal)
