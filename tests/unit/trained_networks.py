"""Small networks trained on scikit-learn's digits within seconds, for tests that need what training makes of one."""

from __future__ import annotations

import math
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from purification.models.denoisers import Denoiser
from purification.schedule import Level, Schedule

SHAPE = (1, 8, 8)
TESTED = 400  # images that are not trained on


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All images (1797, 1, 8, 8) in [0, 1] and their labels; the first `TESTED` are for tests."""
    data = load_digits()
    images = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    return images, torch.tensor(data.target)


@cache
def digit_classifier() -> nn.Module:
    """A network of one hidden layer with about 96 % clean accuracy."""
    images, labels = digits()
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(400):
        batch = torch.randint(TESTED, len(images), (128,), generator=generator)
        noisy = images[batch] + 0.1 * torch.randn(128, *SHAPE, generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(noisy), labels[batch]).backward()
        optimiser.step()
    return network.requires_grad_(False)


class _Network(nn.Module):
    """Predicts the noise of (B, 1, 8, 8) from the noisy image and the share of noise in it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, u: Tensor, noise_share: Tensor) -> Tensor:
        predicted: Tensor = self.layers(torch.cat([u, noise_share.to(u).expand_as(u)], dim=1))
        return predicted


@cache
def digit_denoiser() -> Denoiser:
    """A noise predictor of four convolutions, good enough for half of the noise levels."""
    images, _ = digits()
    schedule = Schedule(1e-4, 0.02, 1000)
    generator = torch.Generator().manual_seed(0)
    network = _Network(24)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 1e6
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(fan))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(500):
        batch = torch.randint(TESTED, len(images), (64,), generator=generator)
        levels = torch.randint(0, 500, (64,), generator=generator)
        alpha_bar = torch.tensor([schedule.level(int(i)).alpha_bar for i in levels]).view(-1, 1, 1, 1)
        noise = torch.randn(64, *SHAPE, generator=generator)
        u = alpha_bar.sqrt() * (2 * images[batch] - 1) + (1 - alpha_bar).sqrt() * noise
        optimiser.zero_grad()
        nn.functional.mse_loss(network(u, (1 - alpha_bar).sqrt()), noise).backward()
        optimiser.step()
    network.requires_grad_(False)

    def epsilon(u: Tensor, level: Level) -> Tensor:
        share = torch.full((1, 1, 1, 1), math.sqrt(1 - level.alpha_bar))
        predicted: Tensor = network.to(u.dtype)(u, share)
        return predicted

    return Denoiser(epsilon, schedule)
