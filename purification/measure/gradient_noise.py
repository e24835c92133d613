"""How much the gradient that an attack averages over draws still differs from the gradient of the mean loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from purification.defence import Defence
from purification.measure.audit import Sample

COMPARED = ("cosine", "relative_variance", "same_sign")  # columns of `gradient_noise`


def _means(defence: Defence, sample: Sample, first: int, counts: Sequence[int], loss: str) -> Iterator[Tensor]:
    """Mean gradients (n, D) in float64 over the first N of the draws that begin at `first`, for every N."""
    total = torch.zeros(sample.images.flatten(1).shape, dtype=torch.float64, device=sample.images.device)
    for number in range(max(counts)):
        where = (sample.images, sample.labels, sample.ids, sample.source, first + number)
        values, slope, _ = defence.loss_gradient(*where, loss=loss, mode="replay", kept_steps=0)
        total = total + _weight(loss, values) * slope.flatten(1).double()
        if number + 1 in counts:
            yield total / (number + 1)


def _weight(loss: str, values: Tensor) -> Tensor:
    """What a draw counts in an attack's average, (n, 1): by its 1 - p_y where the loss stands for cross-entropy."""
    log_odds = values.double()[:, None]
    return torch.sigmoid(log_odds) if loss == "ce" else torch.ones_like(log_odds)


def gradient_noise(
    defence: Defence, sample: Sample, *, draws: Sequence[int], reference: int, loss: str
) -> dict[int, dict[str, Tensor]]:
    """N -> per-image (n,) distance of the mean gradient over N draws from that over `reference` other draws.

    cosine             of the two; 1 where both vanish
    relative_variance  ||g_N - g_R||^2 / ||g_R||^2, with expectation s^2 (1 / N + 1 / R) / ||g||^2 (about), s^2 the
                       summed variance of one draw's gradient (Kassis et al. 2025 on DiffPure: a plateau at N = 32-64)
    same_sign          share of pixels whose sign agrees: those an l_inf step moves the right way

    sample.source  draws that neither an attack nor an evaluation uses
    Raises NoDerivative for a purifier without one.
    """
    counts = sorted(set(draws))
    (target,) = _means(defence, sample, 0, [reference], loss)
    size = torch.linalg.vector_norm(target, dim=1)
    found = {}
    for count, mean in zip(counts, _means(defence, sample, reference, counts, loss), strict=True):
        silent = (size == 0) & ~mean.any(dim=1)
        square = (mean - target).square().sum(dim=1) / size.square().clamp_min(1e-300)
        found[count] = {
            "cosine": torch.where(silent, 1.0, torch.cosine_similarity(mean, target, dim=1, eps=1e-300)),
            "relative_variance": square,
            "same_sign": (mean.sign() == target.sign()).double().mean(dim=1),
        }
    return found
