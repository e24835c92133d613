"""Batches of one fixed size.

On CPU the result of an image is bit-identical whatever its companions as long as the batch size does not change, so
every stage runs batches of exactly the configured size and pads the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def batches(index: Sequence[int], size: int) -> Iterator[tuple[list[int], int]]:
    """Blocks of exactly `size` members of `index` and how many are valid; the last repeats its first member."""
    for start in range(0, len(index), size):
        block = list(index[start : start + size])
        yield block + [block[0]] * (size - len(block)), len(block)


def map_batches(function: Callable[[list[int]], Tensor], index: Sequence[int], size: int) -> Tensor:
    """Concatenate `function(block)` over fixed-size blocks of `index`, without the padding."""
    if not len(index):
        raise ValueError("expected at least one image, got none — raise the number of images")
    return torch.cat([function(block)[:valid] for block, valid in batches(index, size)])
