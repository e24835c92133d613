"""How much of a purified image is decided by the noise and how much by the input (Fig. 2 of arXiv 2505.22839).

Three conditions for one image x0, N samples each, perturbations u ~ U[-eps, eps]^D (not clipped):
    varied   f(x0; w_k)             image fixed, noise varies
    fixed    f(x0 + u_k; w)         noise fixed, image varies
    both     f(x0 + u_k; w_k)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from purification.noise import NoiseSource

CONDITIONS = ("varied", "fixed", "both")
Purify = Callable[[Tensor, list[int]], Tensor]


def direction_correlation(vectors: Tensor) -> float:
    """Mean off-diagonal Pearson correlation of N >= 2 vectors (N, ...); NaN where a vector is constant."""
    flat = vectors.flatten(1).double()
    if min(flat.shape) < 2:
        raise ValueError(f"expected at least 2 vectors of at least 2 pixels, got {tuple(flat.shape)} — raise samples")
    matrix = torch.corrcoef(flat)
    n = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1)))


def centroid_radius(points: Tensor) -> float:
    """Mean l2 distance to the centroid, times sqrt(N / (N - 1)): the empirical centroid is itself too close; N >= 2."""
    flat = points.flatten(1).double()
    n = len(flat)
    if n < 2:
        raise ValueError(f"expected at least 2 points, got {n} — raise samples")
    return float((flat - flat.mean(dim=0)).norm(dim=1).mean()) * math.sqrt(n / (n - 1))


def cloud_directions(purify: Purify, image: Tensor, probes: Tensor, condition: str) -> tuple[Tensor, Tensor]:
    """Inputs and purified outputs (N, C, H, W) of one image under a condition.

    purify  (inputs, draws) -> outputs; draw 0 is the frozen noise
    probes  (N, C, H, W) perturbations
    """
    n = len(probes)
    inputs = image.expand(n, -1, -1, -1) if condition == "varied" else image + probes
    draws = [0] * n if condition == "fixed" else list(range(1, n + 1))
    return inputs, purify(inputs, draws)


def decompose(purify: Purify, image: Tensor, probes: Tensor) -> dict[str, float]:
    """Correlations and radii of one image (C, H, W).

    correlation_<c>            vectors f(x_i) - x_i, output minus its own input
    correlation_from_clean_<c> vectors f(x_i) - x_0, output minus the clean image
    radius_before              mean ||u||_2;   radius_<c>  spread of the outputs about their centroid
    """
    row = {"radius_before": float(probes.flatten(1).double().norm(dim=1).mean())}
    for condition in CONDITIONS:
        inputs, outputs = cloud_directions(purify, image, probes, condition)
        row[f"correlation_{condition}"] = direction_correlation(outputs - inputs)
        row[f"correlation_from_clean_{condition}"] = direction_correlation(outputs - image)
        row[f"radius_{condition}"] = centroid_radius(outputs)
    return row


def probes_of(source: NoiseSource, image: int, count: int, epsilon: float, stream: str = "probe") -> Tensor:
    """`count` perturbations U[-epsilon, epsilon]^D of one dataset image, (count, C, H, W)."""
    return epsilon * source([image] * count, range(count)).uniform(stream)
