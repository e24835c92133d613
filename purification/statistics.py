"""Estimators and intervals for robustness numbers.

Notation of all docstrings: P_i is the probability that the defence classifies image i correctly over its randomness;
`correct` (n, M) says whether draw m of image i was correct, on draws that chose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import binomtest

from purification.philox import generator

Array = NDArray[Any]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int


def _require(n: int) -> None:
    if n < 1:
        raise ValueError("expected at least one image, got none — raise the number of images")


def wilson(successes: int, n: int) -> Estimate:
    """Proportion with its Wilson score interval; n >= 1."""
    _require(n)
    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n)


def bootstrap(rows: Array, statistic: Callable[[Array], float | Array], *, resamples: int, seed: int) -> Estimate:
    """Percentile bootstrap over images: `rows` (n, ...) holds one row per image, draws nested in it.

    statistic  array of rows -> number; it is called once per resample
    """
    n = len(rows)
    _require(n)
    rng = generator(seed, "bootstrap", "images")
    values = np.array([statistic(rows[rng.integers(0, n, n)]) for _ in range(resamples)], dtype=float)
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    return Estimate(float(statistic(rows)), float(low), float(high), n)


def mean_estimate(values: Array, *, resamples: int, seed: int) -> Estimate:
    """Mean of one number per image with its bootstrap interval (vectorised)."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    _require(n)
    picks = generator(seed, "bootstrap", "images").integers(0, n, (resamples, n))
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(values[picks].mean(axis=1), [tail, 100.0 - tail])
    return Estimate(float(values.mean()), float(low), float(high), n)


def average_robustness(correct: Array) -> Array:
    """Per-image estimate of P_i; its mean is Avg.Rob."""
    return np.asarray(np.mean(correct, axis=1, dtype=float))


def worst_of(correct: Array, attempts: int) -> Array:
    """Per-image unbiased estimate of P_i^N, C(k, N) / C(M, N) with k of M draws correct; its mean is Wor.Rob_N."""
    draws = correct.shape[1]
    if not 1 <= attempts <= draws:
        raise ValueError(f"expected 1 <= N <= M = {draws} draws, got N = {attempts} — evaluate with more draws")
    k = np.asarray(correct).sum(axis=1).astype(float)

    def log_choose(m: Array | float) -> Array:
        return np.asarray(gammaln(m + 1.0) - gammaln(np.maximum(m - attempts, 0.0) + 1.0))

    return np.where(k >= attempts, np.exp(log_choose(k) - log_choose(float(draws))), 0.0)


def majority_vote(predictions: Array, labels: Array, votes: int, *, subsets: int, seed: int) -> Array:
    """Per-image probability that the plurality of `votes` draws is the label; ties count as failures.

    predictions (n, M) labels per draw; averaged over `subsets` random choices of `votes` columns.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    draws = predictions.shape[1]
    _require(len(labels))
    if not 1 <= votes <= draws:
        raise ValueError(f"expected 1 <= K <= M = {draws} draws, got K = {votes} — evaluate with more draws")
    onehot = np.eye(int(max(predictions.max(), labels.max())) + 1)[predictions]
    wins = np.zeros(len(labels))
    rng = generator(seed, "bootstrap", "votes")
    for _ in range(subsets):
        counts = onehot[:, rng.permutation(draws)[:votes]].sum(axis=1)
        own = counts[np.arange(len(labels)), labels]
        counts[np.arange(len(labels)), labels] = -1
        wins += own > counts.max(axis=1)
    return wins / subsets


def mcnemar(first: Array, second: Array) -> float:
    """Two-sided exact McNemar p-value of two paired boolean arrays (1 when they never differ)."""
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
