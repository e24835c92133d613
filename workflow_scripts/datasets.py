"""Datasets as files: images and labels as safetensors, index lists with their hashes as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from purification.data import Dataset, Selection
from purification.index_lists import index_hash
from purification.tensor_files import read_tensors, write_rows_of_tensor
from workflow_scripts.job import replacing, write_text


def write_dataset(dataset: Dataset | Selection, images: Path, subsets: Path) -> int:
    """Images, labels and dataset indices as safetensors, image by image; index lists with their sha256 as JSON.

    Returns the number of images.
    """
    ids = np.arange(len(dataset.labels)) if dataset.ids is None else np.asarray(dataset.ids)
    classes = dataset.classes if isinstance(dataset, Selection) else dataset.num_classes
    arrays = {"labels": np.asarray(dataset.labels), "ids": ids, "classes": np.array([classes])}
    with replacing(images) as temporary:
        count = write_rows_of_tensor(temporary, arrays, "images", dataset.rows())
    lists = {name: {"sha256": index_hash(index), "index": index} for name, index in dataset.subsets.items()}
    write_text(json.dumps(lists) + "\n", subsets)
    return count


def read_dataset(images: Path, subsets: Path) -> Dataset:
    """Inverse of `write_dataset`; images stay on disk until they are taken.

    Raises ValueError when a file is damaged or an index list does not match its hash.
    """
    arrays = read_tensors(images, ("images", "labels", "ids", "classes"))
    try:
        stored = json.loads(Path(subsets).read_text())
    except ValueError as error:
        raise ValueError(f"expected JSON in {subsets}, got an error ({error}) — delete it and run again") from error
    lists = {}
    for name, entry in stored.items():
        if index_hash(entry["index"]) != entry["sha256"]:
            raise ValueError(
                f"expected subset {name!r} of {subsets} to have sha256 {entry['sha256']}, got "
                f"{index_hash(entry['index'])} — it was edited: delete it and run again"
            )
        lists[name] = entry["index"]
    ids: torch.Tensor = arrays["ids"]
    plain = torch.equal(ids, torch.arange(len(ids)))
    return Dataset(arrays["images"], arrays["labels"], lists, None if plain else ids, int(arrays["classes"]))
