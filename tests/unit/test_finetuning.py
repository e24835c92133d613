"""Fine-tuning against known answers: schedules, mappings, bridges, and what the noise to predict means."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification import finetuning
from purification.finetuning import (
    LEVELS,
    METHODS,
    Batch,
    additive,
    adversarial_share,
    batch_of,
    bridge,
    evaluations,
    finetune_denoiser,
    moments,
    normalised,
    preserving,
    ranks,
)
from purification.philox import generator
from purification.schedule import Schedule
from purification.training import evaluating

ADVERSARIES: dict[str, dict[str, Any]] = {
    "none": {},
    "addt": {
        "objective": "class", "mapping": "ranks", "mix": "preserving", "iterations": 3, "strength": 0.03, "limit": 0.3
    },
    "linf_addt": {"iterations": 3, "epsilon": 0.1, "step_size": 0.5, "limit": 10.0},
    "adbm": {"iterations": 3, "epsilon": 0.1, "step_size": 1.0},
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "steps": 3, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 0.0,
    "warmup": 1, "gradient_clip": 1e6, "ema": 0.9,
}  # fmt: skip
TIMES: dict[str, dict[str, Any]] = {
    **{method: {"low_fraction": 0.5, "low_below": 200} for method in ("none", "addt", "linf_addt")},
    "adbm": {"start": [100, 200]},
}
Numbers = Callable[..., Tensor]
every = pytest.mark.parametrize("method", METHODS)


def entry(method: str, **adversary: Any) -> dict[str, Any]:
    training = {**TRAINING, **TIMES[method]}
    found = {"method": method, "levels": "discrete", "architecture": "unet", "training": training}
    return found if method == "none" else {**found, "adversary": {**ADVERSARIES[method], **adversary}}


class Linear(nn.Module):
    """eps = w u with one weight; remembers its inputs, its mode and whether its weight had a gradient."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weight))
        self.inputs: list[Tensor] = []
        self.modes: list[bool] = []
        self.gradients: list[Tensor | None] = []

    def forward(self, u: Tensor, positions: Tensor) -> SimpleNamespace:
        self.inputs.append(u.detach().clone())
        self.modes.append(self.training)
        self.gradients.append(None if self.w.grad is None else self.w.grad.clone())
        return SimpleNamespace(sample=self.w.to(u) * u)


def classifier(images: Tensor) -> Tensor:
    """Two linear classes whose scores differ by a weighted sum of all pixels."""
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype) + 0.05
    score = ((images - 0.5).flatten(1) * weights).sum(dim=1)
    return torch.stack([score, -score], dim=1)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(20, 2, 8, 8, dtype=torch.float64)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(20) % 2


@pytest.fixture
def fresh(images: Tensor, labels: Tensor, schedule: Schedule) -> Callable[[dict[str, Any]], Batch]:
    """Function settings -> the batch before a method has drawn any noise."""
    return lambda settings: batch_of(images, labels, schedule, settings, generator(0, "test", "finetuning"))


@pytest.fixture
def make(fresh: Callable[[dict[str, Any]], Batch]) -> Callable[..., tuple[Batch, Tensor, Tensor]]:
    """Function (settings, weight) -> batch, noisy images, noise to predict."""

    def run(settings: dict[str, Any], network: Linear | None = None) -> tuple[Batch, Tensor, Tensor]:
        network = network or Linear()
        batch = fresh(settings)
        method = METHODS[settings["method"]]
        noisy, target = method(batch, lambda u, p: network(u, p).sample, classifier, settings.get("adversary", {}))
        return batch, noisy, target

    return run


def test_the_share_of_the_perturbation_is_that_of_addt(schedule: Schedule) -> None:
    """.3 at indices 0 to 26, below it from 27 on, .0877 at 100; from there the perturbation has RMS .03 at u_0."""
    alpha_bars = torch.from_numpy(schedule.alpha_bars)
    share = adversarial_share(alpha_bars, 0.03, 0.3)
    assert bool((share[:27] == 0.3).all()) and float(share[27]) < 0.3
    assert float(share[100]) == pytest.approx(0.0877, abs=5e-5)
    at_clean = share * (1 - alpha_bars).sqrt() / alpha_bars.sqrt()
    torch.testing.assert_close(at_clean[27:], torch.full_like(at_clean[27:], 0.03))


def batch_for(gradient: Tensor, seed: int = 0) -> Batch:
    one = torch.ones(len(gradient), 1, 1, 1, dtype=torch.float64)
    labels = torch.zeros(len(gradient), dtype=torch.int64)
    return Batch(torch.zeros_like(gradient), labels, one, labels, 1.0, generator(seed, "test", "mapping"))


def test_rank_mapping_keeps_every_order_and_is_gaussian(random_tensor: Numbers) -> None:
    gradient = random_tensor(3, 3, 32, 32, normal=True).pow(3) * 1e-6
    mapped, again = (ranks(gradient, batch_for(gradient, seed)) for seed in (0, 1))
    assert torch.equal(mapped.flatten(2).argsort(dim=2), gradient.flatten(2).argsort(dim=2))
    assert bool(((mapped.flatten(2).std(dim=2) - 1).abs() < 0.06).all())
    assert not torch.equal(mapped, again)
    correlation = float(torch.corrcoef(torch.stack([mapped[0, 0].flatten(), again[0, 0].flatten()]))[0, 1])
    assert correlation > 0.99  # nearly a deterministic quantile transform


def test_equal_values_are_ranked_at_random_and_not_in_raster_order() -> None:
    gradient = torch.zeros(2, 1, 32, 32)
    mapped = ranks(gradient, batch_for(gradient)).flatten(1)
    ramp = torch.arange(1024.0)
    assert abs(float(torch.corrcoef(torch.stack([mapped[0], ramp]))[0, 1])) < 0.1
    assert float(mapped.std()) == pytest.approx(1.0, abs=0.05)


def test_other_mappings_keep_the_shape_of_the_gradient(random_tensor: Numbers) -> None:
    gradient = random_tensor(3, 2, 8, 8, normal=True) * 1e-5 + 3e-5
    centred = moments(gradient, batch_for(gradient)).flatten(2)
    torch.testing.assert_close(centred.mean(dim=2), torch.zeros(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(centred.square().mean(dim=2), torch.ones(3, 2))
    scaled = normalised(gradient, batch_for(gradient))
    torch.testing.assert_close(scaled.square().flatten(1).mean(dim=1), torch.ones(3))
    torch.testing.assert_close(F.cosine_similarity(scaled.flatten(1), gradient.flatten(1)), torch.ones(3))
    for mapping in (moments, normalised):
        assert torch.equal(mapping(0 * gradient, batch_for(gradient)), 0 * gradient)


@every
@pytest.mark.parametrize("levels", LEVELS)
def test_whoever_predicts_the_noise_recovers_the_clean_image(make: Any, method: str, levels: str) -> None:
    batch, noisy, target = make({**entry(method), "levels": levels})
    torch.testing.assert_close(batch.clean_estimate(noisy, target), batch.images, atol=1e-6, rtol=0)
    assert not noisy.requires_grad and not target.requires_grad


def test_perturbations_follow_the_gradient_of_the_classifier(make: Any, labels: Tensor) -> None:
    """A linear classifier has one direction: the mapped gradient has its order, turned against the true class."""
    batch, _, delta = make(entry("addt", strength=1e9, limit=1.0))  # all of the noise is the perturbation
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 64) + 0.05
    for label, one in zip(batch.labels, delta.flatten(2), strict=True):
        away = -weights if label == 0 else weights
        assert torch.equal(one.argsort(dim=1), away.argsort(dim=1))


def test_gradients_add_up_over_the_iterations(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setitem(finetuning.MAPPINGS, "ranks", lambda total, batch: (seen.append(total.clone()), 0 * total)[1])
    monkeypatch.setattr(finetuning, "slope", lambda values, at: torch.ones_like(at))
    make(entry("addt"))
    assert [float(total.unique()) for total in seen] == [1.0, 2.0, 3.0]


def test_without_iterations_and_share_addt_is_the_plain_control(make: Any, fresh: Any) -> None:
    settings = entry("addt", iterations=0, strength=0.0)
    batch, noisy, target = make(settings)
    again = fresh(settings)
    again.normal()  # the perturbation that has no share
    plain = METHODS["none"](again, lambda u, p: u, None, {})
    assert torch.equal(target, plain[1]) and torch.equal(noisy, plain[0])
    root, rest = batch.alpha_bars.sqrt(), (1 - batch.alpha_bars).sqrt()
    torch.testing.assert_close(noisy, root * batch.images + rest * target)


def test_mixes_have_the_variance_they_promise(random_tensor: Numbers) -> None:
    eps, delta = (random_tensor(100_000, seed=seed, normal=True) for seed in (0, 1))
    share = torch.tensor(0.3)
    assert float(preserving(eps, delta, share).var()) == pytest.approx(1.0, abs=0.02)
    assert float(additive(eps, delta, share).var()) == pytest.approx(1.09, abs=0.02)


@pytest.mark.parametrize(("time", "into", "out"), [(0.02, 0.0517, 0.669), (0.05, 0.258, 1.505), (0.1, 0.9467, 2.940)])
def test_the_bridge_has_the_values_of_adbm(schedule: Schedule, time: float, into: float, out: float) -> None:
    end = schedule.level_at(0.1).alpha_bar
    now = torch.tensor(schedule.level_at(time).alpha_bar, dtype=torch.float64)
    c_in, c_out = bridge(now, end)
    assert (float(c_in), float(c_out)) == (pytest.approx(into, abs=1e-3), pytest.approx(out, abs=2e-3))
    if time == 0.1:
        assert float(c_in) == pytest.approx(math.sqrt(end), rel=1e-12)  # the noised adversarial image itself


def test_the_bridge_ends_at_the_noised_adversarial_image(make: Any) -> None:
    settings = entry("adbm")
    batch, _, _ = make(settings)
    at_end = Batch(batch.images, batch.labels, torch.full_like(batch.alpha_bars, batch.end), batch.positions, batch.end,
                   generator(0, "test", "end"))  # fmt: skip
    noisy, target = METHODS["adbm"](at_end, lambda u, p: 0.5 * u, classifier, settings["adversary"])
    eps = Batch(**{**vars(at_end), "rng": generator(0, "test", "end")}).normal()
    root, rest = math.sqrt(batch.end), math.sqrt(1 - batch.end)
    perturbation = (noisy - rest * eps) / root - at_end.images
    torch.testing.assert_close(target, eps + bridge(at_end.alpha_bars, batch.end)[1] * perturbation)
    assert 0.1 < float(perturbation.abs().max()) <= 0.2 + 1e-9
    assert float((at_end.images + perturbation).abs().max()) <= 1 + 1e-9


def test_level_and_noise_stay_the_same_while_adbm_attacks(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to follow the perturbation stays, and so does the input of the network, unlike in ADDT."""
    monkeypatch.setattr(finetuning, "slope", lambda values, at: torch.zeros_like(at))
    network, other = Linear(), Linear()
    batch, noisy, _ = make(entry("adbm"), network)
    inside = (batch.images.abs() < 0.7).all(dim=0)  # away from the box nothing is clipped
    assert len(network.inputs) == 3
    for inputs in network.inputs:
        torch.testing.assert_close(inputs[:, inside], noisy[:, inside])
    make(entry("linf_addt"), other)
    assert not torch.equal(other.inputs[0], other.inputs[1])


@pytest.mark.parametrize("method", ["linf_addt", "adbm"])
def test_adversarial_images_stay_in_ball_and_box_and_hurt_the_classifier(make: Any, fresh: Any, method: str) -> None:
    settings = entry(method)
    batch, _, target = make(settings)
    again = fresh(settings)
    eps = [again.normal() for _ in range(1 if method == "adbm" else 4)][-1]
    weight = adversarial_share(batch.alpha_bars, 1.0, 10.0) if method == "linf_addt" else None
    weight = bridge(batch.alpha_bars, batch.end)[1] if weight is None else weight
    perturbation = (target - eps) / weight
    assert float(perturbation.abs().max()) == pytest.approx(0.2, abs=1e-6)  # .1 on [0, 1]
    assert float((batch.images + perturbation).abs().max()) <= 1 + 1e-6
    clean, attacked = (classifier(0.5 * (u + 1)) for u in (batch.images, batch.images + perturbation))
    losses = [F.cross_entropy(z, batch.labels, reduction="none") for z in (clean, attacked)]
    assert bool((losses[1] > losses[0]).all())


def test_adbm_without_budget_is_the_plain_control(make: Any, fresh: Any) -> None:
    settings = entry("adbm", epsilon=0.0)
    _, noisy, target = make(settings)
    plain = METHODS["none"](fresh(settings), lambda u, p: u, None, {})
    assert torch.equal(noisy, plain[0]) and torch.equal(target, plain[1])


def test_levels_of_adbm_lie_below_a_start_that_the_batch_shares(
    images: Tensor, labels: Tensor, schedule: Schedule
) -> None:
    for levels, top in (("discrete", 199), ("continuous", 199)):
        settings = {**entry("adbm"), "levels": levels}
        batches = [batch_of(images, labels, schedule, settings, generator(k, "test", "levels")) for k in range(200)]
        ends = [batch.end for batch in batches]
        low, high = schedule.alpha_bars[199], schedule.alpha_bars[98]
        assert low - 1e-3 <= min(ends) < max(ends) <= high + 1e-3 and len(set(ends)) > 50
        for batch in batches:
            assert bool((batch.alpha_bars >= batch.end).all()) and float(batch.positions.max()) <= top


@pytest.mark.parametrize("levels", LEVELS)
def test_positions_and_signal_belong_to_each_other(
    images: Tensor, labels: Tensor, schedule: Schedule, levels: str
) -> None:
    batch = batch_of(images, labels, schedule, {**entry("none"), "levels": levels}, generator(0, "test", "levels"))
    for position, alpha_bar in zip(batch.positions.tolist(), batch.alpha_bars.flatten().tolist(), strict=True):
        level = schedule.level(position) if levels == "discrete" else schedule.level_at((position + 1) / 1000)
        assert alpha_bar == pytest.approx(level.alpha_bar, rel=1e-12)


def test_discrete_levels_are_uniform_below_their_end(schedule: Schedule) -> None:
    counts = 100 * (1 - generator(0, "test", "levels").random(200_000))
    index, alpha_bars = LEVELS["discrete"](schedule, counts)
    found = np.bincount(index, minlength=100) / 200_000
    np.testing.assert_allclose(found, np.full(100, 0.01), atol=5 * math.sqrt(0.01 / 200_000))
    assert len(found) == 100 and np.array_equal(alpha_bars, schedule.alpha_bars[index])
    assert LEVELS["discrete"](schedule, np.array([100.0]))[0][0] == 99


def test_every_part_of_a_network_gets_its_own_mode_back() -> None:
    """Some parts train and some do not: a flag on the whole would leave them all in evaluation mode."""
    network = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))
    network.train()
    network[1].eval()
    before = [module.training for module in network.modules()]
    with pytest.raises(KeyError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise KeyError
    assert [module.training for module in network.modules()] == before and any(before) and not all(before)


@every
def test_only_the_loss_changes_the_weights(images: Tensor, labels: Tensor, schedule: Schedule, method: str) -> None:
    """The last gradient is that of the mean squared error alone: nothing leaks from making the perturbation."""
    network, settings = Linear(), entry(method)
    finetune_denoiser(images, labels, network, schedule, classifier, settings, 3)
    inner = settings.get("adversary", {}).get("iterations", 0)
    assert network.modes == ([False] * inner + [True]) * 3
    assert len(network.modes) == evaluations(settings)["network_forward"]
    still = {**settings, "training": {**settings["training"], "learning_rate": 1e-30}}
    again = Linear()
    finetune_denoiser(images, labels, again, schedule, classifier, still, 3)
    batch = batch_of(images, labels, schedule, settings, generator(3, "training", "finetuned", step=2))
    noisy, target = METHODS[method](batch, lambda u, p: 0.5 * u, classifier, settings.get("adversary", {}))
    expected = (2 * (0.5 * noisy - target) * noisy).mean()
    assert again.w.grad is not None and float(again.w.grad) == pytest.approx(float(expected), rel=1e-5)
    assert network.w.item() != 0.5


def test_an_adversarial_method_needs_a_classifier(images: Tensor, labels: Tensor, schedule: Schedule) -> None:
    finetune_denoiser(images, labels, Linear(), schedule, None, entry("none"), 0)
    with pytest.raises(ValueError, match="expected a classifier for an adversarial method"):
        finetune_denoiser(images, labels, Linear(), schedule, None, entry("addt"), 0)


def test_the_other_objective_needs_no_classifier(images: Tensor, labels: Tensor, schedule: Schedule) -> None:
    settings = entry("addt", objective="noise")
    finetune_denoiser(images, labels, Linear(), schedule, None, settings, 0)
    assert evaluations(settings) == {
        "network_forward": 12, "network_backward": 12, "classifier_forward": 0, "classifier_backward": 0
    }  # fmt: skip
