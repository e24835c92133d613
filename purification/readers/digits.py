"""scikit-learn's bundled handwritten digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from purification.readers.parts import TEST, Part


def read_digits(settings: Mapping[str, Any]) -> dict[str, Part]:
    """8x8 digits, upsampled to size x size (bilinear)."""
    from sklearn.datasets import load_digits  # half of a job's start, needed once

    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32)[:, None] / 16.0
    size = settings["size"]
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False).clamp(0.0, 1.0)
    pixels = images.numpy()
    return {TEST: Part(bundle.target.astype("int64"), lambda wanted: (pixels[position] for position in wanted))}
