"""Exact gradients: replay against autograd, finite differences and gradcheck; what is not a gradient, named so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.errors import NoDerivative
from purification.gradients import MODES, Gradient, gradient, steps_within
from purification.models.denoisers import Denoiser, Epsilon
from purification.noise import Noise
from purification.purifiers import FunctionPurifier, Purifier, make_purifier, purify
from purification.schedule import Schedule

SHAPE = (1, 4, 4)
Diffusion = Callable[..., Purifier]
Numbers = Callable[..., Tensor]
NoiseOf = Callable[..., Noise]
CHAINS: list[dict[str, Any]] = [
    {"sampler": "ddpm"},
    {"sampler": "ddpm", "clip": "clamp", "clamp_output": True},
    {"sampler": "ddim", "eta": 0.5},
    {"sampler": "vp_sde"},
    {"sampler": "pf_ode", "forward_noise": False},
    {"sampler": "one_step"},
    {"t_star": 0},
]


@dataclass(frozen=True)
class Guided:
    """A chain whose every step also reads the input image, as guided purification does (Wang et al. 2022)."""

    num_steps: int = 4

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return 0.9 * images + 0.1 * noise.normal("forward")

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        pull = (state - images) * torch.tanh(images.roll(1, dims=-1))
        return torch.sin(state) - (0.1 + 0.1 * number) * pull + 0.05 * noise.normal("reverse", number)

    def finish(self, state: Tensor) -> Tensor:
        return state.sigmoid()


@dataclass(frozen=True)
class Detached(Guided):
    """A guided chain whose start ignores the image: all of its gradient comes through the guidance."""

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return noise.normal("forward")


@dataclass(frozen=True)
class Adding(Guided):
    """Steps that add a function of the image to the state."""

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        return state + 0.1 * images.square() + 0.05 * noise.normal("reverse", number)


@dataclass(frozen=True)
class Cutting(Guided):
    """The second step forgets where its state came from."""

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        return state.detach() if number == 1 else torch.sin(state)


@dataclass(frozen=True)
class Recorder:
    """A purifier that writes down the noise each of its steps received."""

    inner: Purifier
    seen: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        return self.inner.num_steps

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return self.inner.start(images, noise)

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        self.seen.setdefault(number, []).append(noise.normal("reverse", number))
        return self.inner.step(number, state, images, noise)

    def finish(self, state: Tensor) -> Tensor:
        return self.inner.finish(state)


def objective(purified: Tensor) -> Tensor:
    """A smooth function of every pixel with a different weight each, one value per image."""
    weights = torch.linspace(-1, 2, purified[0].numel(), dtype=purified.dtype)
    return (purified.flatten(1) * weights).sum(dim=1).sin() + purified.flatten(1).pow(3).sum(dim=1)


def differentiate(purifier: Purifier, images: Tensor, noise: Noise, mode: str, kept_steps: int = 0) -> Gradient:
    return gradient(purifier, images, noise, objective, mode=mode, kept_steps=kept_steps)


def approximate(executed: Purifier, cheaper: Purifier, images: Tensor, noise: Noise, kept_steps: int = 0) -> Tensor:
    """Surrogate gradient."""
    out = gradient(executed, images, noise, objective, mode="surrogate", kept_steps=kept_steps, surrogate=cheaper)
    return out.gradient


def central_differences(purifier: Purifier, images: Tensor, noise: Noise, step: float = 1e-6) -> Tensor:
    """Derivative of each image's own objective by every pixel."""
    slopes = torch.zeros_like(images)
    for pixel in range(images[0].numel()):
        shift = torch.zeros_like(images).flatten(1)
        shift[:, pixel] = step
        up, down = (objective(purify(purifier, images + s * shift.view_as(images), noise)) for s in (1, -1))
        slopes.flatten(1)[:, pixel] = (up - down) / (2 * step)
    return slopes


@pytest.fixture(params=[*CHAINS, Guided()], ids=lambda p: "-".join(map(str, p.values())) if p in CHAINS else "guided")
def purifier(request: pytest.FixtureRequest, curved: Denoiser, diffusion: Diffusion) -> Purifier:
    return diffusion(curved, **request.param) if isinstance(request.param, dict) else request.param


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(3, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("kept_steps", [0, 1, 2, 4, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replay_is_autograd_bit_for_bit(
    purifier: Purifier, images: Tensor, fixed_noise: NoiseOf, kept_steps: int, dtype: torch.dtype
) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=dtype)
    plain = differentiate(purifier, images.to(dtype), noise, "autograd")
    replayed = differentiate(purifier, images.to(dtype), noise, "replay", kept_steps)
    assert torch.equal(replayed.values, plain.values) and torch.equal(replayed.purified, plain.purified)
    if isinstance(purifier, Guided):  # steps that read the image add to its gradient in another order
        torch.testing.assert_close(
            replayed.gradient, plain.gradient, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0
        )
    else:
        assert torch.equal(replayed.gradient, plain.gradient)
    assert float(plain.gradient.abs().amax()) > 0


@pytest.mark.parametrize("kept_steps", [0, 2, 5])
def test_replay_through_a_network_is_autograd_bit_for_bit(
    unet: Denoiser, diffusion: Diffusion, random_tensor: Numbers, fixed_noise: NoiseOf, kept_steps: int
) -> None:
    images, noise = random_tensor(3, 1, 8, 8), fixed_noise(3)
    plain = differentiate(diffusion(unet), images, noise, "autograd")
    replayed = differentiate(diffusion(unet), images, noise, "replay", kept_steps)
    for a, b in zip(plain, replayed, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("clip", ["none", "clamp", "straight_through"])
def test_replay_is_autograd_for_every_clipping(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf, clip: str
) -> None:
    purifier, noise = diffusion(curved, clip=clip), fixed_noise(3, *SHAPE, dtype=torch.float64)
    gradients = [differentiate(purifier, 2 * images - 0.5, noise, mode).gradient for mode in ("autograd", "replay")]
    assert torch.equal(*gradients)


def test_replay_needs_no_start_that_depends_on_the_image(images: Tensor, fixed_noise: NoiseOf) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    plain, replayed = (differentiate(Detached(), images, noise, mode).gradient for mode in ("autograd", "replay"))
    torch.testing.assert_close(replayed, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["autograd", "replay"])
def test_gradients_are_those_of_finite_differences(
    purifier: Purifier, images: Tensor, fixed_noise: NoiseOf, mode: str
) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    exact = differentiate(purifier, images, noise, mode).gradient
    error = (exact - central_differences(purifier, images, noise)).norm()
    assert float(error / exact.norm()) < 1e-6


def test_gradcheck_passes_through_the_complete_chain(purifier: Purifier, images: Tensor, fixed_noise: NoiseOf) -> None:
    noise = fixed_noise(1, *SHAPE, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: purify(purifier, x, noise), images[:1].clone().requires_grad_())


def test_values_and_purified_images_are_those_of_the_executed_chain(
    purifier: Purifier, images: Tensor, fixed_noise: NoiseOf
) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    expected = purify(purifier, images, noise)
    cheaper = {"surrogate": Guided(num_steps=2)}
    for mode in MODES:
        out = gradient(
            purifier, images, noise, objective, mode=mode, kept_steps=0, **(cheaper if mode == "surrogate" else {})
        )
        assert torch.equal(out.purified, expected) and torch.equal(out.values, objective(expected))
        assert not out.values.requires_grad and not out.gradient.requires_grad and not out.purified.requires_grad


def test_gradients_do_not_mix_the_images_of_a_batch(purifier: Purifier, images: Tensor, fixed_noise: NoiseOf) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    whole = differentiate(purifier, images, noise, "replay").gradient
    changed = images.clone()
    changed[1] = 0.5
    after = differentiate(purifier, changed, noise, "replay").gradient
    assert torch.equal(after[[0, 2]], whole[[0, 2]]) and not torch.equal(after[1], whole[1])


def test_bpda_takes_the_derivative_of_the_identity(purifier: Purifier, images: Tensor, fixed_noise: NoiseOf) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    leaf = purify(purifier, images, noise).requires_grad_()
    (expected,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    assert torch.equal(differentiate(purifier, images, noise, "bpda").gradient, expected)


def test_all_modes_agree_on_the_identity(images: Tensor, fixed_noise: NoiseOf) -> None:
    identity, noise = FunctionPurifier(lambda x, noise: x), fixed_noise(3, *SHAPE, dtype=torch.float64)
    outs = [differentiate(identity, images, noise, mode).gradient for mode in ("autograd", "replay", "bpda", "adjoint")]
    outs.append(approximate(identity, identity, images, noise))
    assert all(torch.equal(outs[0], other) for other in outs[1:])


def test_bpda_misses_the_gradient_of_a_chain(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf
) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    exact, bpda = (differentiate(diffusion(curved), images, noise, mode).gradient for mode in ("replay", "bpda"))
    assert float((exact - bpda).norm() / exact.norm()) > 0.1


def test_the_constant_has_a_zero_gradient(images: Tensor, fixed_noise: NoiseOf) -> None:
    constant = make_purifier({"kind": "constant", "value": 0.5}, None, SHAPE, torch.device("cpu"))
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    assert torch.equal(differentiate(constant, images, noise, "replay").gradient, torch.zeros_like(images))


@pytest.mark.parametrize("kept_steps", [0, 2, 5])
def test_replay_visits_every_step_with_the_noise_of_the_first_pass(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf, kept_steps: int
) -> None:
    recorder = Recorder(diffusion(curved))
    differentiate(recorder, images, fixed_noise(3, *SHAPE, dtype=torch.float64), "replay", kept_steps)
    for number in range(5):
        visits = recorder.seen[number]
        assert len(visits) == (2 if number < 5 - kept_steps else 1)
        assert all(torch.equal(visits[0], other) for other in visits)


@pytest.mark.usefixtures("global_random_state")
@pytest.mark.parametrize("mode", ["autograd", "replay", "bpda", "adjoint"])
def test_differentiating_leaves_images_and_the_global_random_state_alone(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf, mode: str
) -> None:
    before = images.clone()
    differentiate(diffusion(curved), images, fixed_noise(3, *SHAPE, dtype=torch.float64), mode)
    assert torch.equal(images, before) and not images.requires_grad


def test_an_unknown_mode_is_refused(images: Tensor, fixed_noise: NoiseOf) -> None:
    with pytest.raises(ValueError, match=r"expected a gradient mode among .*'replay'.*, got 'exact'"):
        differentiate(Guided(), images, fixed_noise(3, *SHAPE), "exact")


# --- approximations: surrogate and adjoint


def error_of(approximation: Tensor, exact: Tensor) -> float:
    return float((approximation - exact).norm() / exact.norm())


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("kept_steps", [0, 2, 100])
def test_a_surrogate_of_as_many_steps_is_exact(
    chain: dict[str, Any], curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf, kept_steps: int
) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    executed, other = diffusion(curved, **chain), diffusion(curved, **chain)
    exact = differentiate(executed, images, noise, "replay", kept_steps).gradient
    assert torch.equal(approximate(executed, other, images, noise, kept_steps), exact)


def test_a_surrogate_of_fewer_steps_has_its_own_gradient(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf
) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    executed, cheaper = diffusion(curved, steps=6), diffusion(curved, steps=3)
    exact = differentiate(executed, images, noise, "replay").gradient
    surrogate = approximate(executed, cheaper, images, noise)
    assert torch.equal(surrogate, differentiate(cheaper, images, noise, "autograd").gradient)
    assert 0.01 < error_of(surrogate, exact) < 1


@pytest.mark.parametrize(("mode", "given"), [("surrogate", "none"), ("replay", "one")])
def test_a_surrogate_goes_with_its_mode_only(images: Tensor, fixed_noise: NoiseOf, mode: str, given: str) -> None:
    surrogate = Guided() if given == "one" else None
    with pytest.raises(ValueError, match=f"exactly with mode 'surrogate', got {given} with '{mode}'"):
        gradient(Guided(), images, fixed_noise(3, *SHAPE), objective, mode=mode, kept_steps=0, surrogate=surrogate)


@pytest.mark.parametrize("sampler", ["pf_ode", "vp_sde", "ddpm", "ddim"])
def test_the_adjoint_of_a_chain_with_constant_derivatives_is_exact(
    isotropic: Callable[[float, float], Epsilon],
    schedule: Schedule,
    diffusion: Diffusion,
    images: Tensor,
    fixed_noise: NoiseOf,
    sampler: str,
) -> None:
    """With Gaussian data every step is affine: it does not matter at which state its derivative is taken."""
    purifier = diffusion(Denoiser(isotropic(0.3, 0.25), schedule), sampler=sampler, eta=0.5)
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    exact, adjoint = (differentiate(purifier, images, noise, mode).gradient for mode in ("replay", "adjoint"))
    torch.testing.assert_close(adjoint, exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sampler", ["pf_ode", "vp_sde"])
def test_the_adjoint_converges_with_the_steps_and_is_wrong_with_few(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf, sampler: str
) -> None:
    noise, errors = fixed_noise(3, *SHAPE, dtype=torch.float64), []
    for steps in (5, 25, 100):
        purifier = diffusion(curved, sampler=sampler, t_star=300, steps=steps)
        exact, adjoint = (differentiate(purifier, images, noise, mode).gradient for mode in ("replay", "adjoint"))
        errors.append(error_of(adjoint, exact))
    assert errors[0] > 0.05 and errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] < 0.02


def test_the_error_of_the_adjoint_halves_when_the_steps_double(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf
) -> None:
    noise, errors = fixed_noise(3, *SHAPE, dtype=torch.float64), []
    for steps in (25, 50, 100):
        purifier = diffusion(curved, sampler="pf_ode", t_star=300, steps=steps)
        exact, adjoint = (differentiate(purifier, images, noise, mode).gradient for mode in ("replay", "adjoint"))
        errors.append(error_of(adjoint, exact))
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([2, 2], rel=0.15)


def test_the_adjoint_is_the_exact_one_of_a_chain_whose_states_it_finds_again(
    images: Tensor, fixed_noise: NoiseOf
) -> None:
    """Steps that only add what they read from the image: subtracting it again gives the very same states."""
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    exact, adjoint = (differentiate(Adding(), images, noise, mode).gradient for mode in ("autograd", "adjoint"))
    torch.testing.assert_close(adjoint, exact, rtol=1e-12, atol=1e-14)


def test_the_adjoint_of_a_guided_chain_includes_the_guidance(images: Tensor, fixed_noise: NoiseOf) -> None:
    """All of the gradient of a chain that starts from noise comes through the image that its steps read."""
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    exact, adjoint = (differentiate(Detached(), images, noise, mode).gradient for mode in ("autograd", "adjoint"))
    assert 1e-3 < error_of(adjoint, exact) < 0.5


def test_the_adjoint_does_not_mix_the_images_of_a_batch(
    curved: Denoiser, diffusion: Diffusion, images: Tensor, fixed_noise: NoiseOf
) -> None:
    noise, changed = fixed_noise(3, *SHAPE, dtype=torch.float64), images.clone()
    changed[1] = 0.5
    whole, after = (differentiate(diffusion(curved), x, noise, "adjoint").gradient for x in (images, changed))
    assert torch.equal(after[[0, 2]], whole[[0, 2]]) and not torch.equal(after[1], whole[1])


@pytest.mark.parametrize("mode", ["replay", "adjoint"])
def test_a_step_that_cuts_the_derivative_contributes_nothing(images: Tensor, fixed_noise: NoiseOf, mode: str) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    assert torch.equal(differentiate(Cutting(), images, noise, mode).gradient, torch.zeros_like(images))


@pytest.mark.parametrize("mode", ["autograd", "replay", "adjoint"])
def test_a_purifier_without_a_derivative_is_refused_and_bpda_goes_through_it(
    images: Tensor, fixed_noise: NoiseOf, mode: str
) -> None:
    opaque, noise = FunctionPurifier(lambda x, noise: x.detach().round()), fixed_noise(3, *SHAPE, dtype=torch.float64)
    with pytest.raises(NoDerivative, match="without a derivative — attack it with gradient: bpda"):
        differentiate(opaque, images, noise, mode)
    with pytest.raises(NoDerivative, match="without a derivative — attack it with gradient: bpda"):
        approximate(opaque, opaque, images, noise)
    assert float(differentiate(opaque, images, noise, "bpda").gradient.abs().amax()) > 0


class ForwardOnly(torch.autograd.Function):
    """An operation that nobody wrote a derivative for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()


WEIGHT = torch.ones(1, dtype=torch.float64, requires_grad=True)
WITHOUT: dict[str, Callable[[Tensor, Noise], Tensor]] = {
    "detached": lambda x, noise: x.detach().round(),
    "detached before weights that ask for gradients": lambda x, noise: WEIGHT * x.detach(),
    "an operation without a derivative": lambda x, noise: ForwardOnly.apply(x),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_every_way_to_have_no_derivative_is_the_same_error(images: Tensor, fixed_noise: NoiseOf, name: str) -> None:
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    with pytest.raises(NoDerivative, match="without a derivative"):
        differentiate(FunctionPurifier(WITHOUT[name]), images, noise, "replay")


def test_a_derivative_that_is_zero_is_one(images: Tensor, fixed_noise: NoiseOf) -> None:
    """Rounding has a path with the derivative zero: a mask, which the audit finds, and no missing derivative."""
    noise = fixed_noise(3, *SHAPE, dtype=torch.float64)
    rounded = FunctionPurifier(lambda x, noise: (8 * x).round() / 8)
    assert not differentiate(rounded, images, noise, "replay").gradient.any()


# --- memory


@dataclass(frozen=True)
class Counted:
    """Every step squares the state: autograd keeps exactly one copy of it (in fact the state itself)."""

    num_steps: int = 6

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return images

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        return state.square()

    def finish(self, state: Tensor) -> Tensor:
        return state


@pytest.mark.parametrize(("states", "expected"), [(0, 0), (0.9, 0), (1, 1), (2.5, 2), (6, 6), (100, 6)])
def test_steps_within_counts_the_states_that_fit(
    images: Tensor, fixed_noise: NoiseOf, states: float, expected: int
) -> None:
    memory = states * images.numel() * images.element_size()
    assert steps_within(Counted(), images, fixed_noise(3, *SHAPE, dtype=torch.float64), memory) == expected


def test_more_memory_keeps_more_steps_up_to_all(
    unet: Denoiser, diffusion: Diffusion, random_tensor: Numbers, fixed_noise: NoiseOf
) -> None:
    purifier, images, noise = diffusion(unet, steps=10), random_tensor(4, 1, 8, 8), fixed_noise(4)
    kept = [steps_within(purifier, images, noise, memory) for memory in (0, 1e4, 1e5, 1e6, 2e6, 1e9)]
    assert kept == sorted(kept) and kept[0] == 0 and kept[-1] == 10 and 0 < kept[3] < 10
    half = [steps_within(purifier, images[:2], fixed_noise(2), memory) for memory in (1e6, 2e6)]
    assert all(a >= b for a, b in zip(half, kept[3:5], strict=True))


def test_a_purifier_without_steps_keeps_none(images: Tensor, fixed_noise: NoiseOf) -> None:
    identity = FunctionPurifier(lambda x, noise: x)
    assert steps_within(identity, images, fixed_noise(3, *SHAPE, dtype=torch.float64), 1e9) == 0
