"""Self-examination of a defence's gradient; a robust accuracy whose audit fails means nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purification.batching import map_batches
from purification.defence import Defence
from purification.measure.masks import masked_share
from purification.noise import NoiseSource

logger = logging.getLogger("purification")


@dataclass(frozen=True)
class Sample:
    """What is audited: images (n, C, H, W) in [0, 1], labels (n,), dataset indices, and the frozen noise (draw 0)."""

    images: Tensor
    labels: Tensor
    ids: Sequence[int]
    source: NoiseSource

    def double(self) -> Sample:
        """The same numbers in float64."""
        return replace(self, images=self.images.double(), source=replace(self.source, dtype=torch.float64))

    def moved(self, change: Tensor) -> Sample:
        return replace(self, images=self.images + change)


def _slope(defence: Defence, sample: Sample, mode: str) -> tuple[Tensor, Tensor]:
    """Margin (n,) and its gradient (n, C, H, W)."""
    values, slopes, _ = defence.loss_gradient(
        sample.images, sample.labels, sample.ids, sample.source, 0, loss="margin", mode=mode, kept_steps=0
    )
    return values, slopes


def _relative(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| / ||b|| per image; 0 where both vanish."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    size = torch.linalg.vector_norm
    ratio: Tensor = size(a - b, dim=1) / size(b, dim=1).clamp_min(1e-300)
    return ratio


def _finite_difference(exact: Defence, sample: Sample, step: float) -> Tensor:
    """|d - f| / max(|d|, |f|), d = <grad, v> and f the central difference along a random v; NaN without float64."""
    direction = sample.source(sample.ids).normal("direction")
    try:
        slope = _slope(exact, sample, "replay")[1]
        up, down = (_slope(exact, sample.moved(sign * step * direction), "autograd")[0] for sign in (1, -1))
    except ValueError as refusal:
        logger.warning("no derivative in float64, so it is not compared with finite differences: %s", refusal)
        return torch.full((len(sample.ids),), torch.nan, dtype=torch.float64)
    derivative = (slope * direction).flatten(1).sum(dim=1)
    difference = (up - down) / (2 * step)
    scale = torch.maximum(derivative.abs(), difference.abs()).clamp_min(1e-300)
    error: Tensor = (derivative - difference).abs() / scale
    return error


def _masks(defence: Defence, sample: Sample) -> Tensor:
    def run(block: list[int]) -> Tensor:
        noise = sample.source([sample.ids[i] for i in block])
        return masked_share(defence.purifier, sample.images[block], noise)

    return map_batches(run, range(len(sample.ids)), defence.batch_size)


def _cosines(defence: Defence, sample: Sample, exact: Tensor) -> dict[str, Tensor]:
    """Cosine of every approximate gradient with the exact one."""
    unknown = torch.full((len(sample.ids),), torch.nan)
    found = {}
    for mode in ("bpda", "surrogate", "adjoint"):
        known = mode != "surrogate" or defence.surrogate is not None
        slope = _slope(defence, sample, mode)[1] if known else exact
        cosine = torch.cosine_similarity(slope.flatten(1), exact.flatten(1))
        found[f"{mode}_cosine"] = cosine if known else unknown
    return found


def audit(defence: Defence, exact: Defence, sample: Sample, *, step: float, epsilon: float) -> dict[str, Tensor]:
    """Per-image checks (n,); all but the last four should be (nearly) zero.

    replay_difference      relative difference of the replayed gradient (nothing kept) and plain autograd, float32
    finite_difference      relative error of a random directional derivative, central differences with `step`, float64;
                           NaN where the defence has no derivative in float64
    repeat_difference      largest absolute difference of two purifications with the same noise
    zero_gradient          1 where the gradient of the margin vanishes although random signs of size epsilon change the
                           margin (masked gradient)
    not_finite             share of NaN and infinity in the gradient of the margin
    masked                 share of the purifier's derivatives that a clamp or a rounding sets to zero (`masks`)
    <mode>_cosine          cosine of the BPDA, surrogate and adjoint gradient with the exact one (information, not a
                           check); NaN for the surrogate of a defence that has none
    loss_change            |margin(x + epsilon s) - margin(x)|, s random signs (information)

    exact  the same defence in float64
    """
    value, plain = _slope(defence, sample, "autograd")
    replayed = _slope(defence, sample, "replay")[1]
    signs = sample.source(sample.ids).normal("signs").sign()
    change = (_slope(defence, sample.moved(epsilon * signs), "bpda")[0] - value).abs()
    first, second = (defence.purify(sample.images, sample.ids, sample.source, 0) for _ in range(2))
    vanishes = ~plain.flatten(1).any(dim=1)
    return {
        "replay_difference": _relative(replayed, plain),
        "finite_difference": _finite_difference(exact, sample.double(), step),
        "repeat_difference": (first - second).flatten(1).abs().amax(dim=1),
        "zero_gradient": (vanishes & (change > 0)).double(),
        "not_finite": (~torch.isfinite(plain)).flatten(1).double().mean(dim=1),
        "masked": _masks(defence, sample),
        **_cosines(defence, sample, plain),
        "loss_change": change,
    }
