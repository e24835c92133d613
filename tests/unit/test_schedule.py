"""Noise schedules: published values, the continuous twin, and bounds."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad

from purification.schedule import Schedule, sigma_equivalent

ALPHA_BARS = {
    35: 0.98398,
    49: 0.97102,
    69: 0.94636,
    74: 0.93912,
    99: 0.89702,
    100: 0.89514,
    124: 0.84618,
    149: 0.78832,
    199: 0.65904,
}
SIGMAS = {74: 0.2546, 99: 0.3388, 100: 0.3423, 149: 0.5182, 199: 0.7193}


@pytest.mark.parametrize(("index", "expected"), ALPHA_BARS.items())
def test_alpha_bar_of_the_linear_schedule(schedule: Schedule, index: int, expected: float) -> None:
    assert schedule.level(index).alpha_bar == pytest.approx(expected, abs=6e-6)
    assert schedule.level(index).position == index


@pytest.mark.parametrize(("index", "expected"), SIGMAS.items())
def test_equivalent_noise_level(schedule: Schedule, index: int, expected: float) -> None:
    assert sigma_equivalent(schedule.level(index).alpha_bar) == pytest.approx(expected, abs=6e-5)


def test_sigma_equivalent_inverts_to_alpha_bar() -> None:
    for alpha_bar in (0.01, 0.5, 0.999):
        assert 1 / (1 + sigma_equivalent(alpha_bar) ** 2) == pytest.approx(alpha_bar, rel=1e-12)
    assert sigma_equivalent(1.0) == 0


def test_alpha_bars_are_the_product_written_out(schedule: Schedule) -> None:
    product = 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        assert float(schedule.alpha_bars[i]) == pytest.approx(product, rel=1e-10)


def test_continuous_alpha_bar_at_a_tenth(schedule: Schedule) -> None:
    assert schedule.level_at(0.1).alpha_bar == pytest.approx(0.89628, abs=6e-6)


@pytest.mark.parametrize("time", [1e-5, 0.1, 0.5, 1.0])
def test_continuous_alpha_bar_integrates_beta(schedule: Schedule, time: float) -> None:
    assert schedule.beta(time) == pytest.approx(0.1 + 19.9 * time, rel=1e-12)
    integral, _ = quad(schedule.beta, 0.0, time)
    assert schedule.level_at(time).alpha_bar == pytest.approx(math.exp(-integral), rel=1e-10)


@pytest.mark.parametrize("index", [0, 35, 99, 499, 999])
def test_discrete_index_is_continuous_time_of_the_next_thousandth(schedule: Schedule, index: int) -> None:
    level = schedule.level_at((index + 1) / 1000)
    assert level.position == pytest.approx(index, abs=1e-9)
    assert level.alpha_bar == pytest.approx(schedule.level(index).alpha_bar, abs=1e-3)


def test_discrete_schedule_tends_to_the_continuous_one() -> None:
    errors = []
    for steps in (1000, 4000, 16000):
        fine = Schedule(0.1 / steps, 20.0 / steps, steps)
        errors.append(abs(fine.level(steps // 10 - 1).alpha_bar - fine.level_at(0.1).alpha_bar))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_time_below_the_first_index_keeps_index_0(schedule: Schedule) -> None:
    assert schedule.level_at(0.0) == (0.0, 1.0)
    assert schedule.level_at(1e-5).position == 0.0


def test_the_clean_image_is_index_minus_one(schedule: Schedule) -> None:
    assert schedule.level(-1) == (-1.0, 1.0)
    assert schedule.level(999).alpha_bar == pytest.approx(4.0358e-5, rel=1e-3)


@pytest.mark.parametrize("index", [-2, 1000, 10**6])
def test_levels_outside_the_schedule_are_refused(schedule: Schedule, index: int) -> None:
    with pytest.raises(ValueError, match=rf"expected a noise index in -1\.\.999, got {index}"):
        schedule.level(index)


@pytest.mark.parametrize("betas", [(1e-4, 0.02), (0.01, 0.01)])
@pytest.mark.parametrize("time", [0.002, 0.1, 0.5, 1.0])
def test_the_position_of_a_noise_level_is_that_of_its_time(betas: tuple[float, float], time: float) -> None:
    schedule = Schedule(*betas, 1000)
    level = schedule.level_at(time)
    assert schedule.position_of(sigma_equivalent(level.alpha_bar)) == pytest.approx(level.position, rel=1e-9)


def test_positions_stay_within_the_schedule() -> None:
    schedule = Schedule(1e-4, 0.02, 1000)
    assert schedule.position_of(1e-6) == 0.0 and schedule.position_of(1e6) == 999.0
