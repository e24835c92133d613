"""Simulated sweeps: binomial noise on images that all purifiers share, and purifiers that scatter
about the law.

The design (compression rate, t*, sampler) is like that of the default run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from purification.sigmoids import scaled
from purification.statistics import Array

DESIGN = (
    *(
        (0.57, 10, "ddpm"),
        (0.36, 25, "ddpm"),
        (0.27, 50, "ddpm"),
        (0.24, 75, "ddpm"),
        (0.22, 100, "ddpm"),
    ),
    *(
        (0.18, 150, "ddpm"),
        (0.17, 200, "ddpm"),
        (0.16, 300, "ddpm"),
        (0.17, 200, "ddpm"),
        (0.20, 100, "ddpm"),
    ),
    *(
        (0.17, 200, "ddpm"),
        (0.70, 10, "ddim"),
        (0.48, 25, "ddim"),
        (0.34, 50, "ddim"),
        (0.26, 100, "ddim"),
    ),
    *(
        (0.20, 200, "ddim"),
        (0.19, 200, "ddim"),
        (0.53, 25, "ode"),
        (0.37, 50, "ode"),
        (0.27, 100, "ode"),
    ),
    *(
        (0.22, 200, "ode"),
        (0.21, 100, "sde"),
        (0.16, 200, "sde"),
        (0.25, 100, "one"),
        (0.21, 200, "one"),
    ),
)
RATES = np.array([point[0] for point in DESIGN])
STARS = np.array([point[1] for point in DESIGN])
SAMPLERS = np.array([point[2] for point in DESIGN])
FACTORS = {"t*": STARS, "sampler": SAMPLERS}
SHARED = 0.4  # correlation of an image's difficulty between purifiers


@dataclass(frozen=True)
class Scatter:
    """How purifiers scatter about the law.

    dispersion    variance of an accuracy over the binomial one on `images` images
    star, sampler  shares of what exceeds it that purifiers of a common t*, of a common sampler,
                   have in common
    """

    dispersion: float = 1.0
    star: float = 0.0
    sampler: float = 0.0


def common(labels: Array, rng: np.random.Generator) -> Array:
    """One standard normal number per label."""
    groups, place = np.unique(labels, return_inverse=True)
    return np.asarray(rng.normal(size=len(groups))[place])


def judged(law: tuple[float, float, float], scatter: Scatter, images: int, rng: np.random.Generator) -> Array:
    """(images, purifiers) right or wrong, 1 or 0."""
    expected = scaled(RATES, *law)
    alone = np.sqrt(1.0 - scatter.star - scatter.sampler) * rng.normal(size=len(RATES))
    moved = alone + np.sqrt(scatter.star) * common(STARS, rng) + np.sqrt(scatter.sampler) * common(SAMPLERS, rng)
    size = np.sqrt((scatter.dispersion - 1.0) * expected * (1.0 - expected) / images)
    chance = np.clip(expected + size * moved, 1e-4, 1.0 - 1e-4)
    difficulty = np.sqrt(SHARED) * rng.normal(size=(images, 1))
    noise = np.sqrt(1.0 - SHARED) * rng.normal(size=(images, len(RATES)))
    return np.asarray(norm.ppf(chance) > difficulty + noise).astype(float)
