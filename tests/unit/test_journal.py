"""A loop that is interrupted after any step and called again gives the bits of one that was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DModel
from torch import Tensor

from purification.attacks import PGD, AttackResult, Problem, pgd_attack
from purification.defence import Defence
from purification.finetuning import finetune_denoiser
from purification.journal import NO_JOURNAL, Journal, State, restore
from purification.noise import NoiseSource
from purification.progress import track
from purification.purifiers import FunctionPurifier
from purification.robust_training import train_robust_classifier
from purification.schedule import Schedule
from purification.threat import ThreatModel
from purification.training import initialise, train_classifier, train_denoiser

Numbers = Callable[..., Tensor]
SOURCE = NoiseSource(seed=0, role="attack", shape=(2, 6, 6))
PGD_FIXED = PGD(
    steps=6, step_size=0.3, random_start=False, loss="ce", gradient="replay",
    draws=1, redraw=False, select="best", stop_when_broken=True, restarts=1,
)  # fmt: skip
PGDS = {
    "fixed": PGD_FIXED,
    "random start": replace(PGD_FIXED, random_start=True),
    "last iterate": replace(PGD_FIXED, select="last", stop_when_broken=False),
    "eot": replace(PGD_FIXED, draws=3, redraw=True, stop_when_broken=False),
    "several fixed draws": replace(PGD_FIXED, draws=2, stop_when_broken=False),
}
CLASSIFIER = {"widths": [4], "steps": 6, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 1e-2}
DENOISER = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 1e-2, "gradient_clip": 1.0, "ema": 0.9}


class Interrupted(Exception):
    """Raised in place of a kill."""


@dataclass
class Memory:
    """A journal as bytes that is written after every step and interrupts the loop after some of them."""

    stop: int
    content: bytes | None = None
    saves: int = 0

    def load(self) -> State:
        return safetensors.torch.load(self.content) if self.content else {}

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state().items()}
        self.content = safetensors.torch.save(copies)
        self.saves += 1
        if self.saves == self.stop:
            raise Interrupted

    def part(self, name: str) -> Memory:
        raise NotImplementedError


def interrupted(run: Callable[[Journal], Any], stop: int) -> tuple[Any, int]:
    """What a second call returns after the first was interrupted, and how many steps it still ran."""
    first = Memory(stop)
    with pytest.raises(Interrupted):
        run(first)
    second = Memory(-1, first.content)
    return run(second), second.saves


@pytest.fixture
def attacked(random_tensor: Numbers) -> Callable[..., AttackResult]:
    """Function (pgd, journal, memory format) -> result; a convolution tells memory formats apart."""
    images = 0.25 + 0.5 * random_tensor(11, 2, 6, 6)
    kernel, weights = random_tensor(8, 2, 3, 3, seed=1, normal=True), random_tensor(8 * 36, 3, seed=2, normal=True)

    def classify(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x - 0.5, kernel, padding=1).tanh().flatten(1) @ weights

    labels = classify(images).argmax(dim=1)
    purifier = FunctionPurifier(lambda x, noise: x + 0.02 * noise.normal("own"))

    def run(pgd: PGD, journal: Journal = NO_JOURNAL, layout: torch.memory_format = torch.contiguous_format) -> Any:
        problem = Problem(
            Defence(purifier, classify, 4), images.to(memory_format=layout), labels, list(range(11)),
            threat=ThreatModel("linf", 0.03), source=SOURCE, start=SOURCE, judge=SOURCE, judges=1, memory=0.0,
        )  # fmt: skip
        return pgd_attack(problem, pgd, journal)

    return run


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("pgd", PGDS.values(), ids=PGDS.keys())
def test_an_interrupted_attack_gives_the_same_bits(
    attacked: Callable[..., AttackResult], pgd: PGD, layout: torch.memory_format
) -> None:
    expected, whole = attacked(pgd, layout=layout), Memory(-1)
    attacked(pgd, whole, layout)
    for stop in range(1, whole.saves + 1):
        again, steps = interrupted(lambda journal: attacked(pgd, journal, layout), stop)
        assert steps == max(whole.saves - stop, 1)
        for name, tensor in vars(again).items():
            assert torch.equal(tensor, vars(expected)[name]), name
            assert tensor.stride() == vars(expected)[name].stride()


@pytest.fixture
def train(random_tensor: Numbers, schedule: Schedule, unet_config: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Functions journal -> (network, losses)."""
    images, labels = random_tensor(20, 1, 8, 8), torch.arange(20) % 3

    def classifier(journal: Journal, warmup: int = 2) -> Any:
        return train_classifier(images, labels, {**CLASSIFIER, "warmup": warmup, "shift": 1}, 0, journal)

    def denoiser(journal: Journal, warmup: int = 2) -> Any:
        network = initialise(lambda: UNet2DModel(**unet_config), 0)
        settings = {**DENOISER, "warmup": warmup, "low_fraction": 0.5, "low_below": 200}
        return train_denoiser(images, network, schedule, settings, 0, journal)

    def finetuned(journal: Journal, warmup: int = 2) -> Any:
        network = initialise(lambda: UNet2DModel(**unet_config), 0)
        training = {**DENOISER, "warmup": warmup, "start": [100, 200]}
        adversary = {"epsilon": 0.1, "step_size": 1.0, "iterations": 1}
        settings: dict[str, Any] = {"method": "adbm", "levels": "discrete", "architecture": "unet"}
        settings |= {"training": training, "adversary": adversary}
        judge = initialise(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), 1)
        return finetune_denoiser(images, labels, network, schedule, judge, settings, 0, journal)

    def robust(journal: Journal, warmup: int = 2) -> Any:
        adversary = {"iterations": 1, "epsilon": 0.1, "step_size": 1.0, "weight": 6.0}
        settings = {**CLASSIFIER, "warmup": warmup, "shift": 1, "noise": 0.1, "adversary": adversary}
        return train_robust_classifier(images, labels, settings, 0, journal)

    return {"classifier": classifier, "denoiser": denoiser, "finetuned": finetuned, "robust": robust}


@pytest.mark.parametrize("which", ["classifier", "denoiser", "finetuned", "robust"])
@pytest.mark.parametrize("warmup", [0, 2, 4])
def test_an_interrupted_training_gives_the_same_bits(
    train: dict[str, Callable[..., Any]], which: str, warmup: int
) -> None:
    expected, losses = train[which](NO_JOURNAL, warmup)
    for stop in range(1, 7):
        (again, after), steps = interrupted(lambda journal: train[which](journal, warmup), stop)
        assert after == losses and steps == 6 - stop and not again.training
        for name, value in expected.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("which", ["classifier", "denoiser"])
def test_every_part_of_a_training_state_matters(train: dict[str, Callable[..., Any]], which: str) -> None:
    """Losing weights, averages or moments of the optimiser changes the result: the test above can fail."""
    expected = train[which](NO_JOURNAL)[0].state_dict()
    first = Memory(3)
    with pytest.raises(Interrupted):
        train[which](first)
    state = first.load()
    for part in ("network/", "averaged/", "optimiser/"):
        changed = {name: value * 2 if name.startswith(part) else value for name, value in state.items()}
        if changed.keys() and any(name.startswith(part) for name in state):
            other = train[which](Memory(-1, safetensors.torch.save(changed)))[0].state_dict()
            assert any(not torch.equal(other[name], value) for name, value in expected.items()), part


def test_restored_tensors_keep_their_memory_format(random_tensor: Numbers) -> None:
    live = {"x": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    saved = random_tensor(2, 3, 4, 4)
    restore(live, {"x": saved})
    assert torch.equal(live["x"], saved) and live["x"].is_contiguous(memory_format=torch.channels_last)


def test_the_state_of_another_loop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a saved state of \['x'\], got \['y'\]"):
        restore({"x": torch.zeros(1)}, {"y": torch.zeros(1)})


def test_progress_says_how_much_is_done_and_how_long_the_rest_takes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 2))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    caplog.set_level("INFO", logger="purification")
    assert list(track(range(10), "attack", 4)) == list(range(4, 10))
    assert caplog.messages == [
        "attack: resuming at 4/10",
        "attack: 7/10, 6 s so far, about 6 s left",
        "attack: 10/10, 12 s so far, about 0 s left",
    ]
    assert not any("\r" in message for message in caplog.messages)


def test_the_log_of_a_long_loop_stays_short(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten hours in steps of two seconds."""
    clock = iter(range(0, 1_000_000, 2))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    caplog.set_level("INFO", logger="purification")
    list(track(range(18_000), "train"))
    assert 50 < len(caplog.messages) < 200
