"""EDM's parameterisation of fine-tuning: its levels, its loss, and its networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from purification.finetuning import METHODS, batch_of, edm_weight, finetune_denoiser, lognormal
from purification.models.edm_unet import EdmUNet
from purification.models.loading import Sampled
from purification.philox import generator
from purification.schedule import Schedule
from purification.training import initialise

Numbers = Callable[..., Tensor]
DATA = 0.5
TRAINING: dict[str, Any] = {
    "steps": 1, "batch_size": 6, "learning_rate": 1e-30, "weight_decay": 0.0, "warmup": 1, "gradient_clip": 1e6,
    "ema": 0.0, "log_sigma": [-1.2, 1.2], "sigma_data": DATA,
}  # fmt: skip
ADDT = {"objective": "class", "mapping": "ranks", "mix": "preserving", "iterations": 2, "strength": 0.03, "limit": 0.3}
METHODS_HERE = {"none": {}, "addt": {"adversary": ADDT}}


def entry(method: str, architecture: str) -> dict[str, Any]:
    return {"method": method, "levels": "edm", "architecture": architecture, "training": TRAINING,
            **METHODS_HERE[method]}  # fmt: skip


def classifier(images: Tensor) -> Tensor:
    score = images.flatten(1) @ torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype)
    return torch.stack([score, -score], dim=1)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(20, 1, 8, 8)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(20) % 2


def test_the_logarithms_of_the_levels_are_normal(schedule: Schedule) -> None:
    n = 20_000
    settings = {"training": {"log_sigma": [-1.2, 1.2]}}
    positions, alpha_bars, _ = lognormal(generator(0, "test", "levels"), n, schedule, settings)
    logs = 0.5 * np.log((1 - alpha_bars) / alpha_bars)
    assert logs.mean() == pytest.approx(-1.2, abs=4 * 1.2 / math.sqrt(n))
    assert logs.std() == pytest.approx(1.2, rel=4 / math.sqrt(2 * n))
    inside = (positions > 0) & (positions < 999)
    again = [schedule.level_at((position + 1) / 1000).alpha_bar for position in positions[inside]]
    np.testing.assert_allclose(again, alpha_bars[inside], rtol=1e-9)
    assert 0.95 < inside.mean() <= 1


@pytest.mark.parametrize("method", METHODS_HERE)
def test_the_share_and_the_noisy_image_are_those_of_addt_in_edm(
    images: Tensor, labels: Tensor, schedule: Schedule, method: str
) -> None:
    """y = u_0 + sigma (sqrt(1 - l^2) n + l delta), l = min(.03 / sigma, .3), and D - u_0 = -sigma (eps_hat - eps)."""
    settings = entry(method, "edm")
    batch = batch_of(images.double(), labels, schedule, settings, generator(0, "test", "edm"))
    noisy, target = METHODS[method](batch, lambda u, s: 0.3 * u, classifier, settings.get("adversary", {}))
    sigma = batch.positions.view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy * (1 + sigma**2).sqrt(), batch.images + sigma * target, rtol=1e-9, atol=1e-9)
    y, guess = noisy * (1 + sigma**2).sqrt(), torch.full_like(noisy, 0.1)
    of_image = (sigma**2 + DATA**2) / (sigma * DATA) ** 2 * (y - sigma * guess - batch.images).square()
    of_noise = edm_weight(batch.alpha_bars, TRAINING) * (guess - target).square()
    torch.testing.assert_close(of_noise, of_image, rtol=1e-6, atol=1e-9)


class Constant(nn.Module):
    """Predicts the same noise everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.1))
        self.seen: list[Tensor] = []

    def forward(self, u: Tensor, positions: Tensor) -> SimpleNamespace:
        self.seen.append(positions)
        return SimpleNamespace(sample=self.w.expand_as(u))


@pytest.mark.parametrize("architecture", ["unet", "edm"])
def test_the_loss_is_weighted_and_positions_are_those_of_the_network(
    images: Tensor, labels: Tensor, schedule: Schedule, architecture: str
) -> None:
    settings, network = entry("none", architecture), Constant()
    _, losses = finetune_denoiser(images, labels, network, schedule, None, settings, 3)
    batch = batch_of(images, labels, schedule, settings, generator(3, "training", "finetuned", step=0))
    noisy, eps = METHODS["none"](batch, lambda u, s: u, None, {})
    sigma = ((1 - batch.alpha_bars) / batch.alpha_bars).sqrt()
    y = noisy / batch.alpha_bars.sqrt()
    weighted = (sigma**2 + DATA**2) / (sigma * DATA) ** 2 * (y - sigma * 0.1 - batch.images).square()
    assert losses[0] == pytest.approx(float(weighted.mean()), rel=1e-5)
    assert losses[0] != pytest.approx(float((0.1 - eps).square().mean()), rel=0.05)
    sigmas = sigma.flatten().tolist()
    expected = sigmas if architecture == "edm" else [schedule.position_of(one) for one in sigmas]
    assert network.seen[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_of_an_edm_network_the_loss_is_the_plain_error_of_its_raw_output(
    images: Tensor, labels: Tensor, schedule: Schedule
) -> None:
    """mean ||F(c_in y; c_noise) - (u_0 - c_skip y) / c_out||^2 (Karras et al. 2022, eq. 8)."""
    config = {"size": 8, "channels": 1, "width": 8, "multipliers": [1, 1], "layers": 1, "attention": [4]}
    network = initialise(lambda: EdmUNet({**config, "sigma_data": DATA}), 0)
    settings = entry("none", "edm")
    _, losses = finetune_denoiser(images, labels, Sampled(network), schedule, None, settings, 3)
    batch = batch_of(images, labels, schedule, settings, generator(3, "training", "finetuned", step=0))
    noisy, _ = METHODS["none"](batch, lambda u, s: u, None, {})
    sigma = ((1 - batch.alpha_bars) / batch.alpha_bars).sqrt()
    y, total = noisy / batch.alpha_bars.sqrt(), sigma**2 + DATA**2
    with torch.no_grad():
        raw = network.network.labelled((y / total.sqrt()).float(), (sigma.flatten().log() / 4).float())
    aim = (batch.images - DATA**2 / total * y) / (sigma * DATA / total.sqrt())
    assert losses[0] == pytest.approx(float((raw - aim).square().mean()), rel=1e-4)
