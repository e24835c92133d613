"""Self-examination of a defence's gradient; a robust accuracy whose audit fails means nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from purification.defence import Defence
from purification.noise import NoiseSource


def _relative(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| / ||b|| per image; 0 where both vanish."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    size = torch.linalg.vector_norm
    ratio: Tensor = size(a - b, dim=1) / size(b, dim=1).clamp_min(1e-300)
    return ratio


def audit(
    defence: Defence,
    exact: Defence,
    images: Tensor,
    labels: Tensor,
    ids: Sequence[int],
    source: NoiseSource,
    *,
    step: float,
) -> dict[str, Tensor]:
    """Per-image checks (n,), all of which should be (nearly) zero except the last.

    replay_difference      relative difference of the replayed gradient (nothing kept) and plain autograd, float32
    finite_difference      relative error of a random directional derivative, central differences with `step`, float64
    repeat_difference      largest absolute difference of two purifications with the same noise
    zero_gradient          1 where the gradient of the margin vanishes or is not finite (masked gradient)
    bpda_cosine            cosine of the BPDA gradient with the exact one (information, not a check)

    exact  the same defence in float64
    """

    def slope(d: Defence, x: Tensor, noise: NoiseSource, mode: str) -> tuple[Tensor, Tensor]:
        out = d.loss_gradient(x, labels, ids, noise, 0, loss="margin", mode=mode, kept_steps=0)
        return out[0], out[1]

    plain = slope(defence, images, source, "autograd")[1]
    replayed = slope(defence, images, source, "replay")[1]
    straight = slope(defence, images, source, "bpda")[1]
    double = replace(source, dtype=torch.float64)
    x = images.double()
    direction = double(ids).normal("direction")
    derivative = (slope(exact, x, double, "replay")[1] * direction).flatten(1).sum(dim=1)
    up, down = (slope(exact, x + sign * step * direction, double, "autograd")[0] for sign in (1, -1))
    difference = (up - down) / (2 * step)
    scale = torch.maximum(derivative.abs(), difference.abs()).clamp_min(1e-300)
    twice = [defence.purify(images, ids, source, 0) for _ in range(2)]
    size = plain.flatten(1).norm(dim=1)
    return {
        "replay_difference": _relative(replayed, plain),
        "finite_difference": (derivative - difference).abs() / scale,
        "repeat_difference": (twice[0] - twice[1]).flatten(1).abs().amax(dim=1),
        "zero_gradient": ((size == 0) | ~torch.isfinite(size)).double(),
        "bpda_cosine": torch.cosine_similarity(straight.flatten(1), plain.flatten(1)),
    }
