"""Memory of gradients: bounded in the number of steps, within the cap, and divided into fixed smaller batches."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from purification.attacks import PGD, AttackResult, Problem, pgd_attack
from purification.defence import Defence
from purification.gradients import bytes_of_step, gradient, steps_within
from purification.models.denoisers import Denoiser, network_epsilon
from purification.models.unet import UNet
from purification.noise import NoiseSource
from purification.purifiers import Purifier
from purification.schedule import Schedule
from purification.threat import ThreatModel

SOURCE = NoiseSource(seed=0, role="fixed", shape=(1, 8, 8))
WIDE: dict[str, Any] = {"block_out_channels": [32, 64]}
Numbers = Callable[..., Tensor]


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and nothing has freed."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[Any, int]] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        if self.total > self.peak:  # only now does it matter what is still alive
            self.storages = {key: entry for key, entry in self.storages.items() if not entry[0].expired()}
            self.total = sum(size for _, size in self.storages.values())
            self.peak = max(self.peak, self.total)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once; an address that is used again belongs to another one."""
        known = self.storages.get(storage._cdata)
        self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.total += storage.nbytes() - (known[1] if known else 0)


@pytest.fixture(scope="module")
def wide(schedule: Schedule, unet_config: dict[str, Any], randomised: Callable[..., nn.Module]) -> Denoiser:
    """A U-Net whose activations weigh more than its images, as those of real ones do."""
    network = UNet.from_config({**unet_config, **WIDE})
    randomised(network)
    return Denoiser(network_epsilon(network), schedule)


def peak(purifier: Purifier, images: Tensor, mode: str, kept_steps: int) -> int:
    """Largest number of bytes alive while a gradient is computed."""
    noise = SOURCE(range(len(images)))
    with Alive() as alive:
        gradient(purifier, images, noise, lambda x: x.flatten(1).sum(dim=1), mode=mode, kept_steps=kept_steps)
    return alive.peak


# --- steps


@pytest.mark.parametrize(("mode", "bounded"), [("replay", True), ("autograd", False)])
def test_memory_of_a_replayed_gradient_hardly_grows_with_the_steps(
    wide: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers, mode: str, bounded: bool
) -> None:
    images, long = random_tensor(2, 1, 8, 8), 200 if bounded else 20
    short, longer = (peak(diffusion(wide, t_star=400, steps=steps), images, mode, 0) for steps in (10, long))
    assert (longer <= 1.3 * short) == bounded, longer / short


@pytest.mark.parametrize("steps", [1, 2.5, 4])
def test_kept_activations_stay_within_the_cap(
    wide: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers, steps: float
) -> None:
    """One more step that is kept costs what `bytes_of_step` says, and what is kept is as much as fits."""
    purifier, images = diffusion(wide, steps=8), random_tensor(2, 1, 8, 8)
    step = bytes_of_step(purifier, images, SOURCE([0, 1]))
    memory = steps * step
    kept = steps_within(purifier, images, SOURCE([0, 1]), memory)
    assert kept == int(steps)
    one, many = peak(purifier, images, "replay", 1), peak(purifier, images, "replay", kept)
    assert many - one == pytest.approx((kept - 1) * step, rel=0.05, abs=0.05 * step)
    assert many <= memory + 1.3 * (one - step) + 0.1 * step


# --- batches


@pytest.fixture(scope="module")
def defence(wide: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers) -> Defence:
    weights = random_tensor(64, 4, seed=5, normal=True)
    return Defence(diffusion(wide, steps=3), lambda images: images.flatten(1) @ weights, 8, gradient_batch_size=3)


def slopes(defence: Defence, images: Tensor, ids: list[int]) -> tuple[Tensor, ...]:
    labels = torch.tensor(ids) % 4
    return defence.loss_gradient(images, labels, ids, SOURCE, 0, loss="ce", mode="replay", kept_steps=1)


@pytest.mark.parametrize("batch_size", [2, 3, 8, 11])
def test_gradients_depend_on_their_own_batch_size_only(
    defence: Defence, random_tensor: Numbers, batch_size: int
) -> None:
    images, ids = random_tensor(10, 1, 8, 8), list(range(10))
    expected = slopes(defence, images, ids)
    for own, other in zip(expected, slopes(replace(defence, batch_size=batch_size), images, ids), strict=True):
        assert torch.equal(own, other)
    some = [7, 2, 9, 4]  # other companions, another place in the batch, padding
    for own, other in zip(expected, slopes(defence, images[some], some), strict=True):
        assert torch.equal(own[some], other)


def test_without_its_own_batch_size_a_gradient_takes_that_of_everything_else(
    defence: Defence, random_tensor: Numbers
) -> None:
    images, ids = random_tensor(10, 1, 8, 8), list(range(10))
    expected = slopes(replace(defence, gradient_batch_size=8), images, ids)
    for own, other in zip(expected, slopes(replace(defence, gradient_batch_size=None), images, ids), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 10])
def test_gradients_of_another_batch_size_agree_to_float32(defence: Defence, random_tensor: Numbers, size: int) -> None:
    """Kernels choose their order of sums by the size of the batch: the last bits differ, nothing else."""
    images, ids = random_tensor(10, 1, 8, 8), list(range(10))
    values, gradients, predictions = slopes(defence, images, ids)
    others = slopes(replace(defence, gradient_batch_size=size), images, ids)
    torch.testing.assert_close(others[0], values, rtol=1e-4, atol=1e-5)
    difference = (others[1] - gradients).flatten(1).norm(dim=1) / gradients.flatten(1).norm(dim=1)
    assert difference.max() < 1e-4
    assert torch.equal(others[2], predictions)


def test_smaller_batches_take_less_memory(defence: Defence, random_tensor: Numbers) -> None:
    images, ids, peaks = random_tensor(8, 1, 8, 8), list(range(8)), []
    for size in (8, 4, 2):
        with Alive() as alive:
            slopes(replace(defence, gradient_batch_size=size), images, ids)
        peaks.append(alive.peak)
    assert peaks[1] < 0.6 * peaks[0] and peaks[2] < 0.6 * peaks[1]


@pytest.mark.parametrize(("images", "fits"), [(1.5, False), (3.5, True)])
def test_a_step_beyond_the_cap_names_the_batch_size_that_fits(
    defence: Defence, random_tensor: Numbers, caplog: pytest.LogCaptureFixture, images: float, fits: bool
) -> None:
    x, ids = random_tensor(6, 1, 8, 8), list(range(6))
    memory = images * bytes_of_step(defence.purifier, x[:1], SOURCE([0]))
    with caplog.at_level(logging.WARNING, logger="purification"):
        kept = defence.kept_steps(x, ids, SOURCE, memory)
    assert kept == int(fits)
    if fits:
        assert not caplog.records
        return
    advised = re.search(r"expected gradient_batch_size of at most (\d+)", caplog.text)
    assert advised and int(advised[1]) == 1
    caplog.clear()
    assert replace(defence, gradient_batch_size=1).kept_steps(x, ids, SOURCE, memory) == 1
    assert not caplog.records


@pytest.mark.parametrize("draws", [1, 3], ids=["one draw", "several"])
def test_an_attack_divides_its_batches_to_the_same_bits(defence: Defence, random_tensor: Numbers, draws: int) -> None:
    """What batches of 8 see or how much memory there is changes nothing; the size of gradient batches is a setting."""
    pgd = PGD(
        steps=2, step_size=0.5, random_start=False, loss="ce", gradient="replay",
        draws=draws, redraw=draws > 1, select="last", stop_when_broken=False, restarts=1,
    )  # fmt: skip

    def attacked(batch_size: int, memory: float) -> AttackResult:
        x = random_tensor(7, 1, 8, 8)
        problem = Problem(
            replace(defence, batch_size=batch_size), x, torch.arange(7) % 4, list(range(7)),
            threat=ThreatModel("linf", 0.05), source=SOURCE, start=SOURCE, judge=SOURCE, judges=1, memory=memory,
        )  # fmt: skip
        return pgd_attack(problem, pgd)

    expected = attacked(8, 1e9)
    for result in (attacked(3, 1e9), attacked(8, 0.0), attacked(5, 1e6)):
        assert torch.equal(result.adversarial, expected.adversarial) and torch.equal(result.loss, expected.loss)
