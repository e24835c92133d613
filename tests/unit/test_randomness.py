"""Noise against input: known correlations and radii, and purifiers whose decomposition is exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from purification.measure.compression import directional, isotropic
from purification.measure.randomness import (
    CONDITIONS,
    centroid_radius,
    cloud_directions,
    decompose,
    direction_correlation,
    probes_of,
)
from purification.noise import NoiseSource

SHAPE = (3, 16, 16)
SIZE = 768
EPSILON = 8 / 255
SOURCE = NoiseSource(seed=0, role="probe", shape=SHAPE, dtype=torch.float64)
Numbers = Callable[..., Tensor]
Purify = Callable[[Tensor, list[int]], Tensor]


@pytest.fixture
def image(random_tensor: Numbers) -> Tensor:
    return random_tensor(*SHAPE, dtype=torch.float64)


@pytest.fixture
def probes() -> Tensor:
    return probes_of(SOURCE, 5, 64, EPSILON)


def affine(gain: float, spread: float) -> Purify:
    """f(x; w) = gain x + spread w."""

    def purify(inputs: Tensor, draws: list[int]) -> Tensor:
        noise = NoiseSource(1, "fixed", SHAPE, dtype=torch.float64)([0] * len(draws), draws)
        return gain * inputs + spread * noise.normal("own")

    return purify


# --- probes


def test_probes_have_the_norm_of_uniform_noise() -> None:
    """E ||u||_2 = eps sqrt(D / 3) up to a relative .1 / D, unclipped: 1.004 for 32x32x3 and 8/255."""
    source = NoiseSource(seed=0, role="probe", shape=(3, 32, 32))
    norms = probes_of(source, 0, 200, EPSILON).flatten(1).double().norm(dim=1)
    assert EPSILON * math.sqrt(3072 / 3) == pytest.approx(1.004, abs=5e-4)
    assert float(norms.mean()) == pytest.approx(1.0039, abs=4 * 0.447 / math.sqrt(3072 * 200))
    assert float(norms.std() / norms.mean()) == pytest.approx(0.447 / math.sqrt(3072), rel=0.2)


def test_probes_fill_the_ball_and_belong_to_image_seed_and_stream(probes: Tensor) -> None:
    assert probes.shape == (64, *SHAPE)
    assert 0.999 * EPSILON < float(probes.abs().max()) <= EPSILON
    assert torch.equal(probes_of(SOURCE, 5, 10, EPSILON), probes[:10])
    for other in (probes_of(SOURCE, 6, 64, EPSILON), probes_of(SOURCE, 5, 64, EPSILON, stream="second")):
        assert not torch.equal(other, probes)
    torch.testing.assert_close(probes_of(SOURCE, 5, 64, 2 * EPSILON), 2 * probes)


# --- correlation and radius


def test_direction_correlation_is_the_mean_off_diagonal_of_numpys(random_tensor: Numbers) -> None:
    vectors = random_tensor(12, 2, 5, 5, normal=True) + random_tensor(1, 2, 5, 5, seed=1, normal=True)
    matrix = np.corrcoef(vectors.double().numpy().reshape(12, 50))
    expected = matrix[~np.eye(12, dtype=bool)].mean()
    assert direction_correlation(vectors) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_direction_correlation_is_the_share_of_the_common_variance(random_tensor: Numbers, share: float) -> None:
    common, own = random_tensor(1, 1, 100, 200, normal=True), random_tensor(20, 1, 100, 200, seed=1, normal=True)
    vectors = math.sqrt(share) * common + math.sqrt(1 - share) * own
    assert direction_correlation(vectors) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_centroid_radius_does_not_depend_on_the_number_of_points(random_tensor: Numbers, n: int) -> None:
    """Gaussian clouds of standard deviation 2 in D dimensions: radius 2 sqrt(D) (1 - 1 / 4D)."""
    clouds = 2 * random_tensor(40, n, 200, normal=True, dtype=torch.float64)
    radii = [centroid_radius(cloud) for cloud in clouds]
    expected = 2 * math.sqrt(200) * (1 - 1 / 800)
    assert np.mean(radii) == pytest.approx(expected, abs=5 * np.std(radii) / math.sqrt(40))
    assert np.std(radii) / expected < 0.06


def test_centroid_radius_ignores_where_the_cloud_is(random_tensor: Numbers) -> None:
    cloud = random_tensor(8, 20, normal=True, dtype=torch.float64)
    assert centroid_radius(cloud + 7) == pytest.approx(centroid_radius(cloud), rel=1e-9)
    assert centroid_radius(torch.ones(5, 3)) == 0
    assert centroid_radius(torch.tensor([[-1.0], [1.0]])) == pytest.approx(math.sqrt(2))


# --- clouds


def test_conditions_vary_what_they_name(image: Tensor, probes: Tensor) -> None:
    seen: dict[str, tuple[Tensor, list[int]]] = {}

    def purify(inputs: Tensor, draws: list[int]) -> Tensor:
        seen[condition] = (inputs, draws)
        return inputs

    for condition in CONDITIONS:
        cloud_directions(purify, image, probes, condition)
    assert torch.equal(seen["varied"][0], image.expand(64, -1, -1, -1)) and seen["varied"][1] == list(range(1, 65))
    assert torch.equal(seen["fixed"][0], image + probes) and seen["fixed"][1] == [0] * 64
    assert torch.equal(seen["both"][0], image + probes) and seen["both"][1] == list(range(1, 65))


def test_the_identity_has_radius_zero_under_varied_noise_only(image: Tensor, probes: Tensor) -> None:
    row = decompose(lambda inputs, draws: inputs, image, probes)
    assert row["radius_varied"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(row["correlation_varied"])  # no direction: the output is its own input
    assert row["radius_before"] == pytest.approx(EPSILON * math.sqrt(SIZE / 3), rel=0.01)
    assert row["radius_fixed"] == row["radius_both"] == pytest.approx(row["radius_before"], rel=0.01)


def test_an_affine_purifier_decomposes_in_closed_form(image: Tensor) -> None:
    """f = gain x + spread w: radii spread sqrt(D) and gain r0, adding in squares when both vary."""
    gain, spread, epsilon = 0.4, 0.1, 0.3
    row = decompose(affine(gain, spread), image, probes_of(SOURCE, 5, 64, epsilon))
    varied, fixed = spread * math.sqrt(SIZE), gain * epsilon * math.sqrt(SIZE / 3)
    assert row["radius_varied"] == pytest.approx(varied, rel=0.01)
    assert row["radius_fixed"] == pytest.approx(fixed, rel=0.01)
    assert row["radius_both"] == pytest.approx(math.hypot(varied, fixed), rel=0.01)
    change, noise, input_noise = (gain - 1) ** 2 * float(image.var()), spread**2, epsilon**2 / 3  # variances per pixel
    expected = {
        "correlation_varied": change / (change + noise),
        "correlation_from_clean_varied": change / (change + noise),
        "correlation_fixed": (change + noise) / (change + noise + (gain - 1) ** 2 * input_noise),
        "correlation_from_clean_fixed": (change + noise) / (change + noise + gain**2 * input_noise),
        "correlation_both": change / (change + noise + (gain - 1) ** 2 * input_noise),
        "correlation_from_clean_both": change / (change + noise + gain**2 * input_noise),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0.03)


# --- compression


@pytest.mark.parametrize("gain", [0.0, 0.25, 1.0, 1.7])
def test_compression_of_a_scaling_is_its_gain(image: Tensor, probes: Tensor, gain: float) -> None:
    purify = affine(gain, 0.5)
    row = isotropic(purify, image, purify(image[None], [0])[0], probes)
    assert row["radius_before"] == pytest.approx(float(probes.flatten(1).norm(dim=1).mean()), rel=1e-12)
    assert row["compression"] == pytest.approx(gain, rel=0.01, abs=1e-9)
    assert row["compression_anchor"] == pytest.approx(gain, rel=1e-6, abs=1e-9)
    assert row["radius_after"] == pytest.approx(row["compression"] * row["radius_before"], rel=1e-12)


def test_compression_about_the_anchor_sees_a_shift_that_the_centroid_does_not(image: Tensor, probes: Tensor) -> None:
    def purify(inputs: Tensor, draws: list[int]) -> Tensor:
        return 0.5 * inputs + 0.5 * (inputs != image).any(dim=(1, 2, 3), keepdim=True)

    row = isotropic(purify, image, purify(image[None], [0])[0], probes)
    assert row["compression"] == pytest.approx(0.5, rel=0.01)
    assert row["compression_anchor"] > 5


def test_compression_along_a_direction_is_the_ratio_of_distances(random_tensor: Numbers) -> None:
    clean = random_tensor(3, *SHAPE)
    adversarial = clean + torch.tensor([0.1, 0.0, -0.2]).view(3, 1, 1, 1)
    values = directional(3 * adversarial + 1, 3 * clean + 1, adversarial, clean)
    assert values[[0, 2]].tolist() == pytest.approx([3.0, 3.0], rel=1e-4)
    assert bool(torch.isnan(values[1]))


def test_anisotropic_gain_is_the_rms_singular_value(image: Tensor, probes: Tensor) -> None:
    gains = torch.linspace(0, 2, SIZE, dtype=torch.float64).view(SHAPE)
    row = isotropic(lambda inputs, draws: gains * inputs, image, gains * image, probes)
    assert row["compression"] == pytest.approx(float(gains.square().mean().sqrt()), rel=0.02)
    basis = torch.zeros(2, *SHAPE, dtype=torch.float64)
    basis[0, 0, 0, 5], basis[1, 2, 15, 15] = 0.01, 0.01
    along = directional(gains * (image + basis), gains * image, image + basis, image.expand_as(basis))
    assert along.tolist() == pytest.approx([float(gains[0, 0, 5]), 2.0], rel=1e-6)
