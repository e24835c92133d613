"""Distance to the clean image along the purification path (Fig. 1c of arXiv 2505.22839).

The path has two halves: noise injection, where the state at level abar is sqrt(abar) u0 + sqrt(1 - abar) eps with the
forward noise of the draw, and the reverse steps. States are mapped to image units, (u + 1) / 2, without rescaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from purification.models.denoisers import resized
from purification.noise import Noise
from purification.purifiers import DiffusionPurifier, Purifier, ResizedPurifier
from purification.samplers import Step

WINDOW = 7


def l2(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||_2 per image, (B,)."""
    norms: Tensor = torch.linalg.vector_norm((a - b).flatten(1), dim=1)
    return norms


def linf(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||_inf per image, (B,)."""
    return (a - b).flatten(1).abs().amax(dim=1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity per image of at least 7x7 pixels (Wang et al. 2004, 7x7 windows, data range 1), (B,)."""
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(
            f"expected images of at least {WINDOW}x{WINDOW} pixels, got {tuple(a.shape[-2:])} — SSIM needs a window"
        )
    pairs = zip(a.double().cpu().numpy(), b.double().cpu().numpy(), strict=True)
    values = [structural_similarity(x, y, data_range=1.0, channel_axis=0, win_size=WINDOW) for x, y in pairs]
    return torch.tensor(np.array(values), dtype=torch.float32)


METRICS = {"l2": l2, "linf": linf, "ssim": ssim}


def _forward_alpha_bars(table: tuple[Step, ...]) -> list[float]:
    """abar of the noise-injection points: the reverse levels upwards (the last starts the reverse half)."""
    return [step.level.alpha_bar for step in reversed(table)]


def path(purifier: Purifier, images: Tensor, noise: Noise) -> Iterator[tuple[str, float, Tensor]]:
    """(half, position, state in image units): "forward" 0 .. 1 and "reverse" 1 .. 2, then the final image at 2."""
    yield "forward", 0.0, images
    if isinstance(purifier, DiffusionPurifier) and purifier.start_alpha_bar < 1.0:
        levels = _forward_alpha_bars(purifier.table)[:-1]
        for k, alpha_bar in enumerate(levels, start=1):
            yield "forward", k / (len(levels) + 1), 0.5 * (purifier.noised(images, noise, alpha_bar) + 1.0)
    state = purifier.start(images, noise)
    if purifier.num_steps:
        yield "reverse", 1.0, 0.5 * (state + 1.0)
    for number in range(purifier.num_steps):
        state = purifier.step(number, state, images, noise)
        if number < purifier.num_steps - 1:
            yield "reverse", 1.0 + (number + 1) / purifier.num_steps, 0.5 * (state + 1.0)
    yield "reverse", 2.0, purifier.finish(state)


def distances_along(purifier: Purifier, start: Tensor, clean: Tensor, noise: Noise) -> list[dict[str, Any]]:
    """One record per point of the path: position and every metric of `METRICS` as (B,) tensors.

    A purifier of another size is measured at its own, with the images brought to it.
    """
    if isinstance(purifier, ResizedPurifier):
        start, clean, noise = resized(start, purifier.size), resized(clean, purifier.size), noise.sized(purifier.size)
        purifier = purifier.inner
    with torch.no_grad():
        return [
            {"half": half, "position": position, **{name: f(state, clean) for name, f in METRICS.items()}}
            for half, position, state in path(purifier, start, noise)
        ]
