"""What the stages of anomaly detection share: images as files, test images as a dataset, arms with weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from purification.anomaly.detectors import Parts, fit_projection
from purification.anomaly.items import Items
from purification.data import Dataset
from purification.tensor_files import read_tensors
from workflow_scripts.defences import load_placed, place_of
from workflow_scripts.job import replacing, write_rows

TENSORS = ("train", "train_ids", "test", "ids", "sources", "masks")


def write_items(items: Items, images: Path, kinds: Path) -> None:
    """Images as safetensors, and one row per test image."""
    arrays = {
        "train": items.train, "train_ids": torch.tensor(items.train_ids), "test": items.test,
        "ids": torch.tensor(items.ids), "sources": torch.tensor(items.sources), "masks": items.masks.to(torch.uint8),
    }  # fmt: skip
    with replacing(images) as temporary:
        save_file({name: value.contiguous() for name, value in arrays.items()}, temporary)
    write_rows(pd.DataFrame({"image": items.ids, "source": items.sources, "kind": items.kinds}), kinds)


def read_items(images: Path, kinds: Path) -> Items:
    """Inverse of `write_items`."""
    found = read_tensors(images, TENSORS)
    lists = {name: found[name].tolist() for name in ("train_ids", "ids", "sources")}
    names = [str(name) for name in pd.read_parquet(kinds).kind]
    return Items(
        found["train"], lists["train_ids"], found["test"], lists["ids"], names, lists["sources"], found["masks"].bool()
    )


def tested(items: Items) -> Dataset:
    """The test images with label 1 for anomalies; only their shape and number matter to what draws noise for them."""
    return Dataset(items.test, items.anomalous, {"test": list(range(len(items.ids)))}, classes=2)


def load_parts(items: Items, settings: Mapping[str, Any], folder: Path) -> Parts:
    """The trained denoiser and the projection fitted to the same images."""
    place = place_of(settings)
    denoiser = load_placed(folder, settings["schedule"], place, torch.float32)
    channels, height, width = items.train.shape[1:]
    projection = fit_projection(items.train, settings["components"])
    return Parts(denoiser, projection, (channels, height, width), place.prepare())


def load_detector(inputs: Any, settings: Mapping[str, Any]) -> tuple[Items, Parts]:
    """Images and parts of a detector, from the inputs of its jobs."""
    items = read_items(inputs.images, inputs.kinds)
    return items, load_parts(items, settings, Path(inputs.denoiser[0]).parent)
