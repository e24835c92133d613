"""The Jacobian at frozen noise: linear purifiers of prescribed singular values, nonlinear ones by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.measure.compression import isotropic
from purification.measure.jacobian import (
    Pull,
    full_jacobian,
    interval,
    largest_gain,
    mean_square_gain,
    pullback,
    push,
    quadrature,
    singular_values,
    trace_samples,
)
from purification.models.denoisers import Denoiser, GaussianEpsilon
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier, Purifier, purify
from purification.schedule import Schedule

SHAPE = (1, 6, 6)
SIZE = 36
SPECTRUM = torch.cat([torch.tensor([3.0, 1.5]), torch.linspace(1.0, 0.0, SIZE - 2)]).double()
SOURCE = NoiseSource(seed=0, role="fixed", shape=SHAPE, dtype=torch.float64)
Numbers = Callable[..., Tensor]


@pytest.fixture(scope="module")
def matrix(random_tensor: Numbers) -> Tensor:
    """A matrix that is not symmetric, with singular values SPECTRUM."""
    left, right = (
        torch.linalg.qr(random_tensor(SIZE, SIZE, seed=seed, normal=True, dtype=torch.float64))[0] for seed in (1, 2)
    )
    return left @ torch.diag(SPECTRUM) @ right.T


@pytest.fixture(scope="module")
def linear(matrix: Tensor) -> Purifier:
    """f(x; w) = A x + w."""
    return FunctionPurifier(lambda x, noise: (x.flatten(1) @ matrix.T).view_as(x) + noise.normal("own"))


@pytest.fixture(scope="module")
def image(random_tensor: Numbers) -> Tensor:
    return random_tensor(*SHAPE, dtype=torch.float64)


def pull_of(purifier: Purifier, image: Tensor, **changes: Any) -> Pull:
    return pullback(purifier, image, 4, SOURCE, **{"batch_size": 7, "mode": "replay", "kept_steps": 0, **changes})


def differences(purifier: Purifier, image: Tensor, step: float = 1e-5) -> Tensor:
    """Jacobian by central differences, columns = inputs."""
    shifts = step * torch.eye(SIZE, dtype=torch.float64).view(SIZE, *SHAPE)
    noise = SOURCE([4] * SIZE)
    up, down = (purify(purifier, image + sign * shifts, noise).flatten(1) for sign in (1, -1))
    return ((up - down) / (2 * step)).T


@pytest.mark.parametrize("batch_size", [1, 7, 36, 50])
def test_the_full_jacobian_of_a_linear_purifier_is_its_matrix(
    linear: Purifier, image: Tensor, matrix: Tensor, batch_size: int
) -> None:
    jacobian = full_jacobian(pull_of(linear, image, batch_size=batch_size), image)
    torch.testing.assert_close(jacobian, matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(singular_values(jacobian), SPECTRUM, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"sampler": "ddim", "eta": 0.0}, {"sampler": "vp_sde"}], ids=str)
@pytest.mark.parametrize("kept_steps", [0, 5])
def test_the_jacobian_of_a_diffusion_purifier_is_that_of_finite_differences(
    curved: Denoiser, diffusion: Callable[..., Purifier], image: Tensor, settings: dict[str, Any], kept_steps: int
) -> None:
    purifier = diffusion(curved, **settings)
    jacobian = full_jacobian(pull_of(purifier, image, kept_steps=kept_steps), image)
    expected = differences(purifier, image)
    assert float((jacobian - expected).norm() / expected.norm()) < 1e-8


def test_the_jacobian_is_taken_at_the_fixed_noise_of_the_image(
    curved: Denoiser, diffusion: Callable[..., Purifier], image: Tensor
) -> None:
    purifier, options = diffusion(curved), {"batch_size": 7, "mode": "replay", "kept_steps": 0}
    one, two, other = (full_jacobian(pullback(purifier, image, i, SOURCE, **options), image) for i in (4, 4, 5))
    assert torch.equal(one, two) and not torch.allclose(one, other, atol=1e-4)


def test_the_jacobian_of_one_step_denoising_of_gaussian_data_is_the_wiener_filter(
    schedule: Schedule, diffusion: Callable[..., Purifier], image: Tensor
) -> None:
    """Singular values abar lambda / (abar lambda + 1 - abar), lambda the eigenvalues of the data's covariance."""
    vectors = torch.linalg.qr(torch.eye(SIZE, dtype=torch.float64) + SPECTRUM.outer(SPECTRUM.flip(0)))[0]
    epsilon = GaussianEpsilon(torch.zeros(SHAPE, dtype=torch.float64), vectors, SPECTRUM)
    purifier = diffusion(Denoiser(epsilon, schedule), sampler="one_step")
    abar = schedule.level(99).alpha_bar
    values = singular_values(full_jacobian(pull_of(purifier, image), image))
    torch.testing.assert_close(values, abar * SPECTRUM / (abar * SPECTRUM + 1 - abar), rtol=1e-9, atol=1e-12)


def test_hutchinson_samples_have_the_mean_square_singular_value_within_their_error(
    linear: Purifier, image: Tensor, random_tensor: Numbers
) -> None:
    probes = random_tensor(400, SIZE, seed=9, normal=True, dtype=torch.float64)
    samples = mean_square_gain(pull_of(linear, image), probes)
    error = float(samples.std()) / math.sqrt(400)
    assert samples.shape == (400,)
    assert float(samples.mean()) == pytest.approx(float(SPECTRUM.square().mean()), abs=3 * error)
    assert error < 0.05 * float(samples.mean())


def test_hutchinson_is_exact_over_an_orthogonal_basis(linear: Purifier, image: Tensor) -> None:
    samples = mean_square_gain(pull_of(linear, image), math.sqrt(SIZE) * torch.eye(SIZE, dtype=torch.float64))
    assert float(samples.mean()) == pytest.approx(float(SPECTRUM.square().mean()), rel=1e-10)


def test_push_is_the_product_with_the_matrix(
    linear: Purifier, image: Tensor, matrix: Tensor, random_tensor: Numbers
) -> None:
    tangents = random_tensor(5, SIZE, seed=3, normal=True, dtype=torch.float64)
    torch.testing.assert_close(push(linear, image, 4, SOURCE, tangents), tangents @ matrix.T, rtol=0, atol=1e-12)


def test_push_and_pull_are_adjoint_through_a_nonlinear_chain(
    curved: Denoiser, diffusion: Callable[..., Purifier], image: Tensor, random_tensor: Numbers
) -> None:
    purifier = diffusion(curved)
    tangents, cotangents = (random_tensor(5, SIZE, seed=s, normal=True, dtype=torch.float64) for s in (3, 4))
    pushed = push(purifier, image, 4, SOURCE, tangents)
    torch.testing.assert_close(pushed, tangents @ differences(purifier, image).T, rtol=1e-6, atol=1e-8)
    inner = (pushed * cotangents).sum(dim=1)
    pulled = (tangents * pull_of(purifier, image)(cotangents)).sum(dim=1)
    torch.testing.assert_close(inner, pulled, rtol=1e-9, atol=1e-9)


def test_the_largest_gain_rises_to_the_largest_singular_value(
    linear: Purifier, image: Tensor, random_tensor: Numbers
) -> None:
    start = random_tensor(1, SIZE, seed=5, normal=True, dtype=torch.float64)

    def gain(iterations: int) -> float:
        return largest_gain(
            pull_of(linear, image), lambda t: push(linear, image, 4, SOURCE, t), start, iterations=iterations
        )

    values = [gain(n) for n in (1, 2, 3, 5, 30)]
    assert values == sorted(values) and values[0] < 2.9
    assert values[-1] == pytest.approx(3.0, rel=1e-9) and max(values) <= 3.0 + 1e-12


def test_a_constant_has_gain_zero(image: Tensor, random_tensor: Numbers) -> None:
    constant = FunctionPurifier(lambda x, noise: 0.0 * x + 0.5)
    pull, start = pull_of(constant, image), random_tensor(1, SIZE, dtype=torch.float64)
    assert float(full_jacobian(pull, image).abs().max()) == 0
    assert largest_gain(pull, lambda t: push(constant, image, 4, SOURCE, t), start, iterations=3) == 0


@pytest.mark.parametrize("scale", [1e-3, 0.1])
def test_compression_is_the_rms_singular_value(
    linear: Purifier, image: Tensor, random_tensor: Numbers, scale: float
) -> None:
    probes = scale * (2 * random_tensor(500, *SHAPE, seed=6, dtype=torch.float64) - 1)

    def apply(inputs: Tensor, draws: list[int]) -> Tensor:
        return purify(linear, inputs, SOURCE([4] * len(inputs), draws))

    row = isotropic(apply, image, apply(image[None], [0])[0], probes)
    assert row["compression"] == pytest.approx(float(SPECTRUM.square().mean().sqrt()), rel=0.05)
    rms = probes.flatten(1).square().sum(dim=1).mean().sqrt()
    spread = (apply(image + probes, [0] * 500) - apply(image[None], [0])).flatten(1).square().sum(dim=1).mean().sqrt()
    assert float(spread / rms) == pytest.approx(float(SPECTRUM.square().mean().sqrt()), rel=0.03)


def test_small_probes_see_the_jacobian_of_a_nonlinear_purifier(
    curved: Denoiser, diffusion: Callable[..., Purifier], image: Tensor, random_tensor: Numbers
) -> None:
    """Compression at small probes tends to sqrt(mean sigma^2), the root of E ||J u||^2 / E ||u||^2."""
    purifier = diffusion(curved)
    expected = float(singular_values(full_jacobian(pull_of(purifier, image), image)).square().mean().sqrt())

    def apply(inputs: Tensor, draws: list[int]) -> Tensor:
        return purify(purifier, inputs, SOURCE([4] * len(inputs), draws))

    probes = 1e-3 * (2 * random_tensor(300, *SHAPE, seed=7, dtype=torch.float64) - 1)
    row = isotropic(apply, image, apply(image[None], [0])[0], probes)
    assert row["compression"] == pytest.approx(expected, rel=0.1)


SHARE = float((SPECTRUM < 0.25).double().mean())


def covered(truth: float, samples: Callable[[int], Tensor], seeds: int) -> int:
    """How often the interval from a seed's samples has the truth in it."""
    ends = [interval(samples(seed), 0.95)[1:] for seed in range(seeds)]
    return sum(low <= truth <= high for low, high in ends)


@pytest.mark.parametrize("quantity", ["mean square", "trace", "share"])
def test_intervals_cover_the_truth_at_their_rate(quantity: str, matrix: Tensor, random_tensor: Numbers) -> None:
    """Between 91 and 99 % of 300 seeds: 95 % within four standard errors, less the skewness of squares."""

    def samples(seed: int) -> Tensor:
        probes = random_tensor(16, SIZE, seed=1000 + seed, normal=True, dtype=torch.float64)
        if quantity == "mean square":
            return mean_square_gain(lambda rows: rows @ matrix, probes)
        if quantity == "trace":
            return trace_samples(lambda rows: rows @ matrix, probes)
        energy = (probes @ right_vectors(matrix)).square()  # what the quadrature gives at full length, tested below
        return (energy[:, SPECTRUM < 0.25]).sum(dim=1) / energy.sum(dim=1)

    truth = {"mean square": float(SPECTRUM.square().mean()), "trace": float(matrix.trace()), "share": SHARE}[quantity]
    count = 300
    assert 0.90 * count <= covered(truth, samples, count) <= 0.99 * count


def right_vectors(matrix: Tensor) -> Tensor:
    """Right singular vectors, columns."""
    return torch.linalg.svd(matrix)[2].T


def test_the_quadrature_of_full_length_is_the_spectrum_seen_from_its_direction(
    linear: Purifier, image: Tensor, matrix: Tensor, random_tensor: Numbers
) -> None:
    start = random_tensor(1, SIZE, seed=5, normal=True, dtype=torch.float64)
    nodes, weights = quadrature(
        pull_of(linear, image, batch_size=1), lambda t: push(linear, image, 4, SOURCE, t), start, steps=SIZE
    )
    torch.testing.assert_close(nodes, SPECTRUM.sort(descending=True).values, rtol=0, atol=1e-6)
    expected = (start @ right_vectors(matrix)).square().flatten() / start.square().sum()
    for power in (0, 2, 4):
        assert float((weights * nodes**power).sum()) == pytest.approx(float((expected * SPECTRUM**power).sum()))
    below = float(weights[nodes < 0.25].sum())
    assert below == pytest.approx(float(expected[SPECTRUM < 0.25].sum()), abs=1e-6)


def test_a_short_quadrature_estimates_the_share_of_small_singular_values(
    matrix: Tensor, random_tensor: Numbers
) -> None:
    """Twelve steps: within .04 of the truth on average over 200 directions, moments exact."""
    found = [
        quadrature(lambda c: c @ matrix, lambda t: t @ matrix.T, start[None], steps=12)
        for start in random_tensor(200, SIZE, seed=6, normal=True, dtype=torch.float64)
    ]
    share = sum(float(weights[nodes < 0.25].sum()) for nodes, weights in found) / 200
    square = torch.stack([(weights * nodes**2).sum() for nodes, weights in found])
    assert share == pytest.approx(SHARE, abs=0.04)
    assert interval(square, 0.999)[1] <= float(SPECTRUM.square().mean()) <= interval(square, 0.999)[2]


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_quadrature_ends_early_where_nothing_is_left(rank: int, random_tensor: Numbers) -> None:
    values = torch.zeros(SIZE, dtype=torch.float64)
    values[:rank] = 2.0
    start = random_tensor(1, SIZE, seed=7, normal=True, dtype=torch.float64)
    nodes, weights = quadrature(lambda c: c * values, lambda t: t * values, start, steps=10)
    part = float(start[0, :rank].square().sum() / start.square().sum())
    assert nodes.shape == weights.shape == (10,)
    assert float(weights.sum()) == pytest.approx(1.0) and float(weights[nodes > 1].sum()) == pytest.approx(part)


def test_an_interval_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="expected at least 2 samples for an interval, got 1"):
        interval(torch.ones(1), 0.95)
