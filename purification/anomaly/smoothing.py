"""Certified bounds of a score by percentile smoothing, from finitely many noisy samples.

h_p(x) is the p-quantile of A(x + sigma n). For every ||d||_2 <= r (Chiang et al. 2020, arXiv 2007.03730, Lemma 2)
    h_{Phi(Phi^-1(p) - r / sigma)}(x) <= h_p(x + d) <= h_{Phi(Phi^-1(p) + r / sigma)}(x)
as long as A reads the noisy image only. Both sides are quantiles at the clean image, bounded by order statistics.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom, norm

from purification.statistics import Array


def shifted(percentile: float, shift: float) -> float:
    """Phi(Phi^-1(p) + shift)."""
    return float(norm.cdf(norm.ppf(percentile) + shift))


def quantile_bounds(samples: Array, quantile: float, failure: float) -> tuple[float, float]:
    """Numbers below and above the true quantile, each with probability at least 1 - failure.

    Of n samples, at most k - 1 lie at or below the q-quantile with probability at most P(Bin(n, q) <= k - 1): the
    largest k for which this is at most `failure` gives the lower bound, the k-th smallest sample; the upper one alike.
    -inf and inf where no order statistic is sure enough.
    """
    ordered, n = np.sort(np.asarray(samples, dtype=float)), len(samples)
    lower, upper = int(binom.ppf(failure, n, quantile)), int(binom.isf(failure, n, quantile)) + 1
    return (
        float(ordered[lower - 1]) if lower >= 1 else -math.inf,
        float(ordered[upper - 1]) if upper <= n else math.inf,
    )


def certified_bounds(
    samples: Array, *, percentile: float, radius: float, sigma: float, failure: float
) -> tuple[float, float]:
    """Bounds of the smoothed score under any l2 perturbation up to `radius`, each sure with 1 - failure.

    samples  (n,) scores of the image under noise of deviation sigma; radius in the same units as sigma
    """
    shift = radius / sigma
    lower, _ = quantile_bounds(samples, shifted(percentile, -shift), failure)
    _, upper = quantile_bounds(samples, shifted(percentile, shift), failure)
    return lower, upper
