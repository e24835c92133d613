"""Guided purification: its strength, its independence of the batch, and gradients that see the guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor

from purification.gradients import gradient
from purification.guidance import (
    GUIDES,
    LABELS,
    PLACES,
    ImageGuidance,
    NetworkGuidance,
    gradient_at,
    make_guidance,
    mse_pull,
    ssim,
    ssim_pull,
)
from purification.models.denoisers import Denoiser
from purification.noise import Noise, NoiseSource
from purification.purifiers import FunctionPurifier, GuidedPurifier, Purifier, ResizedPurifier, make_purifier, purify
from purification.schedule import Schedule

SHAPE = (1, 12, 12)
CPU = torch.device("cpu")
GDMP: dict[str, Any] = {
    "kind": "guided", "sampler": "ddpm", "variance": "fixed_large", "t_star": 36, "steps": 4, "forward_noise": True,
    "clip": "none", "clamp_output": False, "rounds": 2,
    "guidance": {"guide": "image", "distance": "mse", "reference": "noised", "scale": 3000.0, "assumed": 8 / 255},
}  # fmt: skip
Numbers = Callable[..., Tensor]
NoiseOf = Callable[..., Noise]
variants = pytest.mark.parametrize(("distance", "reference"), [("mse", "noised"), ("mse", "clean"), ("ssim", "noised")])


def gdmp(denoiser: Denoiser, guidance: dict[str, Any] | None = None, **changes: Any) -> Purifier:
    entry = {**GDMP, **changes, "guidance": {**GDMP["guidance"], **(guidance or {})}}
    return make_purifier(entry, denoiser, SHAPE, CPU)


def objective(purified: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, purified[0].numel(), dtype=purified.dtype)
    return (purified.flatten(1) * weights).sum(dim=1).sin() + purified.flatten(1).pow(3).sum(dim=1)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(3, *SHAPE, dtype=torch.float64)


@pytest.fixture
def noise(fixed_noise: NoiseOf) -> Noise:
    return fixed_noise(3, *SHAPE, dtype=torch.float64)


@variants
def test_an_image_is_purified_alike_alone_and_in_a_batch(
    curved: Denoiser, images: Tensor, noise: Noise, distance: str, reference: str
) -> None:
    """The strength of the published code falls with the batch: its mean runs over all images."""
    purifier = gdmp(curved, {"distance": distance, "reference": reference})
    together = purify(purifier, images, noise)
    source = NoiseSource(0, "fixed", SHAPE, dtype=torch.float64)
    for number in range(3):
        alone = purify(purifier, images[number : number + 1], source([number]))
        torch.testing.assert_close(alone, together[number : number + 1], rtol=1e-12, atol=1e-12)


def test_the_share_of_the_gap_that_a_step_closes_is_that_of_the_authors_code_with_a_batch_of_one(
    schedule: Schedule,
) -> None:
    """v_t c_t 2 / N at index 35, 3x32x32 images, guide_scale 60000, perturbation 8/255: .190."""
    guidance = ImageGuidance("mse", "noised", 60000.0, 8 / 255)
    level, below = schedule.level(35), schedule.level(34)
    beta = 1 - level.alpha_bar / below.alpha_bar
    assert beta * guidance.weight(level) * 2 / 3072 == pytest.approx(0.190, abs=5e-4)
    c_t = math.sqrt(1 - level.alpha_bar) / (8 * 2 / 255 / 3 / 60000 * math.sqrt(level.alpha_bar))
    assert guidance.weight(level) == pytest.approx(c_t, rel=1e-12)


def test_the_mse_direction_is_the_gradient_of_the_mean_squared_error_of_each_image(images: Tensor) -> None:
    reference = images.flip(0) * 0.7
    by_hand = gradient_at(images, lambda u: -(u - reference).square().flatten(1).mean(dim=1))
    torch.testing.assert_close(mse_pull(images, reference), by_hand, rtol=1e-12, atol=1e-15)


def test_ssim_is_that_of_scikit_image(images: Tensor) -> None:
    a, b = 2 * images - 1, (2 * images - 1).flip(0) * 0.8 + 0.1
    options = {"data_range": 2.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(x.numpy(), y.numpy(), channel_axis=0, **options) for x, y in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(ssim(a, b), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(ssim(a, a), torch.ones(3, dtype=torch.float64))


def test_a_step_along_the_ssim_direction_makes_images_more_alike(images: Tensor) -> None:
    reference = images.roll(1, dims=-1)
    moved = images + 1e-3 * ssim_pull(images, reference)
    assert bool((ssim(moved, reference) > ssim(images, reference)).all())


def test_ssim_needs_a_window(random_tensor: Numbers) -> None:
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(random_tensor(1, 1, 8, 8), random_tensor(1, 1, 8, 8))


@pytest.mark.parametrize("change", [{"distance": "l2"}, {"reference": "blurred"}])
def test_unknown_values_are_refused(curved: Denoiser, change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="to be one of"):
        make_guidance({**GDMP["guidance"], **change}, curved)


def test_guidance_needs_a_step_with_a_variance(curved: Denoiser) -> None:
    with pytest.raises(ValueError, match="expected sampler 'ddpm'"):
        make_purifier({**GDMP, "sampler": "pf_ode"}, curved, SHAPE, CPU)
    assert isinstance(make_purifier({**GDMP, "t_star": 0}, curved, SHAPE, CPU), FunctionPurifier)


@variants
@pytest.mark.parametrize("kept_steps", [0, 3, 100])
def test_replay_sees_the_guidance_as_autograd_does(
    curved: Denoiser, images: Tensor, noise: Noise, distance: str, reference: str, kept_steps: int
) -> None:
    purifier = gdmp(curved, {"distance": distance, "reference": reference})
    plain = gradient(purifier, images, noise, objective, mode="autograd", kept_steps=0)
    replayed = gradient(purifier, images, noise, objective, mode="replay", kept_steps=kept_steps)
    assert torch.equal(plain.purified, replayed.purified)
    torch.testing.assert_close(replayed.gradient, plain.gradient, rtol=1e-10, atol=1e-14)


@variants
def test_the_gradient_is_that_of_finite_differences_and_not_that_of_a_blind_attack(
    curved: Denoiser, images: Tensor, noise: Noise, distance: str, reference: str
) -> None:
    """A guidance that is detached, as in the published code, leaves an attack with another direction."""
    purifier = gdmp(curved, {"distance": distance, "reference": reference})
    assert isinstance(purifier, GuidedPurifier)
    exact = gradient(purifier, images, noise, objective, mode="replay", kept_steps=0).gradient
    direction = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)
    ends = [objective(purify(purifier, images + sign * 1e-6 * direction, noise)) for sign in (1, -1)]
    slope = (exact * direction).flatten(1).sum(dim=1)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-6)
    leaf = images.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        whole = ImageGuidance.pull
        patch.setattr(ImageGuidance, "pull", lambda *arguments: whole(*arguments).detach())
        blind = torch.autograd.grad(objective(purify(purifier, leaf, noise)).sum(), leaf)[0]
    assert float((blind - exact).norm() / exact.norm()) > 1e-2


def test_without_strength_a_guided_purifier_is_its_sampler(
    curved: Denoiser, images: Tensor, noise: Noise, diffusion: Callable[..., Purifier]
) -> None:
    weak = gdmp(curved, {"scale": 1e-30}, rounds=1)
    plain = diffusion(curved, variance="fixed_large", t_star=36, steps=4)
    torch.testing.assert_close(purify(weak, images, noise), purify(plain, images, noise), rtol=1e-12, atol=1e-12)


def test_rounds_repeat_the_chain_with_noise_of_their_own(curved: Denoiser, images: Tensor, noise: Noise) -> None:
    two, once = gdmp(curved, {"scale": 1e-30}), gdmp(curved, {"scale": 1e-30}, rounds=1)
    assert (two.num_steps, once.num_steps) == (8, 4)
    state = 2 * purify(once, images, noise) - 1
    abar = curved.schedule.level(35).alpha_bar
    state = math.sqrt(abar) * state + math.sqrt(1 - abar) * noise.normal("forward", 1)
    for number in range(4):
        step = once.inner.table[number]
        move = once.inner.step(number, state, images, noise)
        state = move + step.noise_weight * (noise.normal("reverse", 4 + number) - noise.normal("reverse", number))
    torch.testing.assert_close(purify(two, images, noise), (state + 1) / 2, rtol=1e-12, atol=1e-12)


def test_a_guided_purifier_works_at_another_size(curved: Denoiser, images: Tensor, noise: Noise) -> None:
    """As the guided purifier of that size does on resized images."""
    larger = gdmp(curved, size=16)
    assert isinstance(larger, ResizedPurifier) and isinstance(larger.inner, GuidedPurifier)
    resized = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    inner = purify(gdmp(curved), resized, NoiseSource(0, "fixed", (1, 16, 16), dtype=torch.float64)([0, 1, 2]))
    expected = F.interpolate(inner, size=(12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(purify(larger, images, noise), expected)
    exact = gradient(larger, images, noise, objective, mode="replay", kept_steps=0).gradient
    plain = gradient(larger, images, noise, objective, mode="autograd", kept_steps=0).gradient
    torch.testing.assert_close(exact, plain, rtol=1e-10, atol=1e-14)


def test_a_clean_reference_takes_no_noise(curved: Denoiser, images: Tensor, noise: Noise) -> None:
    level = curved.schedule.level(35)
    clean = make_guidance({**GDMP["guidance"], "reference": "clean"}, curved)
    assert torch.equal(clean.pull(0 * images, images, level, noise, 0), clean.pull(0 * images, images, level, noise, 9))
    noised = make_guidance(GDMP["guidance"], curved)
    a, b = (noised.pull(0 * images, images, level, noise, number) for number in (0, 9))
    torch.testing.assert_close(a - b, (noise.normal("reverse", 0) - noise.normal("reverse", 9)) * (
        math.sqrt(1 - level.alpha_bar) * 2 / images[0].numel()))  # fmt: skip


def smooth(images: Tensor) -> Tensor:
    """Three classes with scores that bend, as a network's do."""
    weights = torch.linspace(-1, 1, images[0].numel() * 3, dtype=images.dtype).view(-1, 3).sin()
    return torch.tanh((images - 0.4).flatten(1) @ weights) * 3


def flat(images: Tensor) -> Tensor:
    return torch.tensor([0.3, -0.2, 1.0], dtype=images.dtype).expand(len(images), 3)


def agdm(denoiser: Denoiser, network: Any = smooth, guidance: dict[str, Any] | None = None, **changes: Any) -> Purifier:
    section = {"guide": "network", "network": "any", "label": "predicted", "place": "state", "scale": 30.0}
    entry = {**GDMP, "rounds": 1, **changes, "guidance": {**section, **(guidance or {})}}
    return make_purifier(entry, replace(denoiser, auxiliary=network), SHAPE, CPU)


networks = pytest.mark.parametrize("place", PLACES)
labels = pytest.mark.parametrize("label", LABELS)


@networks
@labels
@pytest.mark.parametrize("kept_steps", [0, 2])
def test_replay_sees_the_auxiliary_network_as_autograd_does(
    curved: Denoiser, images: Tensor, noise: Noise, place: str, label: str, kept_steps: int
) -> None:
    purifier = agdm(curved, guidance={"place": place, "label": label})
    plain = gradient(purifier, images, noise, objective, mode="autograd", kept_steps=0)
    replayed = gradient(purifier, images, noise, objective, mode="replay", kept_steps=kept_steps)
    assert torch.equal(plain.purified, replayed.purified)
    torch.testing.assert_close(replayed.gradient, plain.gradient, rtol=1e-9, atol=1e-13)


@networks
@labels
def test_the_gradient_through_the_auxiliary_network_is_that_of_finite_differences(
    curved: Denoiser, images: Tensor, noise: Noise, place: str, label: str
) -> None:
    """By the state and by the image that the network compares with, which every step reads."""
    purifier = agdm(curved, guidance={"place": place, "label": label})
    exact = gradient(purifier, images, noise, objective, mode="replay", kept_steps=0).gradient
    direction = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)
    ends = [objective(purify(purifier, images + sign * 1e-6 * direction, noise)) for sign in (1, -1)]
    slope = (exact * direction).flatten(1).sum(dim=1)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-5)
    leaf = images.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        whole = NetworkGuidance.pull
        patch.setattr(NetworkGuidance, "pull", lambda *arguments: whole(*arguments).detach())
        blind = torch.autograd.grad(objective(purify(purifier, leaf, noise)).sum(), leaf)[0]
    assert float((blind - exact).norm() / exact.norm()) > 1e-3


@networks
@labels
def test_a_network_that_tells_nothing_apart_leaves_the_sampler_as_it_is(
    curved: Denoiser, images: Tensor, noise: Noise, diffusion: Callable[..., Purifier], place: str, label: str
) -> None:
    plain = diffusion(curved, variance="fixed_large", t_star=36, steps=4)
    guided = agdm(curved, flat, {"place": place, "label": label})
    assert torch.equal(purify(guided, images, noise), purify(plain, images, noise))
    leaf = images.clone().requires_grad_()
    assert torch.equal(purify(guided, leaf, noise), purify(plain, leaf, noise))


def test_an_image_is_guided_by_a_network_alike_alone_and_in_a_batch(
    curved: Denoiser, images: Tensor, noise: Noise
) -> None:
    purifier, source = agdm(curved), NoiseSource(0, "fixed", SHAPE, dtype=torch.float64)
    together = purify(purifier, images, noise)
    for number in range(3):
        alone = purify(purifier, images[number : number + 1], source([number]))
        torch.testing.assert_close(alone, together[number : number + 1], rtol=1e-12, atol=1e-12)


@labels
def test_the_direction_is_that_of_the_written_out_posterior(
    curved: Denoiser, images: Tensor, noise: Noise, label: str
) -> None:
    """grad [log p(y | u) - KL(p(x') || p(u))] of a linear softmax, by hand: (w_y - W p) - W (p - p') and so on."""
    weights = torch.linspace(-1, 1, 144 * 3, dtype=torch.float64).view(144, 3).sin() * 0.3
    level, state = curved.schedule.level(35), 0.8 * (2 * images - 1)
    guidance = NetworkGuidance(replace(curved, auxiliary=lambda x: x.flatten(1) @ weights), label, "state", 2.0)
    found = guidance.pull(state, images, level, noise, 0).flatten(1)
    own = (images.flatten(1) @ weights).softmax(dim=1)
    seen = (0.5 * (state / math.sqrt(level.alpha_bar) + 1)).flatten(1) @ weights
    p = seen.softmax(dim=1)
    target = {
        "predicted": torch.eye(3, dtype=torch.float64)[own.argmax(dim=1)] - p, "expected": own - p, "none": 0 * p
    }[label]  # fmt: skip
    expected = (target + own - p) @ weights.T * 0.5 / math.sqrt(level.alpha_bar)
    torch.testing.assert_close(found, expected)
    assert guidance.weight(level) == 2.0


def test_a_guide_must_be_given(curved: Denoiser, images: Tensor, noise: Noise) -> None:
    with pytest.raises(ValueError, match="expected a denoiser with a guide, got none"):
        purify(agdm(curved, None), images, noise)


def test_every_guide_is_tested() -> None:
    assert {*GUIDES} == {"image", "network"}
