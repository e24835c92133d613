"""Files that a configuration brings along: data sets. Which they are, whether they are there, and when they change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purification.readers.cifar import BINARIES, PICKLES

CIFAR = {"cifar_python": PICKLES, "cifar_binary": BINARIES}


def _places(entry: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """(key of the entry, file or folder it names)."""
    for part, paths in entry.get("files", {}).items():
        yield from ((f"files.{part}", Path(path)) for path in paths)
    for part, path in entry.get("folders", {}).items():
        yield f"folders.{part}", Path(path)
    for key in ("synsets", "path"):
        if key in entry:
            yield key, Path(entry[key])


def dataset_files(entry: Mapping[str, Any]) -> list[str]:
    """Files of a dataset entry: inputs of its preparation; pictures in folders are watched by `folder_listing`."""
    if entry["kind"] in CIFAR and not Path(entry["path"]).is_file():
        names = CIFAR[entry["kind"]][entry["classes"]]
        return [str(Path(entry["path"], name)) for part in names.values() for name in part]
    return [str(path) for key, path in _places(entry) if not key.startswith("folders")]


def folder_listing(entry: Mapping[str, Any]) -> str:
    """Hash of names and sizes of all pictures in the folders of an entry; "" for other kinds."""
    if "folders" not in entry:
        return ""
    files = [file for _, folder in sorted(entry["folders"].items()) for file in sorted(Path(folder).glob("*/*"))]
    lines = (f"{file.parent.name}/{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def dataset_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per file or folder of the chosen dataset that is not there."""
    name = config["dataset"]
    for key, path in _places(config["datasets"][name]):
        wanted = "a folder" if key.startswith("folders") else "a file or folder" if key == "path" else "a file"
        there = {"a folder": path.is_dir(), "a file": path.is_file()}.get(wanted, path.exists())
        if not there:
            yield f"datasets.{name}.{key}: expected {wanted}, got none at {path} — correct the path or fetch it"
