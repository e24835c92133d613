"""Parquet files in Hugging Face's layout: a column of encoded pictures, {bytes, path} or bytes, and one of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from purification.readers.parts import Part, Pixels, checked_classes, checked_labels, joined
from purification.readers.pictures import decode

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

BATCH = 256  # records decoded at once


def _open(path: str, settings: Mapping[str, Any]) -> ParquetFile:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"expected a Parquet file at {path}, got an error ({said}) — fetch it again") from error
    names = file.schema_arrow.names
    for key in ("image_column", "label_column"):
        if settings[key] not in names:
            raise ValueError(f"expected a column {settings[key]!r} in {path}, got {', '.join(names)} — correct `{key}`")
    return file


def _named_classes(file: ParquetFile, settings: Mapping[str, Any], path: str) -> None:
    """Compare the number of classes with the names that Hugging Face's metadata has, where it has any."""
    metadata = (file.schema_arrow.metadata or {}).get(b"huggingface")
    features = json.loads(metadata).get("info", {}).get("features", {}) if metadata else {}
    feature = features.get(settings["label_column"], {})
    if "names" in feature:
        checked_classes(len(feature["names"]), settings["classes"], f"the metadata of {path}")


def _labels(path: str, settings: Mapping[str, Any]) -> np.ndarray:
    file = _open(path, settings)
    _named_classes(file, settings, path)
    try:
        column = file.read(columns=[settings["label_column"]]).column(0)
    except OSError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"expected labels in {path}, got damaged pages ({said}) — fetch it again") from error
    if column.null_count:
        raise ValueError(f"expected a label in every record of {path}, got {column.null_count} without — remove them")
    return checked_labels(column.to_numpy(), settings["classes"], path)


def _pictures(path: str, wanted: Sequence[int], settings: Mapping[str, Any]) -> Iterator[Pixels]:
    """Chosen records of one file in turn; row groups without any are skipped."""
    file, first, chosen = _open(path, settings), 0, set(wanted)
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if chosen & set(range(first, first + count)):
            position = first
            for batch in _batches(file, group, settings, path):
                for record in batch:
                    if position in chosen:
                        content = record.get("bytes") if isinstance(record, dict) else record
                        place = f"{path}, record {position}"
                        if not isinstance(content, bytes):
                            raise ValueError(
                                f"expected the bytes of a picture in {place}, got {type(content).__name__} — correct "
                                "`image_column`, or embed the pictures in the file"
                            )
                        yield decode(content, settings, place)
                    position += 1
        first += count


def _batches(file: ParquetFile, group: int, settings: Mapping[str, Any], path: str) -> Iterator[list[Any]]:
    try:
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=[settings["image_column"]]):
            yield batch.column(0).to_pylist()
    except OSError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"expected pictures in {path}, got damaged pages ({said}) — fetch it again") from error


def read_parquet(settings: Mapping[str, Any]) -> dict[str, Part]:
    """Parts of Parquet files; raises ValueError that names file and record where something is not as set."""
    parts = {}
    for name, paths in settings["files"].items():
        labels = [_labels(path, settings) for path in paths]
        parts[name] = joined(labels, lambda n, wanted, paths=paths: _pictures(paths[n], wanted, settings))
    return parts
