"""What large images need: the stationary null model, and purifiers that work at another size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from purification.gradients import gradient
from purification.models.denoisers import (
    Denoiser,
    GaussianEpsilon,
    StationaryEpsilon,
    fit_gaussian,
    fit_stationary,
    resized,
)
from purification.noise import FORWARD, REVERSE, Noise
from purification.purifiers import make_purifier, purify
from purification.schedule import Level, Schedule

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    **{"kind": "diffusion", "sampler": "ddpm", "variance": "fixed_small", "t_star": 100, "steps": 4},
    **{"forward_noise": True, "clip": "none", "clamp_output": False},
}


def textures(count: int, side: int) -> Tensor:
    """Smooth colour images in [0, 1]."""
    noise = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    noise = noise + noise.roll(1, dims=2) + noise.roll(1, dims=3) + 0.5 * noise[:, [1, 2, 0]]
    return noise / 3.5


@pytest.mark.parametrize("alpha_bar", [0.9, 0.4])
def test_the_stationary_model_is_the_gaussian_of_all_cyclic_shifts(alpha_bar: float) -> None:
    """Adding every shift of every image makes the full covariance stationary, exactly."""
    images, side = textures(20, 5).double(), 5
    shifts = [images.roll((i, j), dims=(2, 3)) for i in range(side) for j in range(side)]
    u = (2 * torch.cat(shifts) - 1).flatten(1)
    centred = u - u.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(u))
    full = GaussianEpsilon(u.mean(0).view(3, side, side), vectors, values.clamp_min(0))
    ours = StationaryEpsilon(**{name: tensor.double() for name, tensor in fit_stationary(images, side).items()})
    states = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = Level(3.0, alpha_bar)
    assert float((full(states, level) - ours(states, level)).abs().max()) < 1e-5
    other = GaussianEpsilon(**{name: tensor.double() for name, tensor in fit_gaussian(images).items()})
    assert float((other(states, level) - ours(states, level)).abs().max()) > 0.1


def test_the_stationary_model_is_fitted_at_the_size_it_is_used_at() -> None:
    tensors = fit_stationary(textures(3, 6), 8)
    assert tensors["eigenvalues"].shape == (8, 8, 3) and tensors["mean"].shape == (3, 1, 1)
    assert float(tensors["eigenvalues"].min()) >= 0


def noise_of(side: int) -> Noise:
    return Noise(1, "evaluation", (4, 9), (0, 0), (3, side, side))


def test_noise_of_another_size_is_keyed_like_any_other() -> None:
    held = noise_of(6).hold((FORWARD,), Noise(1, "fixed", (4, 9), (0, 0), (3, 6, 6))).sized(8)
    assert torch.equal(held.normal(REVERSE, 2), noise_of(8).normal(REVERSE, 2))
    assert torch.equal(held.normal(FORWARD), Noise(1, "fixed", (4, 9), (0, 0), (3, 8, 8)).normal(FORWARD))


def test_a_purifier_at_another_size_resizes_before_and_after() -> None:
    tensors = fit_stationary(textures(10, 8), 8)
    denoiser = Denoiser(StationaryEpsilon(**tensors), Schedule(1e-4, 0.02, 1000))
    images = textures(2, 6)
    inner = make_purifier(SETTINGS, denoiser, (3, 8, 8), CPU)
    outer = make_purifier({**SETTINGS, "size": 8}, denoiser, (3, 6, 6), CPU)
    large = F.interpolate(images, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(resized(images, 8), large) and torch.equal(resized(large, 8), large)
    expected = F.interpolate(purify(inner, large, noise_of(8)), size=(6, 6), mode="bilinear", align_corners=False)
    assert torch.equal(purify(outer, images, noise_of(6)), expected)


def test_gradients_go_through_both_resizings() -> None:
    tensors = {name: tensor.double() for name, tensor in fit_stationary(textures(10, 8), 8).items()}
    denoiser = Denoiser(StationaryEpsilon(**tensors), Schedule(1e-4, 0.02, 1000))
    purifier = make_purifier({**SETTINGS, "size": 8}, denoiser, (3, 6, 6), CPU)
    images, noise = textures(2, 6).double(), Noise(1, "fixed", (4, 9), (0, 0), (3, 6, 6), dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    (plain,) = torch.autograd.grad(purify(purifier, leaf, noise).square().sum(), leaf)
    result = gradient(purifier, images, noise, lambda x: x.square().sum(dim=(1, 2, 3)), mode="replay", kept_steps=0)
    assert float((result.gradient - plain).abs().max()) < 1e-10 and float(plain.abs().max()) > 0.1
