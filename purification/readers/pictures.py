"""Encoded pictures (JPEG, PNG, ...) as pixels, resized and cropped as classifiers expect them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purification.readers.parts import Pixels, checked_shape

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODES = {1: "L", 3: "RGB"}


def decode(content: bytes | Path, settings: Mapping[str, Any], place: str) -> Pixels:
    """Pixels (C, H, W), uint8, of one picture.

    With `resize` the shorter side is brought to that length (bilinear, antialiased), then the centre of size x size is
    cut out: torchvision's Resize and CenterCrop. With `convert` grayscale, palette and CMYK pictures become RGB.
    Raises ValueError when the picture is damaged or is not what the settings say.
    """
    from PIL import Image, UnidentifiedImageError

    mode = MODES[settings["channels"]]
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as picture:
            picture.load()
            if picture.mode != mode and not settings["convert"]:
                raise ValueError(
                    f"expected a picture of mode {mode} in {place}, got {picture.mode} — convert it, correct "
                    "`channels`, or set `convert: true`"
                )
            pixels = np.asarray(_fitted(picture if picture.mode == mode else picture.convert(mode), settings))
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"expected a picture in {place}, got a damaged one ({' '.join(str(error).split())}) — fetch the file again"
        ) from error
    found = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    checked_shape(found.shape, (settings["channels"], settings["size"], settings["size"]), place)
    return np.ascontiguousarray(found)


def _fitted(picture: Picture, settings: Mapping[str, Any]) -> Picture:
    """The shorter side resized to `resize`, the longer by truncation, and the centre cut out."""
    from PIL import Image

    short = settings["resize"]
    if short == 0:
        return picture
    width, height = picture.size
    least, size = min(width, height), settings["size"]
    picture = picture.resize((int(short * width / least), int(short * height / least)), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in picture.size)
    return picture.crop((left, top, left + size, top + size))
