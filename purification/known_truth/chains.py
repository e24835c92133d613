"""Diffusion chains on the optimal denoiser of Gaussian data: affine in image and noise, with many steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from purification.known_truth.examples import Examples, make_examples
from purification.models.denoisers import Denoiser, Epsilon, GaussianEpsilon, fit_gaussian
from purification.purifiers import DiffusionPurifier, diffusion
from purification.schedule import Level, Schedule

SCHEDULE = Schedule(1e-4, 0.02, 1000)  # of Ho et al. 2020
STORED = range(2 * 10**6, 2 * 10**6 + 400)  # images that the Gaussian is fitted to


def _of_any_type(epsilon: GaussianEpsilon) -> Epsilon:
    """The noise predictor in the type of what it is given: the audit asks for float64."""

    def predict(u: Tensor, level: Level) -> Tensor:
        own = GaussianEpsilon(epsilon.mean.to(u), epsilon.eigenvectors.to(u), epsilon.eigenvalues.to(u))
        return own(u, level)

    return predict


def make_chain(
    on: Examples, sampler: str, *, t_star: int, forward_noise: bool, **options: Any
) -> tuple[DiffusionPurifier, GaussianEpsilon]:
    """The chain, and the denoiser it runs on, which is optimal for a Gaussian with the images' moments."""
    stored = make_examples(on.conditions, STORED, on.seed).images
    epsilon = GaussianEpsilon(**fit_gaussian(stored))
    settings = {
        "kind": "diffusion",
        "sampler": sampler,
        "t_star": t_star,
        "forward_noise": forward_noise,
        "clip": "none",
        "clamp_output": False,
        **options,
    }
    chain = diffusion(settings, Denoiser(_of_any_type(epsilon), SCHEDULE), on.shape, torch.device("cpu"))
    if not isinstance(chain, DiffusionPurifier):
        raise ValueError(f"expected a chain of steps, got {chain} — raise t_star")
    return chain, epsilon
