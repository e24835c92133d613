"""Places that a configuration reads and that are not there, and empty ones in their stead, to plan it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snakemake.utils import update_config

FOLDERS = ("diffusers", "huggingface")  # kinds of entries whose path is a folder
SECTIONS = ("datasets", "classifiers", "denoisers")


def _places(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(keys to it, path or paths) of whatever an entry reads."""
    if entry.get("kind") == "python":
        return
    for key in ("path", "synsets"):
        if key in entry:
            yield (key,), entry[key]
    for key in ("files", "folders"):
        for part, value in entry.get(key, {}).items():
            yield (key, part), value


def stand_ins(config: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A configuration that names empty files and folders of `folder` for what is not there, and what that is."""
    changes: dict[str, Any] = {}
    absent = []
    for section in SECTIONS:
        for name, entry in config.get(section, {}).items():
            for keys, value in _places(entry):
                paths = value if isinstance(value, list) else [value]
                if all(Path(path).exists() for path in paths):
                    continue
                absent += [path for path in paths if not Path(path).exists()]
                place = folder / section / name / "_".join(keys)
                _make(place, is_folder=keys[0] == "folders" or entry["kind"] in FOLDERS)
                update_config(changes, _nested((section, name, *keys), [str(place)] * len(paths), value))
    return changes, list(dict.fromkeys(absent))


def _make(place: Path, *, is_folder: bool) -> None:
    if is_folder:
        place.mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def _nested(keys: tuple[str, ...], paths: list[str], value: Any) -> dict[str, Any]:
    inner: Any = paths if isinstance(value, list) else paths[0]
    for key in reversed(keys):
        inner = {key: inner}
    found: dict[str, Any] = inner
    return found
