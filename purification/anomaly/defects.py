"""Synthetic defects: a normal image with a small part that does not belong, and the mask of that part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from purification.philox import generator
from purification.statistics import Array

LEAST = 0.25  # mean change over the mask, so that a defect is one
TRIES = 1000
Corners = tuple[slice, slice]


def _square(rng: np.random.Generator, image: Array, share: float) -> Corners:
    """Rows and columns of a square whose side is a share of the shorter side of the image."""
    height, width = image.shape[1:]
    side = max(1, round(share * min(height, width)))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    return slice(top, top + side), slice(left, left + side)


def scratch(image: Array, share: float, rng: np.random.Generator) -> Array:
    """A straight line across a square of the image, white or black, whichever differs more from what it covers."""
    height, width = image.shape[1:]
    rows, columns = _square(rng, image, share)
    middle = (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
    angle, half = np.pi * rng.random(), (rows.stop - rows.start) / 2
    along = np.linspace(-half, half, 8 * int(np.ceil(2 * half)) + 1)
    across = np.clip(np.round(middle[0] + along * np.sin(angle)), 0, height - 1).astype(int)
    down = np.clip(np.round(middle[1] + along * np.cos(angle)), 0, width - 1).astype(int)
    out = image.copy()
    out[:, across, down] = 1.0 if image[:, across, down].mean() < 0.5 else 0.0
    return out


def patch(image: Array, share: float, rng: np.random.Generator) -> Array:
    """A square with black and white exchanged."""
    rows, columns = _square(rng, image, share)
    out = image.copy()
    out[:, rows, columns] = 1.0 - out[:, rows, columns]
    return out


def paste(image: Array, share: float, rng: np.random.Generator) -> Array:
    """A square that covers another one of the same image (CutPaste, Li et al. 2021)."""
    rows, columns = _square(rng, image, share)
    to_rows, to_columns = _square(rng, image, share)
    out = image.copy()
    out[:, to_rows, to_columns] = image[:, rows, columns]
    return out


DEFECTS: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "scratch": scratch,
    "patch": patch,
    "paste": paste,
}


def with_defect(image: Array, defect: str, share: float, *, seed: int, number: int) -> tuple[Array, Array]:
    """Image (C, H, W) in [0, 1] with a defect, and the mask (H, W) of the pixels it changed.

    share   side of the square that holds the defect, in units of the shorter side
    number  dataset index, which keys the randomness with the seed and the defect

    Places where the defect would change less than `LEAST` on average are drawn again; raises ValueError where there is
    no other.
    """
    for draw in range(TRIES):
        made = DEFECTS[defect](image, share, generator(seed, "defects", defect, number, draw))
        change = np.abs(made - image).mean(axis=0)
        mask = change > 0
        if mask.any() and change[mask].mean() >= LEAST and mask.sum() >= 0.5 * max(1.0, share * image.shape[1]):
            return made, mask
    raise ValueError(f"expected a place for defect {defect!r} on image {number}, got none — choose other defects")
