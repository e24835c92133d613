"""Datasets as files: images and labels as safetensors, index lists with their hashes as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from purification.data import Dataset, index_hash
from purification.tensor_files import read_tensors
from workflow_scripts.job import replacing, write_text


def write_dataset(dataset: Dataset, images: Path, subsets: Path) -> None:
    """Images and labels as safetensors; index lists with their sha256 as JSON."""
    with replacing(images) as temporary:
        save_file({"images": dataset.images.contiguous(), "labels": dataset.labels.contiguous()}, temporary)
    lists = {name: {"sha256": index_hash(index), "index": index} for name, index in dataset.subsets.items()}
    write_text(json.dumps(lists) + "\n", subsets)


def read_dataset(images: Path, subsets: Path) -> Dataset:
    """Inverse of `write_dataset`; raises ValueError when a file is damaged or an index list does not match its hash."""
    arrays = read_tensors(images, ("images", "labels"))
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
    return Dataset(arrays["images"], arrays["labels"], lists)
