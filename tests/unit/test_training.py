"""Training: reproducible from settings and seed, with the schedule, loss and averages written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from purification.models.classifiers import ResidualNetwork
from purification.philox import generator
from purification.schedule import Schedule
from purification.training import initialise, sample_indices, train_classifier, train_denoiser

CLASSIFIER: dict[str, Any] = {
    "widths": [4, 8], "steps": 5, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 1e-2, "warmup": 2, "shift": 1,
}  # fmt: skip
DENOISER: dict[str, Any] = {
    "steps": 5, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 2,
    "gradient_clip": 1.0, "ema": 0.9, "low_fraction": 0.5, "low_below": 200,
}  # fmt: skip
Numbers = Callable[..., Tensor]
Weights = dict[str, Tensor]


class Scale(nn.Module):
    """eps = w u with one weight, so that training can be followed by hand; remembers the weight of every call."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weight))
        self.history: list[float] = []

    def forward(self, u: Tensor, index: Tensor) -> SimpleNamespace:
        self.history.append(self.w.item())
        return SimpleNamespace(sample=self.w * u)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(20, 1, 8, 8)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(20) % 3


@pytest.fixture
def train(images: Tensor, labels: Tensor, schedule: Schedule, unet_config: dict[str, Any]) -> dict[str, Any]:
    """Functions seed -> (weights, losses)."""

    def classifier(seed: int) -> tuple[Weights, list[float]]:
        network, losses = train_classifier(images, labels, CLASSIFIER, seed)
        return network.state_dict(), losses

    def denoiser(seed: int) -> tuple[Weights, list[float]]:
        network = initialise(lambda: UNet2DModel(**unet_config), seed)
        averaged, losses = train_denoiser(images, network, schedule, DENOISER, seed)
        return averaged.state_dict(), losses

    return {"classifier": classifier, "denoiser": denoiser}


both = pytest.mark.parametrize("which", ["classifier", "denoiser"])


@both
def test_two_runs_give_bit_identical_weights_and_losses(train: dict[str, Any], which: str) -> None:
    (one, losses), (two, again) = train[which](0), train[which](0)
    assert losses == again and len(losses) == 5
    assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


@both
def test_another_seed_gives_other_weights_and_losses(train: dict[str, Any], which: str) -> None:
    (one, losses), (two, other) = train[which](0), train[which](1)
    assert losses[0] != other[0] and any(not torch.equal(one[name], two[name]) for name in one)


@both
@pytest.mark.usefixtures("global_random_state")
def test_the_global_random_state_is_not_changed(train: dict[str, Any], which: str) -> None:
    train[which](0)


@both
def test_the_global_random_state_is_not_read(train: dict[str, Any], which: str) -> None:
    losses = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            losses.append(train[which](0)[1])
    assert losses[0] == losses[1]


def test_initial_weights_are_those_of_torch_under_the_seed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = nn.Linear(3, 4).weight
    assert torch.equal(initialise(lambda: nn.Linear(3, 4), 7).weight, expected)


def test_the_classifier_stores_the_statistics_of_its_images_and_is_returned_in_evaluation_mode(
    images: Tensor, labels: Tensor
) -> None:
    network, losses = train_classifier(images, labels, {**CLASSIFIER, "steps": 60}, 0)
    torch.testing.assert_close(network.mean, images.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(network.std, images.std(dim=(0, 2, 3)))
    assert not network.training and network(images).shape == (20, 3)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5]) < 0.7 * 2 * math.log(3)


@pytest.mark.parametrize(("steps", "warmup"), [(8, 3), (6, 1), (4, 4), (5, 0)])
def test_the_rate_warms_up_linearly_and_decays_along_a_cosine(
    images: Tensor, schedule: Schedule, steps: int, warmup: int
) -> None:
    """A steep loss clipped to a constant gradient moves the weight by exactly Adam's learning rate in every step."""
    network, settings = Scale(10.0), {**DENOISER, "steps": steps, "warmup": warmup, "gradient_clip": 1e-2}
    train_denoiser(images, network, schedule, settings, 0)
    rates = [
        (k + 1) / warmup if k < warmup else (1 + math.cos(math.pi * (k - warmup) / (steps - warmup))) / 2
        for k in range(steps)
    ]
    moved = -np.diff([*network.history, network.w.item()])
    np.testing.assert_allclose(moved, 1e-2 * np.array(rates), rtol=1e-3, atol=2e-6)


def test_losses_are_the_noise_prediction_errors_of_a_new_batch_in_every_step(
    images: Tensor, schedule: Schedule
) -> None:
    _, losses = train_denoiser(images, Scale(0.5), schedule, {**DENOISER, "learning_rate": 0.0}, 4)
    expected = []
    for step in range(5):
        rng = generator(4, "training", "denoiser", step=step)
        chosen = rng.integers(0, 20, 8)
        low = rng.random(8) < 0.5
        index = (rng.random(8) * np.where(low, 200, 1000)).astype(int)
        eps = torch.from_numpy(rng.standard_normal((8, 1, 8, 8), dtype=np.float32))
        abar = torch.from_numpy(schedule.alpha_bars[index]).float().view(-1, 1, 1, 1)
        u = abar.sqrt() * (2 * images[chosen] - 1) + (1 - abar).sqrt() * eps
        expected.append(float(F.mse_loss(0.5 * u, eps)))
    assert losses == pytest.approx(expected, rel=1e-6) and len(set(losses)) == 5


def test_losses_are_the_cross_entropies_of_shifted_images_in_every_step(images: Tensor, labels: Tensor) -> None:
    """Batch normalisation with batch statistics does not depend on the past, so one untrained network tells all."""
    settings = {**CLASSIFIER, "learning_rate": 0.0, "weight_decay": 0.0, "shift": 2}
    losses, expected = train_classifier(images, labels, settings, 4)[1], []
    network = initialise(lambda: ResidualNetwork(1, 3, [4, 8]), 4)
    network.mean.copy_(images.mean())
    network.std.copy_(images.std())
    for step in range(5):
        rng = generator(4, "training", "classifier", step=step)
        chosen = rng.integers(0, 20, 8)
        rows, columns = (np.clip(np.arange(8) + by[:, None] - 2, 0, 7) for by in rng.integers(0, 5, (8, 2)).T)
        batch = torch.stack([images[i][:, r][:, :, c] for i, r, c in zip(chosen, rows, columns, strict=True)])
        expected.append(float(F.cross_entropy(network(batch), labels[chosen]).detach()))
    assert losses == pytest.approx(expected, rel=1e-5) and len(set(losses)) == 5


def test_the_result_is_the_moving_average_of_the_weights(images: Tensor, schedule: Schedule) -> None:
    """The first update is copied; then average <- .9 average + .1 weights."""
    weights = []
    for steps in (1, 2, 3):
        network = Scale()
        averaged, _ = train_denoiser(images, network, schedule, {**DENOISER, "warmup": 3, "steps": steps}, 0)
        weights.append((network.w.item(), averaged.w.item()))
        assert not averaged.training
    (w1, a1), (w2, a2), (w3, a3) = weights
    assert (a1, a2) == pytest.approx((w1, 0.9 * w1 + 0.1 * w2), rel=1e-6)
    assert a3 == pytest.approx(0.9 * a2 + 0.1 * w3, rel=1e-6)
    assert len({w1, w2, w3}) == 3


def test_sampled_indices_are_low_as_often_as_asked_and_uniform_otherwise() -> None:
    settings = {"low_fraction": 0.5, "low_below": 200}
    index = sample_indices(generator(0, "test", "indices"), 200_000, settings, 1000).numpy()
    assert index.min() == 0 and index.max() == 999 and index.dtype == np.int64
    counts = np.histogram(index, bins=np.arange(0, 1001, 50))[0] / 200_000
    expected = np.full(20, 0.5 * 0.05)
    expected[:4] += 0.5 * 0.25
    np.testing.assert_allclose(counts, expected, atol=5 * math.sqrt(0.15 / 200_000))


@pytest.mark.parametrize(("fraction", "limit"), [(0.0, 1000), (1.0, 200)])
def test_sampled_indices_at_the_extremes(fraction: float, limit: int) -> None:
    index = sample_indices(generator(0, "test", "indices"), 20_000, {"low_fraction": fraction, "low_below": 200}, 1000)
    assert int(index.max()) == limit - 1
    assert float(index.double().mean()) == pytest.approx((limit - 1) / 2, abs=5 * limit / math.sqrt(12 * 20_000))
