"""Distances to the clean image: known values of the metrics, and the path of a purification."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.measure.distances import METRICS, distances_along, l2, linf, path, ssim
from purification.models.denoisers import Denoiser, Epsilon, resized
from purification.noise import FORWARD, Noise
from purification.purifiers import FunctionPurifier, Purifier, ResizedPurifier, purify
from purification.schedule import Schedule

Diffusion = Callable[..., Purifier]
Numbers = Callable[..., Tensor]
NoiseOf = Callable[..., Noise]
SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "ddpm"},
    {"sampler": "ddpm", "forward_noise": False},
    {"sampler": "ddim", "eta": 0.0, "clamp_output": True},
    {"sampler": "vp_sde"},
    {"sampler": "pf_ode"},
    {"sampler": "one_step"},
    {"t_star": 0},
]


def windowed_ssim(a: Tensor, b: Tensor) -> float:
    """Mean over channels and 7x7 windows of Wang et al. 2004, eq. 13, with unbiased moments and data range 1."""
    values = []
    for x, y in zip(a.double(), b.double(), strict=True):
        for i in range(x.shape[0] - 6):
            for j in range(x.shape[1] - 6):
                pair = torch.stack([w[i : i + 7, j : j + 7].flatten() for w in (x, y)])
                (mx, my), c = pair.mean(dim=1).tolist(), torch.cov(pair)
                means = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
                values.append(means * float((2 * c[0, 1] + 9e-4) / (c[0, 0] + c[1, 1] + 9e-4)))
    return sum(values) / len(values)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(3, 1, 8, 8)


def test_l2_and_linf_of_a_known_difference() -> None:
    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    b[0, 1, 2, 3], b[1] = -0.5, 0.25
    assert l2(a, b).tolist() == pytest.approx([0.5, 0.25 * math.sqrt(48)])
    assert linf(a, b).tolist() == pytest.approx([0.5, 0.25])


def test_identical_images_have_similarity_one_and_distance_zero(images: Tensor) -> None:
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 3, abs=1e-7)
    assert l2(images, images).tolist() == linf(images, images).tolist() == [0.0] * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_the_windowed_formula_written_out(random_tensor: Numbers, channels: int) -> None:
    a, b = random_tensor(2, channels, 9, 9), random_tensor(2, channels, 9, 9, seed=1)
    expected = [windowed_ssim(x, y) for x, y in zip(a, 0.7 * a + 0.3 * b, strict=True)]
    assert ssim(a, 0.7 * a + 0.3 * b).tolist() == pytest.approx(expected, abs=1e-5)
    assert max(ssim(a, 0.3 * a + 0.7 * b).tolist()) < min(expected) < 1


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_metrics_are_symmetric_and_per_image(
    metric: Callable[[Tensor, Tensor], Tensor], random_tensor: Numbers
) -> None:
    a, b = random_tensor(4, 1, 8, 8), random_tensor(4, 1, 8, 8, seed=1)
    values = metric(a, b)
    assert values.shape == (4,)
    torch.testing.assert_close(metric(b, a), values)
    assert torch.equal(metric(a[[2]], b[[2]]), values[[2]])


@pytest.mark.parametrize("settings", SAMPLERS, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_the_path_starts_at_the_image_ends_purified_and_moves_forward(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor, settings: dict[str, Any]
) -> None:
    purifier, noise = diffusion(unet, **settings), fixed_noise(3)
    points = list(path(purifier, images, noise))
    assert points[0][:2] == ("forward", 0.0) and torch.equal(points[0][2], images)
    assert points[-1][:2] == ("reverse", 2.0) and torch.equal(points[-1][2], purify(purifier, images, noise))
    positions = [position for _, position, _ in points]
    assert all(a < b for a, b in pairwise(positions))
    assert all((half == "forward") == (position < 1) for half, position, _ in points)
    assert sum(half == "reverse" for half, _, _ in points) == purifier.num_steps + 1


def test_the_forward_half_follows_the_noise_of_the_draw(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor
) -> None:
    """Between image and start stand the states at the reverse indices 19, 39, 59, 79; the start is index 99."""
    noise = fixed_noise(3)
    forward = [state for half, _, state in path(diffusion(unet), images, noise) if half == "forward"]
    assert len(forward) == 5
    for state, index in zip(forward[1:], (19, 39, 59, 79), strict=True):
        abar = unet.schedule.level(index).alpha_bar
        u = math.sqrt(abar) * (2 * images - 1) + math.sqrt(1 - abar) * noise.normal(FORWARD)
        torch.testing.assert_close(state, (u + 1) / 2, rtol=0, atol=1e-6)
    start = next(state for half, position, state in path(diffusion(unet), images, noise) if position == 1.0)
    torch.testing.assert_close(start, (diffusion(unet).start(images, noise) + 1) / 2, rtol=0, atol=1e-6)


def test_distances_grow_with_noise_and_shrink_towards_a_known_image(
    schedule: Schedule, isotropic: Callable[[float, float], Epsilon], diffusion: Diffusion, fixed_noise: NoiseOf
) -> None:
    """For data that are one image, purification ends there: the distance rises to the start and falls to zero."""
    purifier = diffusion(Denoiser(isotropic(0.0, 0.0), schedule), sampler="ddim", eta=0.0, steps=10)
    clean = torch.full((3, 1, 8, 8), 0.5)
    rows = distances_along(purifier, clean, clean, fixed_noise(3))
    distance = torch.stack([row["l2"] for row in rows]).mean(dim=1).tolist()
    top = distance.index(max(distance))
    assert rows[top]["position"] == 1.0 and distance[0] == 0 and distance[-1] == pytest.approx(0, abs=1e-5)
    assert distance[: top + 1] == sorted(distance[: top + 1]) and distance[top:] == sorted(distance[top:], reverse=True)
    expected = math.sqrt(1 - schedule.level(99).alpha_bar) / 2 * math.sqrt(64)
    assert distance[top] == pytest.approx(expected, rel=0.15)


def test_records_hold_every_metric_of_the_state_against_the_clean_image(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor
) -> None:
    start, noise = (images + 0.05).clamp(0, 1), fixed_noise(3)
    rows = distances_along(diffusion(unet), start, images, noise)
    for row, (half, position, state) in zip(rows, path(diffusion(unet), start, noise), strict=True):
        assert (row["half"], row["position"]) == (half, position)
        assert all(torch.equal(row[name], metric(state, images)) for name, metric in METRICS.items())


def test_a_purifier_of_another_size_is_measured_at_its_own(
    unet: Denoiser, diffusion: Diffusion, fixed_noise: NoiseOf, images: Tensor
) -> None:
    start, noise = (images + 0.05).clamp(0, 1), fixed_noise(3)
    rows = distances_along(ResizedPurifier(diffusion(unet), 16, (8, 8)), start, images, noise)
    known = distances_along(diffusion(unet), resized(start, 16), resized(images, 16), noise.sized(16))
    for row, expected in zip(rows, known, strict=True):
        assert row["position"] == expected["position"]
        assert all(torch.equal(row[name], expected[name]) for name in METRICS)
    assert torch.equal(rows[0]["linf"], linf(resized(start, 16), resized(images, 16)))


def test_a_purifier_without_steps_has_two_points(fixed_noise: NoiseOf, images: Tensor) -> None:
    points = list(path(FunctionPurifier(lambda x, noise: x / 2), images, fixed_noise(3)))
    assert [(half, position) for half, position, _ in points] == [("forward", 0.0), ("reverse", 2.0)]
    assert torch.equal(points[1][2], images / 2)
