"""Small networks trained on scikit-learn's digits within seconds, for tests that need what training makes of one."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

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
