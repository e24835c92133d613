"""What a detector is trained and tried on: normal images to train, normal and anomalous ones to test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purification.anomaly.defects import with_defect
from purification.blocks import Block
from purification.data import Dataset
from purification.readers.mvtec import GOOD, list_mvtec, read_mask, read_picture

NORMAL = "normal"
MADE = 10**12  # added to the dataset index of an image for the number of the defective one made from it


@dataclass(frozen=True)
class Items:
    """Images in [0, 1].

    train (n, C, H, W), train_ids     normal images
    test (m, C, H, W), ids            with the numbers that key their noise, no two of them equal
    kinds, sources                    what each is ("normal", or the kind of anomaly), and the image it was made from
    masks (m, H, W)                   defective pixels, where they are known
    """

    train: Tensor
    train_ids: list[int]
    test: Tensor
    ids: list[int]
    kinds: list[str]
    sources: list[int]
    masks: Tensor

    @property
    def anomalous(self) -> Tensor:
        """(m,) 1 for anomalies, 0 for normal images."""
        return torch.tensor([int(kind != NORMAL) for kind in self.kinds])

    def of(self, block: Block) -> Items:
        """The same training images, and the test images of one block."""
        own = slice(block.start(len(self.ids)), block.stop(len(self.ids)))
        return replace(
            self, test=self.test[own], ids=self.ids[own], kinds=self.kinds[own],
            sources=self.sources[own], masks=self.masks[own],
        )  # fmt: skip


def _first(images: Tensor, ids: list[int], chosen: Tensor, count: int, what: str) -> tuple[Tensor, list[int]]:
    index = torch.nonzero(chosen).flatten()
    if len(index) < count:
        raise ValueError(f"expected at least {count} {what}, got {len(index)} — lower their number or add classes")
    some = index[:count]
    return images[some], [ids[k] for k in some.tolist()]


def from_classes(dataset: Dataset, settings: Mapping[str, Any], *, subset: str, seed: int) -> Items:
    """Some classes of a dataset are normal; other classes, and normal images with synthetic defects, are anomalies."""
    normal = torch.tensor(settings["normal"])
    train, labels, train_ids = dataset.take("train")
    own = torch.isin(labels, normal)
    train, train_ids = _first(train, train_ids, own, max(1, int(own.sum())), "normal training images")
    images, labels, ids = dataset.take(subset)
    counts, own = settings["images"], torch.isin(labels, normal)
    good, good_ids = _first(images, ids, own, counts["normal"], f"normal images of subset {subset!r}")
    others, other_ids = _first(images, ids, ~own, counts["other"], f"images of other classes of subset {subset!r}")
    classes = dict(zip(ids, labels.tolist(), strict=True))
    base, base_ids = _first(images, ids, own, counts["defective"], f"normal images of subset {subset!r}")
    pairs = list(zip(base.numpy(), base_ids, cycle(settings["defects"]), strict=False))
    made = [with_defect(image, kind, settings["share"], seed=seed, number=number) for image, number, kind in pairs]
    masks = torch.zeros(len(good) + len(others) + len(made), *good.shape[2:], dtype=torch.bool)
    for place, (_, mask) in enumerate(made, start=len(good) + len(others)):
        masks[place] = torch.from_numpy(mask)
    return Items(
        train, train_ids,
        torch.cat([good, others, *(torch.from_numpy(image)[None] for image, _ in made)]),
        [*good_ids, *other_ids, *(MADE + number for number in base_ids)],
        [*[NORMAL] * len(good), *(f"class_{classes[k]}" for k in other_ids), *(kind for *_, kind in pairs)],
        [*good_ids, *other_ids, *base_ids],
        masks,
    )  # fmt: skip


def from_mvtec(dataset: Dataset, settings: Mapping[str, Any], *, subset: str, seed: int) -> Items:
    """Pictures of one object in MVTec AD's layout; the dataset of the configuration has no part in it."""
    training, tested = list_mvtec(Path(settings["path"]))
    train, test = (
        torch.from_numpy(np.stack([read_picture(picture, settings) for picture in part])) for part in (training, tested)
    )
    ids = list(range(len(training), len(training) + len(tested)))
    kinds = [NORMAL if picture.kind == GOOD else picture.kind for picture in tested]
    masks = torch.from_numpy(np.stack([read_mask(picture, settings) for picture in tested]))
    return Items(train, list(range(len(training))), test, ids, kinds, ids, masks)


SOURCES = {"classes": from_classes, "mvtec": from_mvtec}


def gather(dataset: Dataset, settings: Mapping[str, Any], *, subset: str, seed: int) -> Items:
    """Training and test images of one detector's `data`."""
    return SOURCES[settings["kind"]](dataset, settings, subset=subset, seed=seed)
