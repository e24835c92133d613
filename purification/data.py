"""Datasets as tensors: images (n, C, H, W) in [0, 1] and integer labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purification.blocks import WHOLE, Block
from purification.index_lists import SPLITS
from purification.philox import generator
from purification.readers.arrays import read_arrays
from purification.readers.cifar import read_cifar_binary, read_cifar_python
from purification.readers.digits import read_digits
from purification.readers.folders import read_folders
from purification.readers.parquet import read_parquet
from purification.readers.parts import TEST, TRAIN, Part


@dataclass(frozen=True)
class Dataset:
    """Images, labels, and named index lists into the whole data set.

    images   (n, C, H, W), float32 in [0, 1], or uint8 with 255 for white
    labels   (n,)
    subsets  dataset indices of every subset
    ids      dataset index of every image, ascending; None when image k has index k
    classes  number of classes; None when the largest label tells
    """

    images: Tensor
    labels: Tensor
    subsets: Mapping[str, list[int]]
    ids: Tensor | None = None
    classes: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return self.classes or int(self.labels.max()) + 1

    def take(self, subset: str, count: int | None = None, block: Block = WHOLE) -> tuple[Tensor, Tensor, list[int]]:
        """Images, labels and dataset indices of a block of the first `count` members of a subset (all when None).

        Images are float32 in [0, 1]; only those asked for are read from a file that lies on disk.
        """
        if subset not in self.subsets:
            raise ValueError(f"expected a subset among {sorted(self.subsets)}, got {subset!r}")
        index = self.subsets[subset]
        if count is not None and count > len(index):
            raise ValueError(
                f"expected at most {len(index)} images of subset {subset!r}, got {count} — lower the count"
            )
        chosen = index[:count]
        chosen = chosen[block.start(len(chosen)) : block.stop(len(chosen))]
        rows = chosen if self.ids is None else torch.searchsorted(self.ids, torch.tensor(chosen, dtype=torch.int64))
        images = self.images[rows]
        return images.float() / 255.0 if images.dtype == torch.uint8 else images, self.labels[rows], chosen

    def rows(self) -> Iterator[np.ndarray]:
        """Every image in turn."""
        return iter(self.images.numpy())


@dataclass(frozen=True)
class Selection:
    """The images of a data set that its subsets need: labels at once, images when asked for, one by one."""

    subsets: Mapping[str, list[int]]
    ids: np.ndarray
    labels: np.ndarray
    classes: int
    rows: Callable[[], Iterator[np.ndarray]]

    def load(self) -> Dataset:
        """All of them in memory."""
        images = torch.from_numpy(np.stack(list(self.rows())))
        return Dataset(images, torch.from_numpy(self.labels), self.subsets, torch.from_numpy(self.ids), self.classes)


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Part]]] = {
    "digits": read_digits,
    "parquet": read_parquet,
    "cifar_python": read_cifar_python,
    "cifar_binary": read_cifar_binary,
    "folders": read_folders,
    "arrays": read_arrays,
}


def _permuted(count: int, seed: int) -> list[int]:
    order: list[int] = generator(seed, "dataset", "split").permutation(count).tolist()
    return order


def _cut(order: list[int], names: tuple[str, ...], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Consecutive pieces of an order of indices, one per name."""
    wanted = sum(sizes[name] for name in names)
    if wanted > len(order):
        raise ValueError(
            f"expected splits of at most {len(order)} images in total, got {wanted} for {' and '.join(names)} — lower "
            "`splits`"
        )
    bounds = np.cumsum([0, *(sizes[name] for name in names)])
    return {name: order[a:b] for name, a, b in zip(names, bounds, bounds[1:], strict=False)}


def split(parts: Mapping[str, Part], settings: Mapping[str, Any], seed: int) -> dict[str, list[int]]:
    """Dataset indices of training, validation and test images: positions in the training part, then in the test part.

    Test images are the first of the test part, or the first of a permutation drawn from `seed`, as `order` says; the
    others are drawn from the training part, and from the rest of the test part where there is no other.
    """
    sizes, first = settings["splits"], settings.get("order", "permuted") == "first"
    offset = len(parts[TRAIN].labels) if TRAIN in parts else 0
    count = len(parts[TEST].labels)
    if TRAIN not in parts and not first:
        return _cut(_permuted(count, seed), SPLITS, sizes)
    order = list(range(count)) if first else _permuted(count, seed)
    test = _cut([offset + index for index in order], ("test",), sizes)
    rest = _permuted(offset, seed)
    if TRAIN not in parts:
        rest = [sizes["test"] + index for index in _permuted(count - sizes["test"], seed)]
    return {**_cut(rest, ("train", "validation"), sizes), **test}


def select(settings: Mapping[str, Any], seed: int) -> Selection:
    """Open the data set of a configuration entry and choose the images of its subsets.

    Raises ValueError when a file is not what the settings say or has fewer images than `splits` asks for.
    """
    parts = READERS[settings["kind"]](settings)
    subsets = split(parts, settings, seed)
    labels = np.concatenate([parts[name].labels for name in (TRAIN, TEST) if name in parts])
    ids = np.array(sorted(index for subset in subsets.values() for index in subset), dtype=np.int64)
    offset = len(parts[TRAIN].labels) if TRAIN in parts else 0

    def rows() -> Iterator[np.ndarray]:
        if TRAIN in parts:
            yield from parts[TRAIN].read(ids[ids < offset].tolist())
        yield from parts[TEST].read((ids[ids >= offset] - offset).tolist())

    return Selection(subsets, ids, labels[ids], settings.get("classes", int(labels.max()) + 1), rows)


def load_dataset(settings: Mapping[str, Any], seed: int) -> Dataset:
    """The data set of a configuration entry, in memory; the split is drawn from `seed`."""
    return select(settings, seed).load()
