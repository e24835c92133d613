"""The audit of a defence's gradient: zero for an honest one, and loud for each kind of mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.defence import Defence
from purification.measure.audit import audit
from purification.models.denoisers import Denoiser
from purification.noise import Noise, NoiseSource
from purification.purifiers import FunctionPurifier, Purifier

SHAPE = (1, 6, 6)
IDS = [3, 1, 4, 1 + 4, 9]
LABELS = torch.tensor([0, 1, 2, 0, 1])
SOURCE = NoiseSource(seed=0, role="fixed", shape=SHAPE)
Numbers = Callable[..., Tensor]
Audit = Callable[[Purifier], dict[str, Tensor]]


@pytest.fixture
def audited(random_tensor: Numbers) -> Audit:
    """Function purifier -> audit in front of a linear classifier."""
    weights = random_tensor(36, 3, seed=2, normal=True, dtype=torch.float64)
    images = 0.2 + 0.6 * random_tensor(5, *SHAPE)

    def run(purifier: Purifier) -> dict[str, Tensor]:
        defence = Defence(purifier, lambda x: x.flatten(1) @ weights.to(x.dtype), batch_size=2)
        return audit(defence, defence, images, LABELS, IDS, SOURCE, step=1e-5)

    return run


@pytest.mark.parametrize("settings", [{}, {"sampler": "ddim", "eta": 0.0}, {"sampler": "pf_ode"}], ids=str)
def test_an_honest_defence_passes(
    audited: Audit, curved: Denoiser, diffusion: Callable[..., Purifier], settings: dict[str, Any]
) -> None:
    row = audited(diffusion(curved, **settings))
    assert all(values.shape == (5,) for values in row.values())
    assert float(row["replay_difference"].max()) == float(row["repeat_difference"].max()) == 0
    assert float(row["finite_difference"].max()) < 1e-6
    assert float(row["zero_gradient"].max()) == 0
    assert float(row["bpda_cosine"].max()) < 0.999


def test_bpda_is_exact_on_the_identity(audited: Audit) -> None:
    row = audited(FunctionPurifier(lambda x, noise: x))
    torch.testing.assert_close(row["bpda_cosine"], torch.ones(5), rtol=0, atol=1e-5)


def test_a_masked_gradient_is_flagged(audited: Audit) -> None:
    constant = audited(FunctionPurifier(lambda x, noise: 0.0 * x + 0.5))
    assert constant["zero_gradient"].tolist() == [1.0] * 5
    assert float(constant["replay_difference"].max()) == 0
    assert audited(FunctionPurifier(lambda x, noise: x + (x - x).sqrt()))["zero_gradient"].tolist() == [1.0] * 5


def test_a_detached_part_shows_in_the_finite_difference(audited: Audit) -> None:
    row = audited(FunctionPurifier(lambda x, noise: x + x.detach().square()))
    assert float(row["finite_difference"].min()) > 1e-2


def test_hidden_randomness_shows_in_the_repetition(audited: Audit) -> None:
    generator = torch.Generator().manual_seed(0)
    row = audited(FunctionPurifier(lambda x, noise: x + torch.randn(x.shape, generator=generator, dtype=x.dtype)))
    assert float(row["repeat_difference"].min()) > 0.1


@dataclass(frozen=True)
class Forgetful:
    """A chain whose step forgets its noise when it is recomputed with a graph but no history."""

    num_steps: int = 1

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return 2.0 * images

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        shift = noise.normal("reverse") if state.grad_fn is not None else 0.0 * state
        return (state + shift).square()

    def finish(self, state: Tensor) -> Tensor:
        return state


def test_a_replay_with_other_noise_shows_in_the_replay_difference(audited: Audit) -> None:
    assert float(audited(Forgetful())["replay_difference"].min()) > 1e-2


def test_the_double_precision_defence_is_the_one_differentiated(
    curved: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers
) -> None:
    """A wrong derivative in the float64 twin alone is found."""
    weights, images = random_tensor(36, 3, seed=2, normal=True), random_tensor(5, *SHAPE)
    single = Defence(diffusion(curved), lambda x: x.flatten(1) @ weights.to(x.dtype), batch_size=2)
    twin = replace(single, purifier=FunctionPurifier(lambda x, noise: x + x.detach().square()))
    assert float(audit(single, single, images, LABELS, IDS, SOURCE, step=1e-5)["finite_difference"].max()) < 1e-6
    assert float(audit(single, twin, images, LABELS, IDS, SOURCE, step=1e-5)["finite_difference"].min()) > 1e-2
