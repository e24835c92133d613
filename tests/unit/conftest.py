"""Fixtures shared by the library's tests: data whose answers are known, small networks, global random state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from purification.models.denoisers import Denoiser, Epsilon, network_epsilon
from purification.models.unet import UNet
from purification.noise import Noise, NoiseSource
from purification.purifiers import Purifier, make_purifier
from purification.schedule import Level, Schedule

settings.register_profile("unit", derandomize=True, database=None, deadline=None)
settings.load_profile("unit")
CPU = torch.device("cpu")
SMALL_UNET: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "add_attention": False,
}
DIFFUSION: dict[str, Any] = {
    "kind": "diffusion",
    "sampler": "ddpm",
    "variance": "fixed_small",
    "t_star": 100,
    "steps": 5,
    "forward_noise": True,
    "clip": "none",
    "clamp_output": False,
}


def global_state() -> tuple[bytes, bytes]:
    """The global random state of torch and NumPy."""
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002


@pytest.fixture
def global_random_state() -> Iterator[None]:
    """Fails the test that changes the global random state of torch or NumPy."""
    before = global_state()
    yield
    assert global_state() == before, "expected the global random state to be left as it was"


@pytest.fixture(scope="session")
def schedule() -> Schedule:
    """The schedule of Ho et al. 2020."""
    return Schedule(1e-4, 0.02, 1000)


@pytest.fixture(scope="session")
def random_tensor() -> Callable[..., Tensor]:
    """Function (shape, seed, dtype, normal) -> reproducible numbers, uniform in [0, 1) unless normal."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, normal: bool = False) -> Tensor:
        sample = torch.randn if normal else torch.rand
        return sample(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

    return make


@pytest.fixture(scope="session")
def isotropic() -> Callable[[float, float], Epsilon]:
    """Function (mean, variance) -> the optimal noise predictor for independent N(mean, variance) pixels."""

    def make(mean: float, variance: float) -> Epsilon:
        def epsilon(u: Tensor, level: Level) -> Tensor:
            abar = level.alpha_bar
            return math.sqrt(1 - abar) * (u - math.sqrt(abar) * mean) / (abar * variance + 1 - abar)

        return epsilon

    return make


@pytest.fixture(scope="session")
def curved(schedule: Schedule) -> Denoiser:
    """A smooth nonlinear noise predictor that mixes the pixels of an image and depends on the level."""

    def epsilon(u: Tensor, level: Level) -> Tensor:
        mixed = 0.7 * u + 0.4 * u.roll(1, dims=-1) - 0.3 * u.roll(1, dims=-2)
        return torch.tanh(mixed) * (0.5 + level.position / 200) + 0.1 * u.square()

    return Denoiser(epsilon, schedule)


@pytest.fixture(scope="session")
def randomised() -> Callable[..., nn.Module]:
    """Function (network, seed) -> the network with every parameter drawn anew, so that no layer is a no-op."""

    def fill(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in network.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            fan = max(math.prod(parameter.shape[1:]), 1) if parameter.dim() > 1 else 25
            noise = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan)
            parameter.data = centre + noise.to(parameter.dtype)
        return network

    return fill


@pytest.fixture(scope="session")
def unet_config() -> dict[str, Any]:
    """Configuration of the smallest attention-free U-Net."""
    return dict(SMALL_UNET)


@pytest.fixture(scope="session")
def unet(schedule: Schedule, randomised: Callable[..., nn.Module]) -> Denoiser:
    """A small U-Net with random weights."""
    network = UNet.from_config(SMALL_UNET)
    randomised(network)
    return Denoiser(network_epsilon(network), schedule)


@pytest.fixture(scope="session")
def diffusion() -> Callable[..., Purifier]:
    """Function (denoiser, **changed settings) -> diffusion purifier."""

    def make(denoiser: Denoiser, **changes: Any) -> Purifier:
        settings = {**DIFFUSION, **changes}
        allowed = {"ddpm": {"variance", "steps"}, "ddim": {"eta", "steps"}, "one_step": set()}
        extra = {"variance", "eta", "steps"} - allowed.get(settings["sampler"], {"steps"})
        kept = {key: value for key, value in settings.items() if key not in extra}
        return make_purifier(kept, denoiser, (1, 8, 8), CPU)

    return make


@pytest.fixture(scope="session")
def fixed_noise() -> Callable[..., Noise]:
    """Function (images, shape, draw, role, dtype) -> noise of seed 0."""

    def make(
        images: int,
        *shape: int,
        draw: int = 0,
        role: str = "fixed",
        dtype: torch.dtype = torch.float32,
    ) -> Noise:
        channels, height, width = shape or (1, 8, 8)
        return NoiseSource(0, role, (channels, height, width), dtype=dtype)(range(images), draw)

    return make
