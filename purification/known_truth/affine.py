"""Affine purifiers A x + b + sum_k B_k n_k, n_k standard normal, and the chains that are such maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from purification.models.denoisers import GaussianEpsilon
from purification.noise import FORWARD, REVERSE, Noise
from purification.purifiers import DiffusionPurifier, FunctionPurifier
from purification.samplers import Step

Stream = tuple[str, int]  # stream and step of a noise


@dataclass(frozen=True)
class Affine:
    """matrix A (D, D), offset b (D,), and for every noise that is drawn its matrix B (D, D); float64."""

    matrix: Tensor
    offset: Tensor
    noise: Mapping[Stream, Tensor] = field(default_factory=dict)

    @staticmethod
    def identity(pixels: int) -> Affine:
        """x -> x."""
        return Affine(torch.eye(pixels, dtype=torch.float64), torch.zeros(pixels, dtype=torch.float64))

    def with_noise(self, stream: str, step: int, sigma: float) -> Affine:
        """The same map with sigma times a standard normal added to every pixel."""
        return replace(self, noise={**self.noise, (stream, step): sigma * torch.eye(len(self.offset)).double()})

    def mean(self, flat: Tensor) -> Tensor:
        """(n, D) purified images without their noise, of flattened images."""
        return flat @ self.matrix.T + self.offset

    def noise_of(self, noise: Noise) -> Tensor:
        """(n, D) what these draws add, float64."""
        total = torch.zeros(len(noise.images), len(self.offset), dtype=torch.float64)
        for (stream, step), matrix in self.noise.items():
            total = total + noise.normal(stream, step).double().flatten(1) @ matrix.T
        return total

    def spread(self, weights: Tensor) -> Tensor:
        """Standard deviation of <weights, noise>, for weights (..., D)."""
        variance = torch.zeros(weights.shape[:-1], dtype=torch.float64)
        for matrix in self.noise.values():
            variance = variance + (weights @ matrix).square().sum(dim=-1)
        return variance.sqrt()

    def apply(self, images: Tensor, noise: Noise) -> Tensor:
        """Purified images, in the type of the images; differentiable."""
        flat = images.flatten(1) @ self.matrix.T.to(images.dtype) + self.offset.to(images.dtype)
        for (stream, step), matrix in self.noise.items():
            flat = flat + noise.normal(stream, step).to(images.dtype).flatten(1) @ matrix.T.to(images.dtype)
        return flat.view_as(images)

    def purifier(self) -> FunctionPurifier:
        """The map as a purifier without inner steps."""
        return FunctionPurifier(self.apply)


@dataclass(frozen=True)
class _Mode:
    """Eigencoordinates of a chain's state: gain (D,) of the image's, constant (D,), and gains of every noise."""

    gain: Tensor
    constant: Tensor
    noise: Mapping[Stream, Tensor]

    def scaled(self, factor: Tensor | float, constant: Tensor | float) -> _Mode:
        """factor times the state, plus a constant."""
        noise = {stream: factor * gain for stream, gain in self.noise.items()}
        return _Mode(factor * self.gain, factor * self.constant + constant, noise)


def _after_step(state: _Mode, step: Step, epsilon: GaussianEpsilon, mean: Tensor, number: int) -> _Mode:
    """One reverse step on the optimal noise predictor e = g (u - sqrt(abar) mean), g a number per eigenvector."""
    alpha_bar = step.level.alpha_bar
    gain = math.sqrt(1.0 - alpha_bar) / (alpha_bar * epsilon.eigenvalues.double() + 1.0 - alpha_bar)
    shift = -gain * math.sqrt(alpha_bar) * mean
    x0_gain = (1.0 - math.sqrt(1.0 - alpha_bar) * gain) / math.sqrt(alpha_bar)
    x0_shift = -math.sqrt(1.0 - alpha_bar) * shift / math.sqrt(alpha_bar)
    factor = step.x0_weight * x0_gain + step.state_weight + step.eps_weight * gain
    after = state.scaled(factor, step.x0_weight * x0_shift + step.eps_weight * shift)
    if step.noise_weight == 0.0:
        return after
    return replace(after, noise={**after.noise, (REVERSE, number): torch.full_like(gain, step.noise_weight)})


def compose_chain(chain: DiffusionPurifier, epsilon: GaussianEpsilon) -> Affine:
    """The affine map of a chain on the optimal denoiser of Gaussian data, step by step in its eigenbasis, float64.

    The chain runs on u = 2 x - 1 and its result is (u + 1) / 2; it must not clip.
    """
    if chain.clip != "none" or chain.clamp_output:
        raise ValueError("expected a chain without clipping, got one that clips — it is not affine")
    basis = epsilon.eigenvectors.double()
    mean, ones = basis.T @ epsilon.mean.double().flatten(), basis.sum(dim=0)
    root = math.sqrt(chain.start_alpha_bar)
    noise: dict[Stream, Tensor] = {}
    if chain.start_alpha_bar != 1.0:
        noise[FORWARD, 0] = torch.full_like(ones, math.sqrt(1.0 - chain.start_alpha_bar))
    state = _Mode(torch.full_like(ones, 2.0 * root), -root * ones, noise)
    for number, step in enumerate(chain.table):
        state = _after_step(state, step, epsilon, mean, number)
    half = state.scaled(0.5, 0.5 * ones)
    matrices = {stream: basis @ torch.diag(gain) @ basis.T for stream, gain in half.noise.items()}
    return Affine(basis @ torch.diag(half.gain) @ basis.T, basis @ half.constant, matrices)
