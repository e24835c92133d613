"""Adversarial training of the auxiliary network: its divergence, its perturbations, its loss, its reproducibility."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification.models.classifiers import ResidualNetwork
from purification.philox import generator
from purification.robust_training import divergence, evaluations, noised, perturbation, train_robust_classifier
from purification.training import initialise

SETTINGS: dict[str, Any] = {
    "kind": "robust", "widths": [4, 8], "steps": 4, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 0.0,
    "warmup": 1, "shift": 1, "noise": 0.2,
    "adversary": {"iterations": 2, "epsilon": 0.1, "step_size": 0.5, "weight": 6.0},
}  # fmt: skip
Numbers = Callable[..., Tensor]


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(20, 1, 8, 8)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(20) % 3


def test_the_divergence_is_that_of_two_known_distributions() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = (p * (p / q).log()).sum(dim=1)
    torch.testing.assert_close(divergence(p.log() + 3, q.log() - 1), expected, atol=1e-6, rtol=1e-5)
    assert float(expected[0]) == pytest.approx(0.1438, abs=1e-4)


def test_noise_has_a_deviation_of_its_own_for_every_image() -> None:
    noise = noised(torch.zeros(2000, 1, 16, 16), 0.3, generator(0, "test", "noise")).flatten(1).std(dim=1)
    assert float(noise.max()) < 0.35 and float(noise.min()) < 0.01
    assert float(noise.mean()) == pytest.approx(0.15, abs=0.01)
    same = torch.rand(2, 1, 4, 4)
    assert torch.equal(noised(same, 0.0, generator(0, "test", "noise")), same)


def test_perturbations_fill_the_ball_and_raise_the_divergence_more_than_chance(images: Tensor) -> None:
    network = initialise(lambda: ResidualNetwork(1, 3, [4, 8]), 0).train()
    settings = {**SETTINGS["adversary"], "iterations": 5}
    delta = perturbation(network, images, settings, generator(0, "test", "perturbation"))
    assert float(delta.abs().max()) == pytest.approx(0.1) and not delta.requires_grad and network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    signs = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    network.eval()
    chosen, chance = (divergence(network(images), network(images + by)).mean() for by in (delta, signs))
    assert chosen.item() > 1.5 * chance.item()


def test_the_loss_is_that_of_trades(images: Tensor, labels: Tensor) -> None:
    """Of an untrained network in its first step, with the same numbers drawn again."""
    _, losses = train_robust_classifier(images, labels, {**SETTINGS, "steps": 1, "shift": 0}, 3)
    network = initialise(lambda: ResidualNetwork(1, 3, [4, 8]), 3)
    network.mean.copy_(images.mean())
    network.std.copy_(images.std())
    rng = generator(3, "training", "robust classifier", step=0)
    chosen = torch.from_numpy(rng.integers(0, 20, 8))
    rng.integers(0, 1, (8, 2))
    noisy = noised(images[chosen], 0.2, rng)
    delta = perturbation(network.train(), noisy, SETTINGS["adversary"], rng)
    clean, other = network(noisy), network(noisy + delta)
    expected = F.cross_entropy(clean, labels[chosen]) + 6.0 * divergence(clean, other).mean()
    assert losses == [pytest.approx(float(expected.detach()), rel=1e-5)]


def test_training_is_reproducible_and_lowers_the_loss(images: Tensor, labels: Tensor) -> None:
    (one, losses), (two, again) = (train_robust_classifier(images, labels, SETTINGS, 0) for _ in range(2))
    assert losses == again and all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert isinstance(one, nn.Module) and not one.training
    _, longer = train_robust_classifier(images, labels, {**SETTINGS, "steps": 40}, 0)
    assert sum(longer[-5:]) < sum(longer[:5])


def test_costs_are_counted(images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = ResidualNetwork.forward
    monkeypatch.setattr(ResidualNetwork, "forward", lambda self, x: (calls.append(1), forward(self, x))[1])
    train_robust_classifier(images, labels, SETTINGS, 0)
    assert len(calls) == evaluations(SETTINGS)["network_forward"] == 20
