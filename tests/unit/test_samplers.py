"""Reverse samplers on Gaussian data, where every answer is known in closed form.

Data u0 ~ N(mean, s2) per pixel with the optimal predictor. V_t = abar_t s2 + 1 - abar_t is the variance of the state at
level t, so the exact reverse transition t -> s has gain sqrt(abar_t / abar_s) V_s / V_t, and purification of a point x0
from abar has mean m + k sqrt(abar) (x0 - m) and variance k^2 (1 - abar) + s2 (1 - abar) / V, k = sqrt(abar) s2 / V.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purification.samplers import Step, ddim, ddpm, leading_indices, one_step, pf_ode, respaced_indices, vp_sde
from purification.schedule import Level, Schedule

MEAN, S2, X0 = 0.3, 0.25, 1.0
CLEAN = Level(-1.0, 1.0)
FINE = Schedule(0.1 / 20000, 20.0 / 20000, 20000)  # the same continuous limit, 20 times finer


def variance_at(level: Level) -> float:
    return level.alpha_bar * S2 + 1 - level.alpha_bar


def stochastic_purification(alpha_bar: float) -> tuple[float, float]:
    """Mean and variance of the exact reverse process started from x0 noised to abar."""
    total = alpha_bar * S2 + 1 - alpha_bar
    k = math.sqrt(alpha_bar) * S2 / total
    mean = MEAN + k * math.sqrt(alpha_bar) * (X0 - MEAN)
    return mean, k**2 * (1 - alpha_bar) + S2 * (1 - alpha_bar) / total


def effective(step: Step) -> tuple[float, float, float]:
    """Weights of state, predicted noise and fresh noise once x0 is written out."""
    root, rest = math.sqrt(step.level.alpha_bar), math.sqrt(1 - step.level.alpha_bar)
    return step.state_weight + step.x0_weight / root, step.eps_weight - step.x0_weight * rest / root, step.noise_weight


def propagate(table: list[Step], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of the state after all steps of a table with the optimal predictor."""
    for step in table:
        by_state, by_eps, by_noise = effective(step)
        slope = math.sqrt(1 - step.level.alpha_bar) / variance_at(step.level)
        gain = by_state + by_eps * slope
        mean = gain * mean - by_eps * slope * math.sqrt(step.level.alpha_bar) * MEAN
        variance = gain**2 * variance + by_noise**2
    return mean, variance


def from_point(table: list[Step], alpha_bar: float) -> tuple[float, float]:
    return propagate(table, math.sqrt(alpha_bar) * X0, 1 - alpha_bar)


def order(errors: list[float], steps: list[int]) -> float:
    """Fitted p of error ~ steps^-p."""
    return float(-np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0])


# --- indices


@pytest.mark.parametrize(
    ("t_star", "steps", "expected"),
    [
        (100, 5, [99, 79, 59, 39, 19]),
        (100, 100, list(range(99, -1, -1))),
        (150, 3, [149, 99, 49]),
        (101, 10, [100, 90, 80, 70, 60, 49, 39, 29, 19, 9]),
        (7, 1, [6]),
    ],
)
def test_respaced_indices(t_star: int, steps: int, expected: list[int]) -> None:
    assert respaced_indices(t_star, steps) == expected


@given(st.integers(1, 1000).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t))))
def test_respaced_indices_fall_from_t_star_minus_one_without_repetition(case: tuple[int, int]) -> None:
    t_star, steps = case
    indices = respaced_indices(t_star, steps)
    assert len(indices) == steps and indices[0] == t_star - 1 and indices[-1] >= 0
    assert all(a > b for a, b in pairwise(indices))


@pytest.mark.parametrize(("grid", "count"), [(10, 2), (20, 3), (50, 6), (100, 11), (1000, 101)])
def test_leading_indices_are_those_of_addt(grid: int, count: int) -> None:
    """diffusers' leading grid of `grid` steps, begun at entry round(.9 grid) - 1: always 100, down to 0."""
    whole = [k * (1000 // grid) for k in range(grid - 1, -1, -1)]
    expected = whole[round(0.9 * grid) - 1 :]
    assert (expected[0], len(expected)) == (100, count)
    assert leading_indices(101, count) == expected


def test_leading_and_trailing_indices_begin_at_the_same_level() -> None:
    assert leading_indices(50, 1) == respaced_indices(50, 1) == [49]
    assert leading_indices(150, 5) == [149, 112, 74, 37, 0] and respaced_indices(150, 5)[0] == 149
    with pytest.raises(ValueError, match="expected 1 <= steps <= t_star = 3, got 4"):
        leading_indices(3, 4)


def test_the_steps_of_adbm(schedule: Schedule) -> None:
    """Five trailing steps from index 99 (Li et al. 2025); the image is noised to index 100."""
    table = ddim(schedule, t_star=100, steps=5, eta=0.0)
    assert [step.level.position for step in table] == [99, 79, 59, 39, 19]
    leading = ddim(schedule, t_star=101, steps=2, eta=0.0, spacing="leading")
    assert [step.level.position for step in leading] == [100, 0]


@pytest.mark.parametrize(("t_star", "steps"), [(10, 11), (10, 0), (0, 1)])
def test_respacing_needs_between_one_step_and_t_star(t_star: int, steps: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 <= steps <= t_star = {t_star}, got {steps}"):
        respaced_indices(t_star, steps)


# --- tables against the exact Gaussian answer


@pytest.mark.parametrize("steps", [1, 2, 10, 101])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_every_ddpm_step_is_the_exact_conditional_mean(schedule: Schedule, variance: str, steps: int) -> None:
    table = ddpm(schedule, t_star=101, steps=steps, variance=variance)
    levels = [*(step.level for step in table), CLEAN]
    for t, s, step in zip(levels, levels[1:], table, strict=False):
        by_state, by_eps, by_noise = effective(step)
        slope = math.sqrt(1 - t.alpha_bar) / variance_at(t)
        ratio = t.alpha_bar / s.alpha_bar
        assert by_state + by_eps * slope == pytest.approx(math.sqrt(ratio) * variance_at(s) / variance_at(t), rel=1e-9)
        beta = 1 - ratio
        small = (1 - s.alpha_bar) / (1 - t.alpha_bar) * beta
        assert by_noise**2 == pytest.approx({"fixed_small": small, "fixed_large": beta * (s is not CLEAN)}[variance])


@pytest.mark.parametrize(
    ("variance", "steps", "expected"),
    [
        # index 100; the exact process has .13408. Fewer steps are less random with one variance, not with the other
        ("fixed_small", 101, 0.1311),
        ("fixed_small", 11, 0.1129),
        ("fixed_small", 5, 0.0967),
        ("fixed_small", 2, 0.0721),
        ("fixed_small", 1, 0.0543),
        ("fixed_large", 101, 0.1342),
        ("fixed_large", 11, 0.1348),
        ("fixed_large", 5, 0.1336),
        ("fixed_large", 2, 0.1185),
        ("fixed_large", 1, 0.0543),
    ],
)
def test_ddpm_from_index_100_keeps_the_exact_mean_and_has_the_known_variance(
    schedule: Schedule, variance: str, steps: int, expected: float
) -> None:
    alpha_bar = schedule.level(100).alpha_bar
    mean, spread = from_point(ddpm(schedule, t_star=101, steps=steps, variance=variance), alpha_bar)
    assert mean == pytest.approx(stochastic_purification(alpha_bar)[0], abs=1e-9) == pytest.approx(0.7767, abs=5e-5)
    assert spread == pytest.approx(expected, abs=6e-5)


def test_exact_variance_from_index_100() -> None:
    assert stochastic_purification(0.895143)[1] == pytest.approx(0.13408, abs=6e-6)


def test_one_step_is_the_conditional_mean_of_the_data(schedule: Schedule) -> None:
    (step,) = one_step(schedule, t_star=100)
    assert step.level == schedule.level(99)
    alpha_bar = step.level.alpha_bar
    mean, variance = from_point([step], alpha_bar)
    k = math.sqrt(alpha_bar) * S2 / variance_at(step.level)
    assert mean == pytest.approx(MEAN + k * math.sqrt(alpha_bar) * (X0 - MEAN), rel=1e-10)
    assert variance == pytest.approx(k**2 * (1 - alpha_bar), rel=1e-10)
    by_state, by_eps, _ = effective(one_step(schedule, t_star=101)[0])
    level = schedule.level(100)
    gain = by_state + by_eps * math.sqrt(1 - level.alpha_bar) / variance_at(level)
    assert gain * math.sqrt(level.alpha_bar) == pytest.approx(0.681, abs=5e-4)


def ddpm_error(steps: int, variance: str) -> float:
    alpha_bar = FINE.level(1999).alpha_bar
    table = ddpm(FINE, t_star=2000, steps=steps, variance=variance)
    return from_point(table, alpha_bar)[1] - stochastic_purification(alpha_bar)[1]


def sde_error(steps: int, moment: int) -> float:
    alpha_bar = FINE.level_at(0.1).alpha_bar
    start, exact = Schedule(1e-4, 0.02, 1000), stochastic_purification(alpha_bar)
    return from_point(vp_sde(start, t_star=100, steps=steps), alpha_bar)[moment] - exact[moment]


def ddim_error(steps: int) -> float:
    start = FINE.level(1999)
    target = MEAN + math.sqrt(S2 / variance_at(start)) * (1.0 - math.sqrt(start.alpha_bar) * MEAN)
    return propagate(ddim(FINE, t_star=2000, steps=steps, eta=0.0), 1.0, 0.0)[0] - target


def ode_error(steps: int) -> float:
    start, end = FINE.level_at(0.1), FINE.level_at(1e-5)
    centred = math.sqrt(variance_at(end) / variance_at(start)) * (1.0 - math.sqrt(start.alpha_bar) * MEAN)
    table = pf_ode(Schedule(1e-4, 0.02, 1000), t_star=100, steps=steps)
    return propagate(table, 1.0, 0.0)[0] - math.sqrt(end.alpha_bar) * MEAN - centred


ERRORS: dict[str, Callable[[int], float]] = {
    "ddpm fixed_small variance": lambda steps: ddpm_error(steps, "fixed_small"),
    "vp_sde mean": lambda steps: sde_error(steps, 0),
    "vp_sde variance": lambda steps: sde_error(steps, 1),
    "ddim map": ddim_error,
    "pf_ode map": ode_error,
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_samplers_converge_with_order_one(error: Callable[[int], float]) -> None:
    steps = [50, 100, 200, 400, 800]
    errors = [error(n) for n in steps]
    assert order(errors, steps) == pytest.approx(1, abs=0.2)
    assert abs(errors[-1]) < 5e-3


# --- relations between samplers


@pytest.mark.parametrize(("t_star", "steps"), [(100, 100), (100, 5), (101, 11), (7, 1)])
def test_ddim_with_eta_1_is_ddpm_with_the_posterior_variance(schedule: Schedule, t_star: int, steps: int) -> None:
    one = ddim(schedule, t_star=t_star, steps=steps, eta=1.0)
    two = ddpm(schedule, t_star=t_star, steps=steps, variance="fixed_small")
    assert [step.level for step in one] == [step.level for step in two]
    for a, b in zip(one, two, strict=True):
        assert effective(a) == pytest.approx(effective(b), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_noise_grows_in_proportion_to_eta_and_keeps_the_total_variance(schedule: Schedule, eta: float) -> None:
    full = ddim(schedule, t_star=100, steps=10, eta=1.0)
    table = ddim(schedule, t_star=100, steps=10, eta=eta)
    levels = [*(step.level for step in table[1:]), CLEAN]
    for step, whole, level in zip(table, full, levels, strict=True):
        assert step.noise_weight == pytest.approx(eta * whole.noise_weight, rel=1e-12)
        assert step.eps_weight**2 + step.noise_weight**2 == pytest.approx(1 - level.alpha_bar, abs=1e-12)


def test_one_ddim_step_is_one_shot_denoising(schedule: Schedule) -> None:
    (single,), (short,) = one_step(schedule, t_star=100), ddim(schedule, t_star=100, steps=1, eta=0.0)
    assert effective(single) == pytest.approx(effective(short), rel=1e-12)


def test_the_deterministic_maps_have_the_known_gain(schedule: Schedule) -> None:
    start = schedule.level(100)
    table = ddim(schedule, t_star=101, steps=101, eta=0.0)
    gain = (propagate(table, 1.0, 0.0)[0] - propagate(table, 0.0, 0.0)[0]) * math.sqrt(start.alpha_bar)
    assert math.sqrt(start.alpha_bar * S2 / variance_at(start)) == pytest.approx(0.825, abs=5e-4)
    assert gain == pytest.approx(0.825, abs=5e-3)


def test_only_the_last_discrete_step_is_free_of_noise(schedule: Schedule) -> None:
    for variance in ("fixed_small", "fixed_large"):
        weights = [step.noise_weight for step in ddpm(schedule, t_star=50, steps=10, variance=variance)]
        assert weights[-1] == 0 and min(weights[:-1]) > 0


def test_an_unknown_variance_is_refused(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=r"expected variance to be one of .*, got 'learned'"):
        ddpm(schedule, t_star=10, steps=5, variance="learned")
