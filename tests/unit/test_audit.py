"""The audit of a defence's gradient: zero for an honest one, and loud for each kind of mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.defence import Defence
from purification.measure.audit import Sample, audit
from purification.measure.masks import masked_share
from purification.models.denoisers import Denoiser
from purification.noise import Noise, NoiseSource
from purification.purifiers import FunctionPurifier, Purifier, purify

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
        return audit(defence, defence, Sample(images, LABELS, IDS, SOURCE), step=1e-5, epsilon=0.1)

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


def test_every_approximation_is_compared_with_the_exact_gradient(
    curved: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers
) -> None:
    weights, images = random_tensor(36, 3, seed=2, normal=True), random_tensor(5, *SHAPE)
    plain = Defence(diffusion(curved), lambda x: x.flatten(1) @ weights.to(x.dtype), batch_size=2)
    found = {}
    for name, surrogate in {"none": None, "same": plain.purifier, "fewer": diffusion(curved, steps=2)}.items():
        sample = Sample(images, LABELS, IDS, SOURCE)
        found[name] = audit(replace(plain, surrogate=surrogate), plain, sample, step=1e-5, epsilon=0.1)
    assert torch.isnan(found["none"]["surrogate_cosine"]).all()
    torch.testing.assert_close(found["same"]["surrogate_cosine"], torch.ones(5), rtol=0, atol=1e-6)
    assert (
        0.3 < float(found["fewer"]["surrogate_cosine"].min()) < float(found["fewer"]["surrogate_cosine"].max()) < 0.9999
    )
    assert 0.9 < float(found["none"]["adjoint_cosine"].min()) < 0.99999


def test_a_masked_gradient_is_flagged(audited: Audit) -> None:
    rounding = audited(FunctionPurifier(lambda x, noise: (8.0 * x).round() / 8.0))
    assert rounding["zero_gradient"].tolist() == rounding["masked"].tolist() == [1.0] * 5
    assert float(rounding["loss_change"].min()) > 0
    assert float(rounding["replay_difference"].max()) == 0


def test_a_constant_has_no_gradient_to_mask(audited: Audit) -> None:
    row = audited(FunctionPurifier(lambda x, noise: 0.0 * x + 0.5))
    assert row["zero_gradient"].tolist() == row["loss_change"].tolist() == [0.0] * 5


def test_a_gradient_that_is_not_finite_is_flagged(audited: Audit) -> None:
    row = audited(FunctionPurifier(lambda x, noise: x + (x - x.detach()).sqrt()))
    assert row["not_finite"].tolist() == [1.0] * 5
    half = audited(
        FunctionPurifier(lambda x, noise: torch.cat([x[..., :3], x[..., 3:] + (x - x.detach())[..., 3:].sqrt()], -1))
    )
    assert half["not_finite"].tolist() == [0.5] * 5


def test_a_defence_without_double_precision_is_not_compared(audited: Audit) -> None:
    def single(x: Tensor, noise: Noise) -> Tensor:
        if x.dtype != torch.float32:
            raise ValueError("expected float32")
        return x.square()

    row = audited(FunctionPurifier(single))
    assert torch.isnan(row["finite_difference"]).all()
    assert float(row["replay_difference"].max()) == 0


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
    sample = Sample(images, LABELS, IDS, SOURCE)
    assert float(audit(single, single, sample, step=1e-5, epsilon=0.1)["finite_difference"].max()) < 1e-6
    assert float(audit(single, twin, sample, step=1e-5, epsilon=0.1)["finite_difference"].min()) > 1e-2


MASKS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "nothing": (lambda x: 2.0 * x, 0.0),
    "a clamp that never acts": (lambda x: x.clamp(-10.0, 10.0), 0.0),
    "a clamp of half the values": (lambda x: (x - x.flatten(1).median(1).values[:, None, None, None]).clamp(0.0), 0.5),
    "a clamp whose derivative is put back": (lambda x: x + (x.clamp(0.4, 0.5) - x).detach(), 0.0),
    "a clamp in place": (lambda x: (1.0 * x).clamp_(2.0, 3.0), 1.0),
    "a minimum with a constant": (lambda x: torch.minimum(x, torch.full_like(x, -1.0)), 1.0),
    "hard tanh": (lambda x: torch.nn.functional.hardtanh(10.0 + x), 1.0),
    "rounding": (lambda x: x + (3.0 * x).round(), 1.0),
    "a sign": (lambda x: x * x.sign(), 1.0),
    "a clamp inside a network": (lambda x: x * x.flatten(1).mean(1).clamp(2.0, 3.0)[:, None, None, None], 0.0),
    "the worst of two": (lambda x: x.clamp(-10.0, 10.0).floor() + x, 1.0),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_masked_share_is_what_the_clamps_stop(random_tensor: Numbers, name: str) -> None:
    function, share = MASKS[name]
    images = 0.2 + 0.6 * random_tensor(5, *SHAPE)
    found = masked_share(FunctionPurifier(lambda x, noise: function(x)), images, SOURCE(IDS))
    torch.testing.assert_close(found, torch.full((5,), share, dtype=torch.float64), rtol=0, atol=0.03)


def test_the_masked_share_of_clipped_estimates_is_that_of_the_values_cut(
    curved: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers
) -> None:
    images = random_tensor(5, *SHAPE)
    found = {
        clip: masked_share(diffusion(curved, sampler="one_step", clip=clip), images, SOURCE(IDS))
        for clip in ("none", "clamp", "straight_through")
    }
    estimates = purify(diffusion(curved, sampler="one_step"), images, SOURCE(IDS))
    cut = ((estimates < 0.0) | (estimates > 1.0)).flatten(1).double().mean(dim=1)
    assert float(cut.min()) > 0
    torch.testing.assert_close(found["clamp"], cut, rtol=0, atol=1e-12)
    assert found["none"].tolist() == found["straight_through"].tolist() == [0.0] * 5
