"""Denoisers: eps(u, level) on [-1, 1] images, together with the schedule they were trained on.

eps: (B, C, H, W), Level -> (B, C, H, W), the noise in u = sqrt(abar) u0 + sqrt(1 - abar) eps
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from purification.models.classifiers import Classifier
from purification.schedule import Level, Schedule

Epsilon = Callable[[Tensor, Level], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """A noise predictor, its schedule, and the classifier that guides its steps, if any."""

    epsilon: Epsilon
    schedule: Schedule
    auxiliary: Classifier | None = None


def network_epsilon(network: nn.Module) -> Epsilon:
    """Noise predictor of a frozen U-Net in evaluation mode; of a network that learns variances the first channels."""
    network.eval().requires_grad_(False)

    def epsilon(u: Tensor, level: Level) -> Tensor:
        out: Tensor = network(u, level.position)
        return out if out.shape == u.shape else out[:, : u.shape[1]]

    return epsilon


@dataclass(frozen=True)
class GaussianEpsilon:
    """Optimal noise predictor for data N(mean, covariance): the linear-Gaussian null model.

    eps*(u) = sqrt(1 - abar) S^-1 (u - sqrt(abar) mean), S = abar covariance + (1 - abar) I, in the eigenbasis of the
    covariance. Every sampler built on it is an affine map of image and noise.

    mean          (C, H, W) on [-1, 1]
    eigenvectors  (D, D), columns
    eigenvalues   (D,), non-negative
    """

    mean: Tensor
    eigenvectors: Tensor
    eigenvalues: Tensor

    def __call__(self, u: Tensor, level: Level) -> Tensor:
        alpha_bar = level.alpha_bar
        centred = (u - math.sqrt(alpha_bar) * self.mean).flatten(1)
        gain = math.sqrt(1.0 - alpha_bar) / (alpha_bar * self.eigenvalues + 1.0 - alpha_bar)
        return (((centred @ self.eigenvectors) * gain) @ self.eigenvectors.T).view_as(u)


def fit_gaussian(images: Tensor) -> dict[str, Tensor]:
    """Mean and covariance eigenbasis of images (n, C, H, W), n >= 2, in [0, 1], as tensors of `GaussianEpsilon`."""
    if len(images) < 2:
        raise ValueError(f"expected at least 2 images to fit a covariance, got {len(images)} — raise splits.train")
    u = (2.0 * images.double() - 1.0).flatten(1)
    mean = u.mean(dim=0)
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(u.T).view(u.shape[1], u.shape[1]))
    return {
        "mean": mean.view(images.shape[1:]).float(),
        "eigenvectors": eigenvectors.float().contiguous(),
        "eigenvalues": eigenvalues.clamp_min(0.0).float(),
    }
