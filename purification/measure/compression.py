"""Compression rate: how much a purifier with frozen noise shrinks differences between inputs.

Isotropic, about the centroid (definition b2 of the reconstructed protocol):
    CR_i = E_u ||f(x_i + u; w) - c_i||_2 / E ||u||_2,  u ~ U[-eps, eps]^D, c_i the mean output (N/(N-1) corrected)
about the anchor f(x_i; w) instead of c_i, and along one given direction:
    CR_adv,i = ||f(x_i'; w) - f(x_i; w)|| / ||x_i' - x_i||
"""

from __future__ import annotations

import torch
from torch import Tensor

from purification.measure.randomness import Purify, centroid_radius


def isotropic(purify: Purify, image: Tensor, anchor: Tensor, probes: Tensor) -> dict[str, float]:
    """Compression rates of one image (C, H, W) over probes (N, C, H, W), N >= 2, with the frozen noise (draw 0)."""
    if len(probes) < 2 or not probes.any():
        raise ValueError(f"expected at least 2 probes that are not zero, got {len(probes)} — raise samples or epsilon")
    outputs = purify(image + probes, [0] * len(probes))
    before = float(probes.flatten(1).double().norm(dim=1).mean())
    about_anchor = float((outputs - anchor).flatten(1).double().norm(dim=1).mean())
    return {
        "radius_before": before,
        "radius_after": centroid_radius(outputs),
        "compression": centroid_radius(outputs) / before,
        "compression_anchor": about_anchor / before,
    }


def directional(purified: Tensor, anchor: Tensor, adversarial: Tensor, clean: Tensor) -> Tensor:
    """Compression along x' - x per image, (n,); NaN where the attack did not move the image."""
    moved = (adversarial - clean).flatten(1).double().norm(dim=1)
    after = (purified - anchor).flatten(1).double().norm(dim=1)
    return torch.where(moved > 0, after / moved, torch.nan)
