"""Denoisers: eps(u, level) on [-1, 1] images, together with the schedule they were trained on.

eps: (B, C, H, W), Level -> (B, C, H, W), the noise in u = sqrt(abar) u0 + sqrt(1 - abar) eps
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification.models.classifiers import Classifier
from purification.schedule import Level, Schedule, sigma_equivalent

Epsilon = Callable[[Tensor, Level], Tensor]


def resized(images: Tensor, size: int) -> Tensor:
    """Images brought to size x size (bilinear, pixel centres aligned); as they are when they have it."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


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


def preconditioned_epsilon(network: nn.Module) -> Epsilon:
    """Noise predictor of a frozen network that takes the standard deviation of the noise per unit of signal."""
    network.eval().requires_grad_(False)

    def epsilon(u: Tensor, level: Level) -> Tensor:
        out: Tensor = network(u, sigma_equivalent(level.alpha_bar))
        return out

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


@dataclass(frozen=True)
class StationaryEpsilon:
    """Optimal noise predictor for data N(mean, covariance) whose covariance does not change under cyclic shifts.

    The same as `GaussianEpsilon` in the basis of Fourier modes, where such a covariance is a C x C matrix per
    frequency: for images whose full covariance fits no memory.

    mean         (C, 1, 1) on [-1, 1]
    real, imag   (H, W, C, C), eigenvectors of every frequency, columns
    eigenvalues  (H, W, C), non-negative
    """

    mean: Tensor
    real: Tensor
    imag: Tensor
    eigenvalues: Tensor

    def __call__(self, u: Tensor, level: Level) -> Tensor:
        alpha_bar = level.alpha_bar
        vectors = torch.complex(self.real, self.imag)
        modes = torch.fft.fft2(u - math.sqrt(alpha_bar) * self.mean).permute(0, 2, 3, 1)
        gain = math.sqrt(1.0 - alpha_bar) / (alpha_bar * self.eigenvalues + 1.0 - alpha_bar)
        scaled = torch.einsum("hwck,bhwc->bhwk", vectors.conj(), modes) * gain
        back = torch.einsum("hwck,bhwk->bhwc", vectors, scaled).permute(0, 3, 1, 2)
        out: Tensor = torch.fft.ifft2(back).real
        return out.to(u.dtype)


def fit_stationary(images: Tensor, size: int) -> dict[str, Tensor]:
    """Channel means and cross-spectra of images (n, C, H, W) in [0, 1], resized to `size`, as `StationaryEpsilon`'s.

    The averaged periodogram: the sample covariance averaged over all cyclic shifts.
    """
    channels, spectrum = images.shape[1], torch.zeros(size, size, images.shape[1], images.shape[1], dtype=torch.cdouble)
    mean = torch.zeros(channels, dtype=torch.double)
    for first in range(0, len(images), 16):
        batch = images[first : first + 16]
        u = 2.0 * resized(batch, size).double() - 1.0
        mean += u.mean(dim=(2, 3)).sum(dim=0) / len(images)
        modes = torch.fft.fft2(u, norm="ortho").permute(0, 2, 3, 1)
        spectrum += torch.einsum("bhwc,bhwd->hwcd", modes, modes.conj()) / len(images)
    spectrum[0, 0] -= size**2 * torch.outer(mean, mean)
    eigenvalues, vectors = torch.linalg.eigh(spectrum)
    parts = {"real": vectors.real.float().contiguous(), "imag": vectors.imag.float().contiguous()}
    values = eigenvalues.clamp_min(0.0).float()
    return {"mean": mean.view(-1, 1, 1).float(), **parts, "eigenvalues": values}
