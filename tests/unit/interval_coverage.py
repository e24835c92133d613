"""Simulated coverage of every interval, over stated populations, at the numbers of images that
runs use.

Printed as a Markdown table, in about two minutes, by: PYTHONPATH=. .venv/bin/python
tests/unit/interval_coverage.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import beta

from purification import intervals
from purification.intervals import Array, Pivot
from purification.philox import generator
from purification.statistics import worst_of

SIZES = (4, 8, 10, 40, 60, 100, 200, 300)
SEED = 14
Rng = np.random.Generator
Shape = tuple[int, int]  # repetitions, images


@dataclass(frozen=True)
class Population:
    """A law of samples, and the true value of what is estimated; `draw` gives one number per image, or a pair."""

    name: str
    truth: float
    draw: Callable[[Rng, Shape], Array | tuple[Array, Array]]


@dataclass(frozen=True)
class Covered:
    """Share of the intervals of one method that contain the truth: over all populations, and for the worst one."""

    method: str
    n: int
    mean: float
    lowest: float
    at: str


# --- images that are right or wrong


def draw_shares(rng: Rng, shape: Shape, *, p: float) -> Array:
    return (rng.random(shape) < p).astype(float)


def shares() -> Iterator[Population]:
    for p in (0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5):
        yield Population(f"p = {p}", p, partial(draw_shares, p=p))


# --- rates: every image has a probability P_i of being right, and is judged on some draws

MEANS = (0.01, 0.03, 0.1, 0.3, 0.5)
LIKENESS = (
    0.0,
    0.1,
    0.3,
    0.7,
    1.0,
)  # correlation of two draws of one image; P_i are U-shaped from about .5 on
SURVIVAL = worst_of(np.arange(20) < np.arange(21)[:, None], 10)  # by the number of right draws among 20


def concentrations(mean: float, likeness: float) -> tuple[float, float]:
    """Parameters of the beta law of P_i."""
    total = (1.0 - likeness) / likeness
    return mean * total, (1.0 - mean) * total


def draw_probabilities(rng: Rng, shape: Shape, mean: float, likeness: float) -> Array:
    if likeness == 0.0:
        return np.full(shape, mean)
    if likeness == 1.0:
        return draw_shares(rng, shape, p=mean)
    return rng.beta(*concentrations(mean, likeness), shape)


def draw_rates(rng: Rng, shape: Shape, *, mean: float, likeness: float, draws: int) -> Array:
    return rng.binomial(draws, draw_probabilities(rng, shape, mean, likeness)) / draws


def draw_survival(rng: Rng, shape: Shape, *, mean: float, likeness: float) -> Array:
    right = rng.binomial(20, draw_probabilities(rng, shape, mean, likeness))
    return np.asarray(SURVIVAL[right])


def rates() -> Iterator[Population]:
    """Means of 2 and 20 draws, and the share of images that survive 10 of 20."""
    for draws in (2, 20):
        yield Population(
            f"all wrong, {draws} draws",
            0.0,
            partial(draw_rates, mean=0.0, likeness=0.0, draws=draws),
        )
        for mean in MEANS:
            for likeness in LIKENESS:
                name = f"mean {mean}, likeness {likeness}, {draws} draws"
                yield Population(name, mean, partial(draw_rates, mean=mean, likeness=likeness, draws=draws))
    for mean, likeness in ((0.95, 0.3), (0.8, 0.7), (0.6, 0.1)):
        a, b = concentrations(mean, likeness)
        truth = math.prod((a + i) / (a + b + i) for i in range(10))
        name = f"10 of 20 draws, mean {mean}, likeness {likeness}"
        yield Population(name, truth, partial(draw_survival, mean=mean, likeness=likeness))


# --- paired differences: single draws that disagree never to often, and pairs of rates

DISCORDANT = (  # probability that only the first, and that only the second, is right
    *((0.0, 0.0), (0.01, 0.0), (0.03, 0.0), (0.03, 0.03), (0.1, 0.0)),
    *((0.1, 0.1), (0.3, 0.05), (0.3, 0.3), (0.6, 0.1)),
)
PAIRS = (  # mean of the first and of the second, likeness of both, share of the images with the same rank in both
    *((0.5, 0.5, 0.7, 0.9), (0.5, 0.4, 0.7, 0.9), (0.9, 0.8, 0.7, 0.9), (0.95, 0.95, 0.5, 0.5)),
    *((0.6, 0.3, 0.3, 0.5), (0.2, 0.15, 0.7, 0.9), (0.5, 0.5, 0.1, 1.0), (0.99, 0.9, 0.7, 0.9)),
)
RANKS = (np.arange(4096) + 0.5) / 4096


def draw_discordant(rng: Rng, shape: Shape, *, better: float, worse: float) -> Array:
    u = rng.random(shape)
    return (u < better).astype(float) - (u > 1.0 - worse)


def draw_paired(
    rng: Rng,
    shape: Shape,
    *,
    first: Array,
    second: Array,
    agreement: float,
    draws: tuple[int, int],
) -> Array:
    """first, second  P_i by rank"""
    rank = rng.integers(0, len(RANKS), shape)
    other = np.where(rng.random(shape) < agreement, rank, rng.integers(0, len(RANKS), shape))
    left = rng.binomial(draws[0], first[rank]) / draws[0]
    right = rng.binomial(draws[1], second[other]) / draws[1]
    return left - right


def differences() -> Iterator[Population]:
    for better, worse in DISCORDANT:
        draw = partial(draw_discordant, better=better, worse=worse)
        yield Population(f"better {better}, worse {worse}", better - worse, draw)
    for one, other, likeness, agreement in PAIRS:
        first = beta.ppf(RANKS, *concentrations(one, likeness))
        second = beta.ppf(RANKS, *concentrations(other, likeness))
        truth = float(first.mean() - second.mean())
        for draws in ((2, 2), (20, 20), (1, 20)):
            name = f"{one} and {other}, likeness {likeness}, {draws[0]} and {draws[1]} draws"
            draw = partial(draw_paired, first=first, second=second, agreement=agreement, draws=draws)
            yield Population(name, truth, draw)


# --- measurements and ratios of them


def draw_gamma(rng: Rng, shape: Shape, *, variation: float) -> Array:
    """Positive values of mean 1 with this coefficient of variation (sd / mean)."""
    k = 1.0 / variation**2
    return rng.gamma(k, 1.0 / k, shape)


def draw_lognormal(rng: Rng, shape: Shape, *, sigma: float) -> Array:
    """Positive values of mean 1."""
    return rng.lognormal(-(sigma**2) / 2.0, sigma, shape)


def measurements() -> Iterator[Population]:
    """Normal, uniform, and skewed values; rates of compression vary by about .2."""
    yield Population("normal", 0.0, lambda rng, shape: rng.normal(size=shape))
    yield Population("uniform", 0.5, lambda rng, shape: rng.random(shape))
    for variation in (0.2, 0.5, 1.0):
        yield Population(f"gamma, variation {variation}", 1.0, partial(draw_gamma, variation=variation))
    for sigma in (0.2, 0.5):
        yield Population(f"lognormal, sigma {sigma}", 1.0, partial(draw_lognormal, sigma=sigma))


def draw_path(rng: Rng, shape: Shape, *, start: float, growth: float, sigma: float) -> tuple[Array, Array]:
    """Distances at the end and at the start of a path: the start times a random growth, plus what noise adds."""
    first = draw_gamma(rng, shape, variation=start)
    last = growth * first * draw_lognormal(rng, shape, sigma=sigma) + rng.gamma(4.0, 0.05, shape)
    return last, first


def ratios() -> Iterator[Population]:
    for start in (0.02, 0.2, 0.5):
        for growth, sigma in ((0.7, 0.1), (1.0, 0.3), (3.0, 0.5)):
            draw = partial(draw_path, start=start, growth=growth, sigma=sigma)
            yield Population(f"start varies by {start}, growth {growth} with sigma {sigma}", growth + 0.2, draw)


METHODS: dict[str, tuple[Callable[..., Pivot], Callable[[], Iterator[Population]]]] = {
    "wilson": (intervals.score_of, shares),
    "rate": (intervals.score_of, rates),
    "difference": (intervals.normal_of, differences),
    "mean": (intervals.student_of, measurements),
    "ratio": (intervals.fieller_of, ratios),
}


def coverage(method: str, population: Population, n: int, repetitions: int) -> float:
    """Share of the intervals that contain the truth; one with NaN ends claims nothing, so it is not wrong."""
    interval, _ = METHODS[method]
    rng = generator(SEED, "coverage", f"{method}, {population.name}", step=n)
    sample = population.draw(rng, (repetitions, n))
    arrays = sample if isinstance(sample, tuple) else (sample,)
    low, high = interval(*arrays).interval()
    return 1.0 - float(np.mean((low > population.truth + 1e-12) | (high < population.truth - 1e-12)))


def covered(method: str, n: int, repetitions: int) -> Covered:
    """Coverage averaged over the populations of a method, and the lowest of them."""
    found = {each.name: coverage(method, each, n, repetitions) for each in METHODS[method][1]()}
    at = min(found, key=lambda name: found[name])
    return Covered(method, n, float(np.mean([*found.values()])), found[at], at)


if __name__ == "__main__":
    print("| interval | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name in METHODS:
        cells = [covered(name, n, 20_000) for n in SIZES]
        print(f"| `{name}` | " + " | ".join(f"{cell.mean:.3f} ({cell.lowest:.3f})" for cell in cells) + " |")
