"""Tensors from safetensors files, with the file named when it cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


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
