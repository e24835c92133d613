"""What the functions that build defences of known truth share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from purification.known_truth.affine import Affine
from purification.known_truth.catalogue import Known
from purification.known_truth.examples import ROLE, Examples
from purification.known_truth.truths import affine_truth, separable_truth
from purification.models.classifiers import Classifier
from purification.noise import Noise
from purification.philox import generator
from purification.purifiers import FunctionPurifier

Map = Callable[[Tensor], Tensor]


def count_pixels(on: Examples) -> int:
    """D, the number of pixels of an image."""
    return int(on.images[0].numel())


def draw_normal(on: Examples, stream: str, *shape: int) -> Tensor:
    """Standard normal numbers, float64, always the same ones for a seed and a stream."""
    return torch.from_numpy(generator(on.seed, ROLE, stream).standard_normal(shape))


def draw_choice(on: Examples, stream: str, share: float) -> Tensor:
    """A mask (C, H, W) of ones on about this share of the pixels, zeros elsewhere, float32."""
    uniform = generator(on.seed, ROLE, stream).random(on.shape)
    return torch.from_numpy((uniform < share).astype(np.float32))


def draw_rotation(on: Examples, stream: str) -> Tensor:
    """An orthogonal matrix (D, D), float64."""
    pixels = count_pixels(on)
    rotation: Tensor = torch.linalg.qr(draw_normal(on, stream, pixels, pixels))[0]
    return rotation


def read_matrix(function: Map, on: Examples) -> Affine:
    """The affine map that a function of images is, from its values at zero and at single pixels in float64."""
    pixels = count_pixels(on)
    unit = torch.eye(pixels, dtype=torch.float64).view(pixels, *on.shape)
    with torch.no_grad():
        offset = function(torch.zeros_like(unit[:1])).flatten()
        columns = function(unit).flatten(1) - offset
    return Affine(columns.T.contiguous(), offset)


def know_affine(on: Examples, affine: Affine, classifier: Classifier | None = None) -> Known:
    """An affine purifier, in front of the linear classifier or of one that decides the same."""
    return Known(affine.purifier(), classifier or on.classifier, affine_truth(on, affine))


def know_value(on: Examples, affine: Affine, function: Callable[[Tensor, Noise], Tensor]) -> Known:
    """A function whose value is that of an affine map, whatever its derivative is said to be."""
    return Known(FunctionPurifier(function), on.classifier, affine_truth(on, affine))


def know_map(on: Examples, function: Map, *, thresholds: Sequence[float] = (), grid: int = 41) -> Known:
    """A function that maps pixel by pixel, monotone between its thresholds."""
    purifier = FunctionPurifier(lambda images, noise: function(images))
    truth = separable_truth(on, purifier, thresholds=thresholds, grid=grid)
    return Known(purifier, on.classifier, truth)
