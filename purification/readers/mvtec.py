"""The layout of MVTec AD: train/good, test/good, test/<defect>, and masks in ground_truth/<defect>/<name>_mask.png."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from purification.readers.folders import ENDINGS
from purification.readers.pictures import decode

GOOD = "good"
HALF = 127  # of 255: a mask's pixels above it are defective


@dataclass(frozen=True)
class Picture:
    """A picture, the name of its folder (`good` or a defect), and its mask where there is one."""

    path: Path
    kind: str
    mask: Path | None


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if not found:
        raise ValueError(
            f"expected pictures ({', '.join(ENDINGS)}) in {folder}, got none — correct the path, which is that of one "
            "object: it holds train/good and test"
        )
    return found


def list_mvtec(root: Path) -> tuple[list[Picture], list[Picture]]:
    """Training and test pictures of one object, sorted by folder and name; `good` first among the test folders.

    Raises ValueError where a folder is empty, no defect is there, or training pictures are not all good.
    """
    train, test = root / "train", root / "test"
    if strange := sorted(path.name for path in train.iterdir() if path.name != GOOD) if train.is_dir() else []:
        raise ValueError(f"expected only {GOOD!r} in {train}, got {strange[0]!r} — training needs normal images alone")
    defects = sorted(path.name for path in test.iterdir() if path.is_dir() and path.name != GOOD)
    if not defects:
        raise ValueError(f"expected a folder per defect in {test}, got none — anomalies are needed to judge a detector")
    found = []
    for kind in (GOOD, *defects):
        for path in _pictures(test / kind):
            mask = root / "ground_truth" / kind / f"{path.stem}_mask.png"
            found.append(Picture(path, kind, mask if mask.is_file() else None))
    return [Picture(path, GOOD, None) for path in _pictures(train / GOOD)], found


def read_picture(picture: Picture, settings: Mapping[str, Any]) -> np.ndarray:
    """Pixels (C, H, W), float32 in [0, 1]."""
    return decode(picture.path, settings, str(picture.path)).astype(np.float32) / 255.0


def read_mask(picture: Picture, settings: Mapping[str, Any]) -> np.ndarray:
    """Defective pixels (H, W); none without a mask."""
    if picture.mask is None:
        return np.zeros((settings["size"], settings["size"]), dtype=bool)
    gray = {**settings, "channels": 1, "convert": True}
    return np.asarray(decode(picture.mask, gray, str(picture.mask))[0] > HALF)
