"""Datasets as tensors: images (n, C, H, W) float32 in [0, 1] and integer labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from purification.philox import generator

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Images, labels, and named index lists into them."""

    images: Tensor
    labels: Tensor
    subsets: Mapping[str, list[int]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def take(self, subset: str, count: int | None = None) -> tuple[Tensor, Tensor, list[int]]:
        """Images, labels and dataset indices of the first `count` members of a subset (all when None)."""
        if subset not in self.subsets:
            raise ValueError(f"expected a subset among {sorted(self.subsets)}, got {subset!r}")
        index = self.subsets[subset]
        if count is not None and count > len(index):
            raise ValueError(
                f"expected at most {len(index)} images of subset {subset!r}, got {count} — lower the count"
            )
        chosen = index[:count]
        return self.images[chosen], self.labels[chosen], chosen


def index_hash(index: list[int]) -> str:
    """sha256 of an index list, so that two papers can tell whether they used the same images."""
    return hashlib.sha256(np.asarray(index, dtype="<i8").tobytes()).hexdigest()


def _digits(settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # half of a job's start, needed once

    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 16.0
    size = settings["size"]
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return images.clamp(0.0, 1.0), torch.tensor(bundle.target, dtype=torch.int64)


READERS = {"digits": _digits}


def load_dataset(settings: Mapping[str, Any], seed: int) -> Dataset:
    """Read a dataset and split it; the split is a permutation drawn from `seed`.

    Raises ValueError when the sizes asked for exceed the dataset.
    """
    images, labels = READERS[settings["kind"]](settings)
    sizes = [settings["splits"][name] for name in SPLITS]
    if sum(sizes) > len(images):
        raise ValueError(f"expected splits of at most {len(images)} images in total, got {sum(sizes)} — lower `splits`")
    order = generator(seed, "dataset", "split").permutation(len(images)).tolist()
    bounds = np.cumsum([0, *sizes])
    subsets = {name: order[a:b] for name, a, b in zip(SPLITS, bounds, bounds[1:], strict=False)}
    return Dataset(images, labels, subsets)
