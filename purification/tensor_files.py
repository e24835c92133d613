"""Tensors from safetensors files, with the file named when it cannot be read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

KINDS = {"uint8": "U8", "int64": "I64", "float32": "F32"}  # numpy's names -> safetensors'


def read_tensors(path: Path, names: Iterable[str] = (), device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """All tensors of a file, `names` among them.

    Raises ValueError when the file is missing, damaged or lacks a name.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path, device=str(device))
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"expected tensors in {path}, got a damaged file ({error}) — delete it and run again"
        ) from error
    for name in names:
        if name not in tensors:
            raise ValueError(f"expected a tensor {name!r} in {path}, got {sorted(tensors)} — delete it and run again")
    return tensors


def read_metadata(path: Path, key: str) -> str:
    """A word of a file's metadata; raises ValueError when the file is missing, damaged or lacks it."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"expected tensors in {path}, got a damaged file ({error}) — delete it and run again"
        ) from error
    if key not in metadata:
        raise ValueError(f"expected {key!r} in the metadata of {path}, got {metadata} — delete it and run again")
    return metadata[key]


def write_rows_of_tensor(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    name: str,
    rows: Iterator[np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a safetensors file whose tensor `name` (n, ...) arrives row by row; returns n.

    Memory holds one row. The number of rows is that of the first of `arrays`, which are written before them; all rows
    have the shape and type of the first. Raises ValueError when there are more or fewer.
    metadata  words about the whole file, which `read_metadata` reads
    """
    count = len(next(iter(arrays.values())))
    first = next(rows)
    shapes = {**{key: (str(value.dtype), value.shape) for key, value in arrays.items()}}
    shapes[name] = str(first.dtype), (count, *first.shape)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for key, (kind, shape) in shapes.items():
        end = start + math.prod(shape) * np.dtype(kind).itemsize
        header[key] = {"dtype": KINDS[kind], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in arrays.values():
            file.write(np.ascontiguousarray(value).tobytes())
        written = 0
        for row in chain([first], rows):
            if (row.shape, row.dtype) != (first.shape, first.dtype):
                raise ValueError(
                    f"expected rows like the first ({first.dtype} {first.shape}), got {row.dtype} {row.shape} in row "
                    f"{written} — give all images the same shape and type"
                )
            file.write(np.ascontiguousarray(row).tobytes())
            written += 1
    if written != count:
        raise ValueError(f"expected {count} rows, got {written} — the source changed while it was read")
    return written
