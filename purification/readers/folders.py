"""Pictures in folders, one folder per class: class/name.jpg, as ImageNet's validation images are usually kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purification.readers.parts import Part, Pixels, checked_classes
from purification.readers.pictures import decode

ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm")


def class_names(settings: Mapping[str, Any], folder: Path) -> list[str]:
    """Folder names in the order of their labels: the first words of the lines of `synsets`, else sorted."""
    if "synsets" in settings:
        path = Path(settings["synsets"])
        try:
            names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"expected a list of class folders at {path}, got an error ({error}) — correct it"
            ) from error
        checked_classes(len(names), settings["classes"], str(path))
        return names
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    checked_classes(len(names), settings["classes"], f"the folders of {folder}")
    return names


def _pictures_of(folder: Path, names: Sequence[str]) -> list[tuple[str, int, Path]]:
    known, found = {name: label for label, name in enumerate(names)}, []
    if not folder.is_dir():
        raise ValueError(f"expected a folder of class folders at {folder}, got none — correct the path")
    for inner in folder.iterdir():
        if inner.is_dir() and inner.name not in known:
            raise ValueError(
                f"expected folders of the known classes in {folder}, got {inner.name!r} — correct `synsets` or move it"
            )
        if inner.is_dir():
            pictures = [path for path in inner.iterdir() if path.suffix.lower() in ENDINGS]
            found += [(path.name, known[inner.name], path) for path in pictures]
    if not found:
        raise ValueError(
            f"expected pictures ({', '.join(ENDINGS)}) in the folders of {folder}, got none — correct the path"
        )
    return sorted(found)


def read_folders(settings: Mapping[str, Any]) -> dict[str, Part]:
    """Parts of folders of class folders, in the order of the pictures' names, whatever the class.

    ImageNet's validation pictures keep their official order so, in which classes are mixed.
    """
    parts = {}
    for name, place in settings["folders"].items():
        folder = Path(place)
        found = _pictures_of(folder, class_names(settings, folder))

        def images(wanted: Sequence[int], found: list[tuple[str, int, Path]] = found) -> Iterator[Pixels]:
            return (decode(found[position][2], settings, str(found[position][2])) for position in wanted)

        parts[name] = Part(np.array([label for _, label, _ in found], dtype=np.int64), images)
    return parts
