"""Threat models: projections onto ball and box, steepest-ascent steps, and the final check."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from purification.balls import NORMS
from purification.threat import TOLERANCE, ThreatModel

Numbers = Callable[..., Tensor]
each_norm = pytest.mark.parametrize("norm", sorted(NORMS))


def tensors(seed: int, spread: float) -> tuple[Tensor, Tensor]:
    """Images in the box, some pixels on its faces, and candidates around them."""
    generator = torch.Generator().manual_seed(seed)
    images = (2 * torch.rand(3, 2, 4, 4, generator=generator) - 0.5).clamp(0, 1)
    return images, images + spread * torch.randn(images.shape, generator=generator)


@settings(max_examples=150)
@given(
    norm=st.sampled_from(sorted(NORMS)),
    epsilon=st.one_of(st.just(0.0), st.floats(1e-6, 3.0)),
    spread=st.floats(0.0, 100.0),
    seed=st.integers(0, 10**6),
)
def test_projection_always_lands_in_ball_and_box(norm: str, epsilon: float, spread: float, seed: int) -> None:
    threat, (images, candidate) = ThreatModel(norm, epsilon), tensors(seed, spread)
    projected = threat.project(candidate, images)
    assert float(projected.min()) >= 0 and float(projected.max()) <= 1
    assert float(NORMS[norm].size(projected - images).max()) <= epsilon + TOLERANCE
    threat.check(projected, images)
    torch.testing.assert_close(threat.project(projected, images), projected, rtol=0, atol=1e-6)


@each_norm
def test_points_of_the_set_are_left_alone(norm: str, random_tensor: Numbers) -> None:
    images = 0.2 + 0.6 * random_tensor(3, 1, 4, 4, dtype=torch.float64)
    inside = images + 0.01 * random_tensor(3, 1, 4, 4, seed=1, dtype=torch.float64)
    torch.testing.assert_close(ThreatModel(norm, 0.2).project(inside, images), inside, rtol=0, atol=1e-15)


def test_linf_projection_is_the_nearest_point_of_ball_and_box(random_tensor: Numbers) -> None:
    images, candidate = tensors(0, 0.5)
    low, high = (images - 0.1).clamp_min(0), (images + 0.1).clamp_max(1)
    expected = torch.maximum(torch.minimum(candidate, high), low)
    torch.testing.assert_close(ThreatModel("linf", 0.1).project(candidate, images), expected, rtol=0, atol=1e-7)


def test_l2_projection_scales_each_image_onto_its_sphere(random_tensor: Numbers) -> None:
    images = torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64)
    delta = random_tensor(3, 1, 4, 4, dtype=torch.float64, normal=True)
    delta[2] *= 1e-3
    projected = ThreatModel("l2", 0.1).project(images + delta, images) - images
    sizes = delta.flatten(1).norm(dim=1)
    torch.testing.assert_close(projected[:2], delta[:2] * (0.1 / sizes[:2]).view(2, 1, 1, 1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(projected[2], delta[2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("norm", "expected"), [("linf", 0.3), ("l2", 0.3 * math.sqrt(16)), ("l1", 0.3 * 16)])
def test_size_of_a_constant_perturbation(norm: str, expected: float) -> None:
    sizes = NORMS[norm].size(torch.stack([torch.full((1, 4, 4), -0.3), torch.zeros(1, 4, 4)]))
    assert sizes.tolist() == pytest.approx([expected, 0.0])


def test_linf_steps_follow_the_sign_and_l2_steps_the_normalised_gradient(random_tensor: Numbers) -> None:
    images = torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64)
    gradient = random_tensor(3, 1, 4, 4, dtype=torch.float64, normal=True) * torch.tensor([1e-6, 1.0, 1e6]).view(
        3, 1, 1, 1
    )
    linf = ThreatModel("linf", 1.0).ascend(images, gradient, 0.01, images) - images
    torch.testing.assert_close(linf, 0.01 * gradient.sign(), rtol=0, atol=1e-12)
    l2 = ThreatModel("l2", 1.0).ascend(images, gradient, 0.01, images) - images
    torch.testing.assert_close(
        l2.flatten(1).norm(dim=1), torch.full((3,), 0.01, dtype=torch.float64), rtol=1e-9, atol=0
    )
    cosine = torch.cosine_similarity(l2.flatten(1), gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)


@each_norm
def test_a_zero_gradient_does_not_move_the_image(norm: str, random_tensor: Numbers) -> None:
    images = random_tensor(2, 1, 4, 4)
    assert torch.equal(ThreatModel(norm, 0.1, 0.5).ascend(images, torch.zeros_like(images), 0.05, images), images)


@each_norm
def test_zero_budget_returns_the_image(norm: str) -> None:
    images, candidate = tensors(3, 10.0)
    assert torch.equal(ThreatModel(norm, 0.0).project(candidate, images), images)


@pytest.mark.parametrize(("norm", "order"), [("linf", math.inf), ("l2", 2.0), ("l1", 1.0)])
def test_random_starts_are_uniform_in_the_ball(random_tensor: Numbers, norm: str, order: float) -> None:
    """The D-th power of the relative length is uniform, the direction has no preferred sign or pixel."""
    images, uniform = torch.full((4000, 1, 2, 2), 0.5), 2 * random_tensor(4000, 1, 2, 2) - 1
    start = ThreatModel(norm, 0.1).random_start(uniform, random_tensor(4000, seed=1), images)
    moved = ((start - images) / 0.1).double().flatten(1)
    length = torch.linalg.vector_norm(moved, ord=order, dim=1)
    assert stats.kstest((length**4).numpy(), "uniform").pvalue > 0.01
    assert float(moved.mean(dim=0).abs().max()) < 0.03
    spread = moved.square().mean(dim=0)
    assert float(spread.max() / spread.min()) < 1.1
    angle = (moved / length[:, None]).abs().sort(dim=1).values  # independent of the length
    assert abs(float(torch.corrcoef(torch.stack([angle[:, 0], length]))[0, 1])) < 0.05


@each_norm
def test_a_random_perturbation_is_as_large_as_the_budget(norm: str, random_tensor: Numbers) -> None:
    images = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
    normal = random_tensor(4, 1, 8, 8, dtype=torch.float64, normal=True)
    unit = {
        "linf": normal.sign(),
        "l2": normal / normal.flatten(1).norm(dim=1).view(4, 1, 1, 1),
        "l1": normal / normal.flatten(1).abs().sum(dim=1).view(4, 1, 1, 1),
    }[norm]
    for scale in (1e-3, 1.0):
        delta = ThreatModel(norm, 0.1).random(scale * normal, images) - images
        torch.testing.assert_close(delta, 0.1 * unit, rtol=1e-9, atol=1e-12)
    faces = images.round()
    ThreatModel(norm, 0.1).check(ThreatModel(norm, 0.1).random(normal, faces), faces)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * torch.nan, "expected finite adversarial images, got NaN or infinity"),
        (lambda x: x + torch.inf, "expected finite adversarial images, got NaN or infinity"),
        (lambda x: x + 0.1 + 2e-6, r"expected \|\|x' - x\|\|_linf <= 0.1, got 0.1"),
        (lambda x: x - 0.05, r"expected adversarial images in \[0, 1\], got \[-0.05"),
        (lambda x: x + 0.05, r"expected adversarial images in \[0, 1\], got \[0.05.*, 1.04"),
    ],
    ids=["nan", "infinity", "outside the ball", "below the box", "above the box"],
)
def test_the_check_names_what_is_violated(spoil: Callable[[Tensor], Tensor], message: str) -> None:
    images = torch.linspace(0, 1, 32).view(2, 1, 4, 4)
    with pytest.raises(ValueError, match=message):
        ThreatModel("linf", 0.1).check(spoil(images), images)


@each_norm
def test_the_check_looks_at_every_image(norm: str) -> None:
    images = torch.full((5, 1, 4, 4), 0.5)
    wrong = images.clone()
    wrong[3, 0, 2, 2] += 0.2
    ThreatModel(norm, 0.2).check(wrong, images)
    with pytest.raises(ValueError, match=f"_{norm} <= 0.1"):
        ThreatModel(norm, 0.1).check(wrong, images)


def test_unknown_norms_and_negative_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a norm among \['l1', 'l2', 'linf'\], got 'l0'"):
        ThreatModel("l0", 0.1)
    with pytest.raises(ValueError, match=r"expected epsilon >= 0, got -0\.1"):
        ThreatModel("linf", -0.1)


# --- exact projections and steps


def nearest(norm: str, epsilon: float, candidate: Tensor, image: Tensor) -> Tensor:
    """Nearest point of ball and box by a general solver; under l1 the shift is split into its positive and negative
    parts, which makes the constraint linear."""
    c, x = candidate.flatten().numpy(), image.flatten().numpy()
    if norm == "l2":
        ball = {"type": "ineq", "fun": lambda z: epsilon**2 - ((z - x) ** 2).sum(), "jac": lambda z: -2 * (z - x)}
        bounds = [(0.0, 1.0)] * len(x)
        out = optimize.minimize(
            lambda z: ((z - c) ** 2).sum(), x, jac=lambda z: 2 * (z - c), bounds=bounds, constraints=[ball],
            method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        return torch.tensor(out.x)
    ball = {"type": "ineq", "fun": lambda s: epsilon - s.sum(), "jac": lambda s: -torch.ones(len(s)).numpy()}
    bounds = [(0.0, 1 - v) for v in x] + [(0.0, v) for v in x]

    def distance(s: Any) -> float:
        return float(((x + s[: len(x)] - s[len(x) :] - c) ** 2).sum())

    def slope(s: Any) -> Any:
        gap = 2 * (x + s[: len(x)] - s[len(x) :] - c)
        return torch.tensor(gap).repeat(2).numpy() * ([1.0] * len(x) + [-1.0] * len(x))

    out = optimize.minimize(
        distance, [0.0] * (2 * len(x)), jac=slope, bounds=bounds, constraints=[ball], method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return torch.tensor(x + out.x[: len(x)] - out.x[len(x) :])


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("spread", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.5])
def test_the_projection_is_the_nearest_point_of_ball_and_box(norm: str, spread: float, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(1)
    images = (1.4 * torch.rand(8, 1, 3, 3, generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)
    candidate = images + spread * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    projected = ThreatModel(norm, epsilon).project(candidate, images)
    for one, other, image in zip(projected, candidate, images, strict=True):
        torch.testing.assert_close(one.flatten(), nearest(norm, epsilon, other, image), rtol=0, atol=2e-6)


def test_l1_points_of_many_pixels_stay_in_the_ball_exactly() -> None:
    """Roundings of 150 000 pixels add up to more than the tolerance unless each goes towards the image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 224, 224, generator=generator)
    projected = ThreatModel("l1", 200.0).project(images + torch.randn(images.shape, generator=generator), images)
    sizes = (projected.double() - images.double()).flatten(1).abs().sum(dim=1)
    assert bool((sizes <= 200.0).all()) and bool((sizes > 199.99).all())


def test_an_l1_step_moves_the_steepest_pixels_that_can_move_by_equal_amounts() -> None:
    images = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    gradient = torch.tensor([[4.0, -3.0, 2.0, 1.0], [0.0, 0.0, -5.0, 0.0]], dtype=torch.float64).view(2, 1, 2, 2)
    moved = ThreatModel("l1", 1.0, 0.5).ascend(images, gradient, 0.2, images) - images
    torch.testing.assert_close(moved[0].flatten(), moved.new_tensor([0.1, -0.1, 0.0, 0.0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[1].flatten(), moved.new_tensor([0.0, 0.0, -0.2, 0.0]), rtol=0, atol=1e-12)
    stopped = images.clone()
    stopped[0, 0, 0, 0] = 1.0
    moved = ThreatModel("l1", 1.0, 0.25).ascend(stopped, gradient, 0.2, images) - stopped
    torch.testing.assert_close(moved[0].flatten(), moved.new_tensor([0.0, -0.2, 0.0, 0.0]), rtol=0, atol=1e-12)
    share = torch.tensor([1.0, 0.25], dtype=torch.float64)
    moved = ThreatModel("l1", 1.0).ascend(images, gradient, 0.2, images, share) - images
    torch.testing.assert_close(moved[0].flatten().abs(), moved.new_full((4,), 0.05), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="expected share with norm l1, got none"):
        ThreatModel("l1", 1.0).ascend(images, gradient, 0.2, images)
