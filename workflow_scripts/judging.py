"""Judgements of many inputs at once: every distinct image is purified once per draw, whatever the names it goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from purification.defence import Defence
from purification.journal import Journal
from purification.noise import NoiseSource
from purification.progress import track


@dataclass(frozen=True)
class Distinct:
    """images (m, C, H, W) with their dataset indices, no pair of them equal, and for every name its members."""

    images: Tensor
    ids: list[int]
    members: Mapping[str, list[int]]

    def of(self, name: str) -> list[int]:
        return self.members[name]


def distinct(inputs: Mapping[str, Tensor], ids: Sequence[int]) -> Distinct:
    """The different images among `inputs`: name -> images of the first of `ids`."""
    known: dict[tuple[int, bytes], int] = {}
    images: list[Tensor] = []
    members: dict[str, list[int]] = {}
    for name, batch in inputs.items():
        found = []
        for identity, image in zip(ids, batch, strict=False):
            key = (identity, image.numpy().tobytes())
            if key not in known:
                known[key] = len(images)
                images.append(image)
            found.append(known[key])
        members[name] = found
    return Distinct(torch.stack(images), [identity for identity, _ in known], members)


def predictions(
    defence: Defence, images: Tensor, ids: Sequence[int], source: NoiseSource, draws: int, name: str, journal: Journal
) -> np.ndarray:
    """Predicted labels (m, draws) on draws 0 .. draws - 1 of a source."""
    done = journal.load()
    for draw in track(range(draws), f"draws of {name}", len(done)):
        done[f"{draw}"] = defence.predict(images, ids, source, draw)
        journal.save(lambda: done, last=draw == draws - 1)
    columns = [done[f"{draw}"].numpy() for draw in range(draws)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(ids), 0), dtype=np.int64)


def predictions_of_some(
    defence: Defence,
    seen: Distinct,
    chosen: Sequence[int],
    source: NoiseSource,
    draws: int,
    name: str,
    journal: Journal,
) -> dict[int, np.ndarray]:
    """Predictions of some members: member -> labels (draws,)."""
    if not chosen:
        return {}
    labels = predictions(
        defence, seen.images[list(chosen)], [seen.ids[i] for i in chosen], source, draws, name, journal
    )
    return dict(zip(chosen, labels, strict=True))
