"""What a reader gives: the parts of a data set, labels at once and images one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

TRAIN, TEST = "train", "test"
Pixels = np.ndarray


@dataclass(frozen=True)
class Part:
    """One part of a data set, as its files have it.

    labels  (n,) int64, of all images
    read    images (C, H, W) of the positions given, which ascend: uint8, 255 for white, or float32 in [0, 1]
    """

    labels: np.ndarray
    read: Callable[[Sequence[int]], Iterator[Pixels]]


def checked_labels(labels: Any, classes: int, place: str) -> np.ndarray:
    """Labels as int64; raises ValueError unless they are whole numbers in 0..classes-1."""
    found = np.asarray(labels)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"expected one whole number per image as label in {place}, got {found.dtype} of shape {found.shape} — "
            "name the column or key of the labels"
        )
    wrong = np.flatnonzero((found < 0) | (found >= classes))
    if len(wrong):
        raise ValueError(
            f"expected labels in 0..{classes - 1} in {place}, got {found[wrong[0]]} in record {wrong[0]} — correct "
            "`classes` or the file"
        )
    return found.astype(np.int64)


def checked_shape(shape: tuple[int, ...], wanted: tuple[int, ...], place: str) -> None:
    """Raise ValueError unless one image has the shape that the settings say."""
    if shape != wanted:
        raise ValueError(
            f"expected images of shape {wanted} (channels, height, width) in {place}, got {shape} — correct "
            "`channels`, `size` or `resize`"
        )


def checked_classes(found: int, classes: int, what: str) -> None:
    """Raise ValueError unless the file's own list of classes has the length that the settings say."""
    if found != classes:
        raise ValueError(f"expected {classes} classes in {what}, got {found} — correct `classes` or the file")


def joined(labels: Sequence[np.ndarray], read: Any) -> Part:
    """One part of several files; `read(number of the file, positions in it)` gives images."""
    starts = list(accumulate((len(one) for one in labels), initial=0))

    def images(wanted: Sequence[int]) -> Iterator[Pixels]:
        for number, start in enumerate(starts[:-1]):
            inside = [position - start for position in wanted if start <= position < starts[number + 1]]
            if inside:
                yield from read(number, inside)

    return Part(np.concatenate(labels), images)
