"""Samplers as they run: sampled moments, and every step against diffusers and torchdiffeq on a nonlinear predictor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torchdiffeq import odeint

from purification.models.denoisers import Denoiser, Epsilon
from purification.noise import FORWARD, REVERSE, Noise, NoiseSource
from purification.purifiers import DiffusionPurifier, Purifier, purify
from purification.samplers import END_TIME, pf_ode, respaced_indices, vp_sde
from purification.schedule import Schedule

DTYPE = torch.float64
Diffusion = Callable[..., Purifier]
Numbers = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("sampler", "mean", "variance"),
    [
        ({"sampler": "ddpm", "variance": "fixed_large", "t_star": 101, "steps": 101}, 0.7767, 0.1342),
        ({"sampler": "ddpm", "variance": "fixed_small", "t_star": 101, "steps": 5}, 0.7767, 0.0967),
        ({"sampler": "ddim", "eta": 1.0, "t_star": 101, "steps": 5}, 0.7767, 0.0967),
        ({"sampler": "vp_sde", "t_star": 100, "steps": 100}, 0.7774, 0.1332),
        ({"sampler": "one_step", "t_star": 101}, 0.7767, 0.0543),
    ],
    ids=lambda value: "-".join(str(v) for v in value.values()) if isinstance(value, dict) else "",
)
def test_purifying_a_point_of_gaussian_data_gives_the_known_mean_and_variance(
    schedule: Schedule,
    isotropic: Callable[[float, float], Epsilon],
    diffusion: Diffusion,
    sampler: dict[str, Any],
    mean: float,
    variance: float,
) -> None:
    purifier = diffusion(Denoiser(isotropic(0.3, 0.25), schedule), **sampler)
    noise = NoiseSource(0, "fixed", (1, 200, 500))([0])
    out = 2 * purify(purifier, torch.ones(1, 1, 200, 500), noise).double() - 1  # x0 = 1 on [-1, 1]
    assert float(out.mean()) == pytest.approx(mean, abs=4 * (variance / 1e5) ** 0.5)
    assert float(out.var()) == pytest.approx(variance, abs=4 * variance * (2 / 1e5) ** 0.5)


def diffusers_scheduler(kind: type, schedule: Schedule, **options: Any) -> Any:
    """A scheduler of diffusers with its float32 table of abar recomputed in float64."""
    start, end, count = schedule.beta_start, schedule.beta_end, schedule.train_steps
    scheduler = kind(num_train_timesteps=count, beta_start=start, beta_end=end, beta_schedule="linear", **options)
    exact = torch.cumprod(1 - torch.linspace(start, end, count, dtype=DTYPE), dim=0)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), exact, rtol=1e-5, atol=0)
    scheduler.alphas_cumprod = exact
    return scheduler


def states(purifier: Purifier, images: Tensor, noise: Noise) -> list[Tensor]:
    """All states of a chain."""
    chain = [purifier.start(images, noise)]
    for number in range(purifier.num_steps):
        chain.append(purifier.step(number, chain[-1], images, noise))
    return chain


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    """Images reaching beyond [0, 1], so that clipping the data estimate does something."""
    return 1.6 * random_tensor(3, 1, 8, 8, dtype=DTYPE) - 0.3


@pytest.mark.parametrize("clip", ["none", "clamp", "straight_through"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [100, 10])
def test_ddpm_steps_agree_with_diffusers(
    curved: Denoiser, diffusion: Diffusion, fixed_noise: Callable[..., Noise], images: Tensor, clip: str, variance: str,
    steps: int,
) -> None:  # fmt: skip
    noise = fixed_noise(3, 1, 8, 8, dtype=DTYPE)
    purifier = diffusion(curved, variance=variance, steps=steps, clip=clip)
    chain = states(purifier, images, noise)
    reference = diffusers_scheduler(DDPMScheduler, curved.schedule, variance_type=variance, clip_sample=clip != "none")
    timesteps = respaced_indices(100, steps)
    reference.set_timesteps(timesteps=timesteps)
    start = reference.add_noise(2 * images - 1, noise.normal(FORWARD), torch.tensor([timesteps[0]] * 3))
    torch.testing.assert_close(chain[0], start, rtol=0, atol=1e-9)
    for number, t in enumerate(timesteps):
        eps = curved.epsilon(chain[number], curved.schedule.level(t))
        mean, data = _without_noise(reference, eps, t, chain[number])
        fresh = noise.normal(REVERSE, number)
        last = (
            number == steps - 1
        )  # there diffusers adds noise to a coarse "fixed_large" grid, ancestral sampling does not
        deviation = 0.0 if last else float(reference._get_variance(t)) ** 0.5
        torch.testing.assert_close(chain[number + 1], mean + deviation * fresh, rtol=0, atol=1e-9)
        assert bool((data.abs() > 1).any()) == (clip == "none")


def _without_noise(reference: DDPMScheduler, eps: Tensor, t: int, state: Tensor) -> tuple[Tensor, Tensor]:
    """diffusers' step minus the noise it draws itself; the mean and the data estimate."""
    out = reference.step(eps, t, state, generator=torch.Generator().manual_seed(0))
    drawn = torch.randn(eps.shape, generator=torch.Generator().manual_seed(0), dtype=eps.dtype) if t > 0 else 0.0
    return out.prev_sample - float(reference._get_variance(t)) ** 0.5 * drawn, out.pred_original_sample


@pytest.mark.parametrize("clip", ["none", "clamp", "straight_through"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [100, 10])
def test_ddim_steps_agree_with_diffusers(
    curved: Denoiser, diffusion: Diffusion, fixed_noise: Callable[..., Noise], images: Tensor, clip: str, eta: float,
    steps: int,
) -> None:  # fmt: skip
    noise = fixed_noise(3, 1, 8, 8, dtype=DTYPE)
    chain = states(diffusion(curved, sampler="ddim", eta=eta, steps=steps, clip=clip), images, noise)
    reference = diffusers_scheduler(DDIMScheduler, curved.schedule, clip_sample=clip != "none")
    reference.set_timesteps(1000 * steps // 100)  # makes its previous timestep t - 100 / steps
    for number, t in enumerate(respaced_indices(100, steps)):
        eps = curved.epsilon(chain[number], curved.schedule.level(t))
        fresh = noise.normal(REVERSE, number)
        expected = reference.step(eps, t, chain[number], eta=eta, variance_noise=fresh).prev_sample
        torch.testing.assert_close(chain[number + 1], expected, rtol=0, atol=1e-9)


def test_ddim_with_eta_1_purifies_like_ddpm_under_the_same_noise(
    curved: Denoiser, diffusion: Diffusion, fixed_noise: Callable[..., Noise], images: Tensor
) -> None:
    noise = fixed_noise(3, 1, 8, 8, dtype=DTYPE)
    one = purify(diffusion(curved, sampler="ddim", eta=1.0, steps=20), images, noise)
    two = purify(diffusion(curved, variance="fixed_small", steps=20), images, noise)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [5, 40])
def test_pf_ode_is_euler_on_the_probability_flow_ode(
    curved: Denoiser, fixed_noise: Callable[..., Noise], images: Tensor, steps: int
) -> None:
    schedule = curved.schedule

    def flow(time: Tensor, u: Tensor) -> Tensor:
        t = float(time)
        level = schedule.level_at(t)
        score = -curved.epsilon(u, level) / (1 - level.alpha_bar) ** 0.5
        return -0.5 * schedule.beta(t) * (u + score)

    purifier = DiffusionPurifier(curved, tuple(pf_ode(schedule, t_star=100, steps=steps)), 1.0, "none", False)
    chain = torch.stack(states(purifier, images, fixed_noise(3, 1, 8, 8, dtype=DTYPE)))
    times = torch.linspace(0.1, END_TIME, steps + 1, dtype=DTYPE)
    torch.testing.assert_close(chain, odeint(flow, 2 * images - 1, times, method="euler"), rtol=1e-9, atol=1e-9)


def test_the_first_sde_step_is_euler_maruyama_at_time_t_star(curved: Denoiser) -> None:
    """u + [beta u / 2 + beta score] h + sqrt(beta h) z with score = -eps / sqrt(1 - abar)."""
    level, beta, h = curved.schedule.level_at(0.1), curved.schedule.beta(0.1), (0.1 - END_TIME) / 100
    step = vp_sde(curved.schedule, t_star=100, steps=100)[0]
    assert (step.level, step.x0_weight) == (level, 0)
    assert step.state_weight == pytest.approx(1 + beta * h / 2, rel=1e-12)
    assert step.eps_weight == pytest.approx(-beta * h / (1 - level.alpha_bar) ** 0.5, rel=1e-12)
    assert step.noise_weight == pytest.approx((beta * h) ** 0.5, rel=1e-12)
