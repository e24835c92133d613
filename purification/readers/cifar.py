"""CIFAR-10 and CIFAR-100 as their authors distribute them: Python pickles or the binary version, folder or .tar.gz.

Records are 3072 bytes: 1024 red, 1024 green, 1024 blue, each row by row. Pickles are read by an unpickler that
builds dictionaries, lists, numbers, texts and one kind of array, and calls nothing that the file names.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from purification.readers.parts import TEST, TRAIN, Part, Pixels, checked_labels, joined

SHAPE = (3, 32, 32)
PIXELS = 3072
PICKLES = {
    10: {TRAIN: [f"data_batch_{k}" for k in range(1, 6)], TEST: ["test_batch"]},
    100: {TRAIN: ["train"], TEST: ["test"]},
}
BINARIES = {
    10: {TRAIN: [f"data_batch_{k}.bin" for k in range(1, 6)], TEST: ["test_batch.bin"]},
    100: {TRAIN: ["train.bin"], TEST: ["test.bin"]},
}
LABEL_KEYS = {10: "labels", 100: "fine_labels"}


class _Array:
    """Stands in for numpy's array while a pickle is read: takes a shape, a type and bytes, nothing else."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        plain = isinstance(kind, _Type) and kind.name.lstrip("|<=") in ("u1", "i8", "i4") and not fortran
        if not plain or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of another type")
        self.value = np.frombuffer(content, np.dtype(kind.name)).reshape(shape)


class _Type:
    """Stands in for numpy's dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields, which plain types do not need."""


def _latin(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding}")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the file wants {module_name}.{global_name}")
        return ALLOWED[module_name, global_name]


def unpickled(content: bytes, place: str) -> dict[str, Any]:
    """Dictionary of a pickle, read without calling anything it names; raises ValueError for anything else."""
    try:
        found = _Reader(io.BytesIO(content), encoding="bytes").load()
        items = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in found.items()}
    except Exception as error:  # a damaged pickle can raise anything
        said = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(
            f"expected a pickle of CIFAR in {place}, got other content ({said}) — fetch it again"
        ) from error
    return {key: value.value if isinstance(value, _Array) else value for key, value in items.items()}


def content_of(place: Path, name: str) -> bytes:
    """Bytes of one file of a folder, or of a tar archive, whose inner folders do not matter."""
    try:
        if place.is_dir():
            return (place / name).read_bytes()
        with tarfile.open(place) as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == name and (file := archive.extractfile(member)):
                    return file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"expected {name} in {place}, got an error ({said}) — correct `path` or fetch it again"
        ) from error
    raise ValueError(f"expected {name} in {place}, got other files — correct `path` or `classes`")


def _of_pickle(place: Path, name: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    where = f"{place}, {name}"
    found, key = unpickled(content_of(place, name), where), LABEL_KEYS[classes]
    for wanted in ("data", key):
        if wanted not in found:
            raise ValueError(
                f"expected {wanted!r} in {where}, got {', '.join(found)} — correct `classes` or fetch it again"
            )
    data = found["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        got = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"expected uint8 images of {PIXELS} bytes in {where}, got {got} — fetch it again")
    return data.reshape(-1, *SHAPE), checked_labels(found[key], classes, where)


def _of_binary(place: Path, name: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    where, content = f"{place}, {name}", content_of(place, name)
    heads = 2 if classes == 100 else 1  # coarse and fine label
    if not content or len(content) % (heads + PIXELS):
        raise ValueError(
            f"expected records of {heads + PIXELS} bytes in {where}, got {len(content)} bytes — fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, heads + PIXELS)
    return records[:, heads:].reshape(-1, *SHAPE), checked_labels(records[:, heads - 1], classes, where)


def _parts(settings: Mapping[str, Any], names: Mapping[str, list[str]], read: Callable[..., Any]) -> dict[str, Part]:
    place, classes = Path(settings["path"]), settings["classes"]
    load = cache(lambda name: read(place, name, classes))
    parts = {}
    for part, files in names.items():

        def images(number: int, wanted: Sequence[int], files: list[str] = files) -> Iterator[Pixels]:
            return (load(files[number])[0][position] for position in wanted)

        parts[part] = joined([load(name)[1] for name in files], images)
    return parts


def read_cifar_python(settings: Mapping[str, Any]) -> dict[str, Part]:
    """Parts of the Python version (cifar-10-batches-py, cifar-100-python)."""
    return _parts(settings, PICKLES[settings["classes"]], _of_pickle)


def read_cifar_binary(settings: Mapping[str, Any]) -> dict[str, Part]:
    """Parts of the binary version (cifar-10-batches-bin, cifar-100-binary)."""
    return _parts(settings, BINARIES[settings["classes"]], _of_binary)
