"""Reverse samplers as tables of affine steps.

Every sampler used for purification is affine in the state u, the predicted noise e and fresh noise z:

    x0 = (u - sqrt(1 - abar) e) / sqrt(abar)
    u' = x0_weight x0 + state_weight u + eps_weight e + noise_weight z

with coefficients that depend on the schedule only. They are computed once in float64. Keeping x0 apart lets the
clipping of the data estimate (diffusers' `clip_sample`) be a named option instead of a hidden one: clamping zeroes
the gradient wherever it is active.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from purification.schedule import Level, Schedule

VARIANCES = ("fixed_large", "fixed_small")
CONTINUOUS = ("vp_sde", "pf_ode")  # samplers of the continuous schedule
END_TIME = 1e-5  # last time of the continuous samplers (DiffPure, Nie et al. 2022)


@dataclass(frozen=True)
class Step:
    """One reverse step from `level`; weights as in the module docstring."""

    level: Level
    x0_weight: float
    state_weight: float
    eps_weight: float
    noise_weight: float


def respaced_indices(t_star: int, steps: int) -> list[int]:
    """Descending noise indices T-1, .., T/n-1 of n steps from t* = T (Lee & Kim, ICCV 2023)."""
    if not 1 <= steps <= t_star:
        raise ValueError(f"expected 1 <= steps <= t_star = {t_star}, got {steps} — lower steps or raise t_star")
    return [round(k * t_star / steps) - 1 for k in range(steps, 0, -1)]


def leading_indices(t_star: int, steps: int) -> list[int]:
    """Descending noise indices T-1, .., 0 of n steps from t* = T, both ends included (ADDT, arXiv 2404.14309)."""
    if not 1 <= steps <= t_star:
        raise ValueError(f"expected 1 <= steps <= t_star = {t_star}, got {steps} — lower steps or raise t_star")
    if steps == 1:
        return [t_star - 1]
    return [round(k * (t_star - 1) / (steps - 1)) for k in range(steps - 1, -1, -1)]


SPACINGS = {"trailing": respaced_indices, "leading": leading_indices}


def _transitions(schedule: Schedule, t_star: int, steps: int, spacing: str) -> list[tuple[Level, Level]]:
    indices = [*SPACINGS[spacing](t_star, steps), -1]
    return [(schedule.level(t), schedule.level(s)) for t, s in pairwise(indices)]


def ddpm(schedule: Schedule, *, t_star: int, steps: int, variance: str, spacing: str = "trailing") -> list[Step]:
    """Ancestral sampling (Ho et al. 2020); variance "fixed_large" (beta) or "fixed_small" (posterior)."""
    if variance not in VARIANCES:
        raise ValueError(f"expected variance to be one of {VARIANCES}, got {variance!r}")
    table = []
    for t, s in _transitions(schedule, t_star, steps, spacing):
        alpha_ts = t.alpha_bar / s.alpha_bar
        beta_ts = 1.0 - alpha_ts
        posterior = (1.0 - s.alpha_bar) / (1.0 - t.alpha_bar)
        noise_variance = beta_ts if variance == "fixed_large" else posterior * beta_ts
        table.append(
            Step(
                t,
                x0_weight=math.sqrt(s.alpha_bar) * beta_ts / (1.0 - t.alpha_bar),
                state_weight=math.sqrt(alpha_ts) * posterior,
                eps_weight=0.0,
                noise_weight=0.0 if s.position == -1 else math.sqrt(noise_variance),
            )
        )
    return table


def ddim(schedule: Schedule, *, t_star: int, steps: int, eta: float, spacing: str = "trailing") -> list[Step]:
    """DDIM (Song et al. 2021); eta 0 is deterministic, eta 1 equals `ddpm` with "fixed_small"."""
    table = []
    for t, s in _transitions(schedule, t_star, steps, spacing):
        posterior = (1.0 - s.alpha_bar) / (1.0 - t.alpha_bar)
        sigma = eta * math.sqrt(posterior * (1.0 - t.alpha_bar / s.alpha_bar))
        eps_weight = math.sqrt(max(1.0 - s.alpha_bar - sigma**2, 0.0))
        table.append(Step(t, math.sqrt(s.alpha_bar), 0.0, eps_weight, sigma))
    return table


def _continuous(schedule: Schedule, t_star: int, steps: int) -> tuple[list[float], float]:
    start = t_star / schedule.train_steps
    width = (start - END_TIME) / steps
    return [start - k * width for k in range(steps)], width


def vp_sde(schedule: Schedule, *, t_star: int, steps: int) -> list[Step]:
    """Euler-Maruyama on the reverse VP-SDE, u + [beta u / 2 + beta score] h + sqrt(beta h) z (Nie et al. 2022)."""
    times, width = _continuous(schedule, t_star, steps)
    table = []
    for time in times:
        level, drift = schedule.level_at(time), schedule.beta(time) * width
        score = -drift / math.sqrt(1.0 - level.alpha_bar)
        table.append(Step(level, 0.0, 1.0 + 0.5 * drift, score, math.sqrt(drift)))
    return table


def pf_ode(schedule: Schedule, *, t_star: int, steps: int) -> list[Step]:
    """Euler on the probability-flow ODE, u + beta [u + score] h / 2 (Song et al. 2021)."""
    times, width = _continuous(schedule, t_star, steps)
    table = []
    for time in times:
        level, drift = schedule.level_at(time), 0.5 * schedule.beta(time) * width
        table.append(Step(level, 0.0, 1.0 + drift, -drift / math.sqrt(1.0 - level.alpha_bar), 0.0))
    return table


def one_step(schedule: Schedule, *, t_star: int) -> list[Step]:
    """One-shot denoising: the data estimate at t* itself (Carlini et al. 2023)."""
    return [Step(schedule.level(t_star - 1), 1.0, 0.0, 0.0, 0.0)]


SAMPLERS: dict[str, Callable[..., list[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "vp_sde": vp_sde,
    "pf_ode": pf_ode,
    "one_step": one_step,
}
