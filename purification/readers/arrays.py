"""Arrays in .npz (never pickled objects) or .safetensors files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from purification.readers.parts import Part, Pixels, checked_labels, checked_shape, joined


def _load_npz(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as bundle:
        return {name: bundle[name] for name in bundle.files}


LOADERS = {".npz": _load_npz, ".safetensors": load_file}


def _load(path: str) -> dict[str, np.ndarray]:
    suffix = Path(path).suffix
    if suffix not in LOADERS:
        raise ValueError(f"expected an array file ending in {' or '.join(LOADERS)}, got {path} — convert it")
    try:
        arrays: dict[str, np.ndarray] = LOADERS[suffix](path)
        return arrays
    except (SafetensorError, zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"expected plain arrays in {path}, got a damaged file or objects ({said}) — save arrays of numbers again"
        ) from error


def _images(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], path: str) -> np.ndarray:
    """Images (n, C, H, W), uint8 or floats in [0, 1]."""
    images = arrays[settings["image_key"]]
    shape = (settings["channels"], settings["size"], settings["size"])
    if settings["layout"] == "NHWC" and images.ndim == 4:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim == 3 and shape[0] == 1:
        images = images[:, None]
    checked_shape(images.shape[1:], shape, path)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise ValueError(f"expected uint8 or floats as images in {path}, got {images.dtype} — convert them")
    if not (np.isfinite(images).all() and images.min(initial=0.0) >= 0 and images.max(initial=0.0) <= 1):
        raise ValueError(
            f"expected images in [0, 1] in {path}, got {images.min():.4g} to {images.max():.4g} — divide by 255 or "
            "save uint8"
        )
    return images.astype(np.float32)


def read_arrays(settings: Mapping[str, Any]) -> dict[str, Part]:
    """Parts of array files; every file is read whole, so keep large sets in several or as Parquet."""
    parts = {}
    for name, paths in settings["files"].items():
        labels = []
        for path in paths:
            arrays = _load(path)
            for key in ("image_key", "label_key"):
                if settings[key] not in arrays:
                    names = ", ".join(sorted(arrays))
                    raise ValueError(f"expected an array {settings[key]!r} in {path}, got {names} — correct `{key}`")
            count = len(_images(arrays, settings, path))
            labels.append(checked_labels(arrays[settings["label_key"]], settings["classes"], path))
            if len(labels[-1]) != count:
                raise ValueError(
                    f"expected a label per image in {path}, got {len(labels[-1])} for {count} — correct it"
                )

        def images(number: int, wanted: Sequence[int], paths: Sequence[str] = paths) -> Iterator[Pixels]:
            pixels = _images(_load(paths[number]), settings, paths[number])
            return (pixels[position] for position in wanted)

        parts[name] = joined(labels, images)
    return parts
