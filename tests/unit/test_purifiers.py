"""Purifiers: functions of (images, noise), equal per image whatever the batch, and the controls with known output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from purification.models.denoisers import Denoiser, Epsilon
from purification.noise import FORWARD, REVERSE, Noise, NoiseSource
from purification.purifiers import DiffusionPurifier, Purifier, make_purifier, purify
from purification.samplers import ddpm

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "ddpm"},
    {"sampler": "ddim", "eta": 0.0},
    {"sampler": "ddim", "eta": 0.5},
    {"sampler": "vp_sde"},
    {"sampler": "pf_ode"},
    {"sampler": "one_step"},
]
Diffusion = Callable[..., Purifier]
Numbers = Callable[..., Tensor]
NoiseOf = Callable[..., Noise]


def control(settings: dict[str, Any]) -> Purifier:
    return make_purifier(settings, None, SHAPE, CPU)


@pytest.fixture(params=SAMPLERS, ids=lambda s: "-".join(str(v) for v in s.values()))
def sampler(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(5, *SHAPE)


# --- limits


@pytest.mark.parametrize("clip", ["none", "clamp"])
def test_t_star_0_is_exactly_the_identity(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor, sampler: dict[str, Any], clip: str
) -> None:
    purifier = diffusion(unet, **sampler, t_star=0, clip=clip)
    assert purifier.num_steps == 0
    assert torch.equal(purify(purifier, images, fixed_noise(5)), images)


def test_reverse_only_starts_at_the_image_and_ignores_the_forward_noise(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor
) -> None:
    purifier = diffusion(unet, sampler="ddim", eta=0.0, forward_noise=False)
    assert torch.equal(purifier.start(images, fixed_noise(5)), 2 * images - 1)
    assert torch.equal(purify(purifier, images, fixed_noise(5)), purify(purifier, images, fixed_noise(5, draw=1)))


def test_reverse_only_ddpm_depends_on_the_reverse_noise(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor
) -> None:
    purifier = diffusion(unet, forward_noise=False)
    one, two = fixed_noise(5), fixed_noise(5, draw=1)
    assert torch.equal(purify(purifier, images, one), purify(purifier, images, two.hold([REVERSE], one)))
    assert not torch.equal(purify(purifier, images, one), purify(purifier, images, two))


@pytest.mark.parametrize("t_star", [1, 100, 101])
def test_the_forward_process_noises_to_index_t_star_minus_one(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor, t_star: int
) -> None:
    noise = fixed_noise(5)
    abar = unet.schedule.level(t_star - 1).alpha_bar
    expected = math.sqrt(abar) * (2 * images - 1) + math.sqrt(1 - abar) * noise.normal(FORWARD)
    for sampler in ({"sampler": "one_step"}, {"sampler": "vp_sde", "steps": 1}, {"steps": 1}):
        start = diffusion(unet, t_star=t_star, **sampler).start(images, noise)
        torch.testing.assert_close(start, expected, rtol=1e-6, atol=1e-6)


def test_a_point_distribution_is_restored_exactly_by_one_step(
    schedule: Any,
    isotropic: Callable[[float, float], Epsilon],
    diffusion: Diffusion,
    fixed_noise: NoiseOf,
    images: Tensor,
) -> None:
    purifier = diffusion(Denoiser(isotropic(0.3, 0.0), schedule), sampler="one_step")
    out = purify(purifier, images, fixed_noise(5))
    torch.testing.assert_close(out, torch.full_like(out, 0.65), rtol=0, atol=1e-6)


# --- the same noise, the same image


def test_the_same_noise_twice_is_bit_equal_and_another_draw_is_not(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor, sampler: dict[str, Any]
) -> None:
    purifier = diffusion(unet, **sampler)
    once, twice = (purify(purifier, images, fixed_noise(5)) for _ in range(2))
    assert torch.equal(once, twice)
    assert not torch.equal(once, purify(purifier, images, fixed_noise(5, draw=1)))


@pytest.mark.usefixtures("global_random_state")
def test_purifying_leaves_the_global_random_state_alone(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor, sampler: dict[str, Any]
) -> None:
    purify(diffusion(unet, **sampler), images, fixed_noise(5))


def test_an_image_is_purified_bit_equally_whatever_its_companions(
    unet: Denoiser, diffusion: Diffusion, images: Tensor, sampler: dict[str, Any]
) -> None:
    purifier, source = diffusion(unet, **sampler), NoiseSource(0, "fixed", SHAPE)
    whole = purify(purifier, images, source(range(5)))
    for order in ([4, 2, 0, 1, 3], [1, 1, 1, 1, 1]):
        assert torch.equal(purify(purifier, images[order], source(order)), whole[order])


def test_a_batch_equals_its_images_one_by_one(
    unet: Denoiser, diffusion: Diffusion, images: Tensor, sampler: dict[str, Any]
) -> None:
    purifier, source = diffusion(unet, **sampler), NoiseSource(0, "fixed", SHAPE)
    whole = purify(purifier, images, source(range(5)))
    singly = torch.cat([purify(purifier, images[i : i + 1], source([i])) for i in range(5)])
    torch.testing.assert_close(whole, singly, rtol=0, atol=1e-5)


# --- clipping


def single_step(denoiser: Denoiser, clip: str) -> DiffusionPurifier:
    return DiffusionPurifier(
        denoiser, tuple(ddpm(denoiser.schedule, t_star=1, steps=1, variance="fixed_small")), 1.0, clip, False
    )


@pytest.mark.parametrize(
    ("clip", "largest", "slope"), [("none", 2.0, 1.0), ("clamp", 1.0, 0.0), ("straight_through", 1.0, 1.0)]
)
def test_clipping_the_data_estimate_masks_the_gradient_unless_straight_through(
    schedule: Any, fixed_noise: NoiseOf, clip: str, largest: float, slope: float
) -> None:
    """State 1.2 and predicted noise 0 at index 0: the data estimate is 1.2 / sqrt(abar_0), beyond 1."""
    purifier = single_step(Denoiser(lambda u, level: torch.zeros_like(u), schedule), clip)
    root = math.sqrt(schedule.level(0).alpha_bar)
    state = torch.full((1, 1, 1, 1), 1.2, requires_grad=True)
    out = purifier.step(0, state, state, fixed_noise(1, 1, 1, 1))
    (gradient,) = torch.autograd.grad(out.sum(), state)
    assert out.item() == pytest.approx(min(1.2 / root, largest), rel=1e-6)
    assert float(gradient) == pytest.approx(slope / root, rel=1e-6)


def test_half_way_clipping_masks_part_of_the_gradient(schedule: Any, fixed_noise: NoiseOf) -> None:
    """At index 50 of a 100-step grid the state keeps a weight of its own: slope .67 clipped, 1.005 not."""
    denoiser, slopes = Denoiser(lambda u, level: torch.zeros_like(u), schedule), {}
    table = ddpm(schedule, t_star=51, steps=51, variance="fixed_small")
    coarse = replace(table[0], **_posterior_weights(schedule.level(50).alpha_bar, schedule.level(40).alpha_bar))
    for clip in ("none", "clamp", "straight_through"):
        state = torch.full((1, 1, 1, 1), 1.2, dtype=torch.float64, requires_grad=True)
        out = DiffusionPurifier(denoiser, (coarse,), 1.0, clip, False).step(0, state, state, fixed_noise(1, 1, 1, 1))
        slopes[clip] = float(torch.autograd.grad(out.sum(), state)[0])
    assert slopes == pytest.approx({"none": 1.005, "clamp": 0.67, "straight_through": 1.005}, abs=5e-3)


def _posterior_weights(t: float, s: float) -> dict[str, float]:
    return {
        "x0_weight": math.sqrt(s) * (1 - t / s) / (1 - t),
        "state_weight": math.sqrt(t / s) * (1 - s) / (1 - t),
        "noise_weight": 0.0,
    }


@pytest.mark.parametrize("clip", ["clamp", "straight_through"])
def test_inactive_clipping_changes_nothing(
    isotropic: Callable[[float, float], Epsilon], schedule: Any, diffusion: Diffusion, fixed_noise: NoiseOf, clip: str
) -> None:
    denoiser, images = Denoiser(isotropic(0.0, 1e-3), schedule), torch.full((5, *SHAPE), 0.5)
    plain, clipped = (purify(diffusion(denoiser, clip=c), images, fixed_noise(5)) for c in ("none", clip))
    torch.testing.assert_close(clipped, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("clamp", [True, False])
def test_the_result_is_clamped_only_on_request(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor, clamp: bool
) -> None:
    free = purify(diffusion(unet), images, fixed_noise(5))
    out = purify(diffusion(unet, clamp_output=clamp), images, fixed_noise(5))
    assert float(free.min()) < 0 or float(free.max()) > 1
    assert torch.equal(out, free.clamp(0, 1) if clamp else free)


# --- controls


def test_the_identity_returns_the_images(fixed_noise: NoiseOf, images: Tensor) -> None:
    assert torch.equal(purify(control({"kind": "identity"}), images, fixed_noise(5)), images)


def test_the_constant_has_one_value_and_a_zero_gradient(fixed_noise: NoiseOf, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    out = purify(control({"kind": "constant", "value": 0.25}), leaf, fixed_noise(5))
    assert torch.equal(out, torch.full_like(images, 0.25))
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.equal(gradient, torch.zeros_like(images))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.4])
def test_blur_keeps_constants_and_is_the_gaussian_filter(
    fixed_noise: NoiseOf, random_tensor: Numbers, sigma: float
) -> None:
    purifier = make_purifier({"kind": "blur", "sigma": sigma}, None, (3, 12, 12), CPU)
    noise, flat, images = fixed_noise(2, 3, 12, 12), torch.full((2, 3, 12, 12), 0.7), random_tensor(2, 3, 12, 12)
    torch.testing.assert_close(purify(purifier, flat, noise), flat, rtol=0, atol=1e-6)
    reach = math.ceil(3 * sigma)
    expected = gaussian_filter(images.numpy(), sigma, mode="nearest", radius=reach, axes=(2, 3))
    torch.testing.assert_close(purify(purifier, images, noise), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_the_blur_kernel_sums_to_one(fixed_noise: NoiseOf) -> None:
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1.0
    kernel = purify(control({"kind": "blur", "sigma": 1.0}), point, fixed_noise(1, 1, 9, 9))
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "kind", [{"kind": "identity"}, {"kind": "constant", "value": 0.5}, {"kind": "blur", "sigma": 1.0}]
)
def test_controls_have_no_steps(fixed_noise: NoiseOf, images: Tensor, kind: dict[str, Any]) -> None:
    purifier = control(kind)
    assert purifier.num_steps == 0
    with pytest.raises(IndexError, match=r"expected no step .* got step 0"):
        purifier.step(0, images, images, fixed_noise(5))


# --- a purifier of one's own

SOURCE_CODE = """
def make_purifier(params, image_shape, device):
    assert image_shape == (1, 8, 8) and device.type == "cpu"
    return lambda images, noise: images + params["strength"] * noise.normal("own", step=3)
"""


def own(path: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "python", "path": str(path), "factory": "make_purifier", "params": {"strength": 0.5}, **changes}


def test_a_python_file_becomes_a_purifier(tmp_path: Path, fixed_noise: NoiseOf, images: Tensor) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE_CODE)
    noise = fixed_noise(5)
    out = purify(control(own(path)), images, noise)
    assert torch.equal(out, images + 0.5 * noise.normal("own", 3))


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("absent.py", None, {}, "expected a Python file at .*absent.py, found none — correct `path`"),
        ("mine.txt", SOURCE_CODE, {}, "expected a Python file at .*mine.txt, got something .* use a .py file"),
        ("mine.py", SOURCE_CODE, {"factory": "missing"}, "expected a function 'missing' in .* correct `factory`"),
    ],
    ids=["missing file", "not a module", "missing factory"],
)
def test_mistakes_in_the_entry_are_named(
    tmp_path: Path, name: str, content: str | None, changes: dict[str, str], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        control(own(tmp_path / name, **changes))


# --- refusals of make_purifier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": "sometimes"}, r"expected clip to be one of .*, got 'sometimes'"),
        ({"t_star": 1001}, r"expected t_star <= 1000 \(the schedule's length\), got 1001"),
        ({"variance": "learned"}, "expected variance to be one of"),
        ({"t_star": 3, "steps": 5}, "expected 1 <= steps <= t_star = 3, got 5"),
        ({"t_star": -1}, "t_star"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_impossible_diffusion_settings_are_refused(
    unet: Denoiser, diffusion: Diffusion, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        diffusion(unet, **changes)


def test_a_diffusion_purifier_needs_a_denoiser(diffusion: Diffusion) -> None:
    with pytest.raises(ValueError, match="expected a denoiser for a purifier of kind 'diffusion', got none"):
        diffusion(None)


def test_the_image_is_noised_to_the_index_that_is_asked_for(
    curved: Denoiser, diffusion: Diffusion, random_tensor: Numbers, fixed_noise: NoiseOf
) -> None:
    """t* = 100 is index 99 here and in DiffPure, 100 in the code of ADDT and ADBM, which denoises from 99."""
    images, noise = random_tensor(2, 1, 8, 8), fixed_noise(2)
    for options, index in (({}, 99), ({"noise_index": 100}, 100)):
        purifier = diffusion(curved, **options)
        alpha_bar = float(curved.schedule.alpha_bars[index])
        expected = alpha_bar**0.5 * (2 * images - 1) + (1 - alpha_bar) ** 0.5 * noise.normal("forward")
        torch.testing.assert_close(purifier.start(images, noise), expected)
        assert purifier.table[0].level.position == 99
