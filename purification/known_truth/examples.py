"""Images, labels and a linear classifier for which the best attack on an affine purifier is known.

The classes differ by the signs of the classifier's weights, more in some images than in others, so that every budget
leaves some images robust. No image comes so near to 0 or 1 that its worst perturbation leaves the box (`truths`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from purification.noise import NoiseSource
from purification.philox import generator
from purification.threat import ThreatModel

ROLE = "known_truth"
LEVELS = 10  # of a lattice: purifiers that round have steps of 1 / LEVELS


@dataclass(frozen=True)
class Conditions:
    """What a defence is tried on.

    norm, epsilon  of the threat model, in image units
    shape          (C, H, W)
    classes        that occur as labels
    strength       range of the pattern that separates the classes, image units
    jitter         half width of the uniform noise of every pixel, image units
    lattice        None, or an offset in [0, 1): pixels lie midway between the values (k + lattice) / LEVELS
    blocks         every class has pixels of its own, on which only its logit depends
    """

    norm: str
    epsilon: float
    shape: tuple[int, int, int] = (1, 8, 8)
    classes: int = 2
    strength: tuple[float, float] = (0.02, 0.2)
    jitter: float = 0.1
    lattice: float | None = None
    blocks: bool = False


@dataclass(frozen=True)
class LinearClassifier:
    """Logits x @ weights.T + biases of flattened images, (B, classes); weights (classes, D), biases (classes,)."""

    weights: Tensor
    biases: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        weights, biases = self.weights.to(images), self.biases.to(images)
        logits: Tensor = images.flatten(1) @ weights.T + biases
        return logits


def _draw_weights(conditions: Conditions, seed: int) -> Tensor:
    """Normal weights of length about 1 per class, float64; positive and apart from each other with `blocks`."""
    pixels = int(np.prod(conditions.shape))
    numbers = generator(seed, ROLE, "weights").standard_normal((conditions.classes, pixels))
    if conditions.blocks:
        owner = np.arange(pixels) % conditions.classes
        numbers = np.abs(numbers) * (owner == np.arange(conditions.classes)[:, None]) * conditions.classes**0.5
    return torch.from_numpy(numbers / pixels**0.5)


def make_classifier(conditions: Conditions, seed: int) -> LinearClassifier:
    """A linear classifier of `classes` classes, indifferent at grey images; of two, one that has four logits.

    Logits z / 2, -z / 2, -1, -2: the last two are never the largest. Attacks that rank four logits then apply.
    """
    weights = _draw_weights(conditions, seed)
    biases = torch.zeros(conditions.classes, dtype=torch.float64)
    if conditions.classes == 2:
        half = (weights[0] - weights[1]) / 2**1.5
        weights = torch.stack([half, -half, torch.zeros_like(half), torch.zeros_like(half)])
        biases = torch.tensor([0.0, 0.0, -1.0, -2.0], dtype=torch.float64)
    return LinearClassifier(weights, biases - 0.5 * weights.sum(dim=1))


def _patterns(classifier: LinearClassifier, conditions: Conditions) -> Tensor:
    """(classes, D) in [-1, 1]: what raises the logit of a class above those of the others."""
    weights = classifier.weights[: conditions.classes]
    others = (weights.sum(dim=0) - weights) / (conditions.classes - 1)
    direction = weights - others
    return (direction / (2.0 * direction.std(dim=1, keepdim=True))).clamp(-1.0, 1.0)


def _draw_images(
    conditions: Conditions, classifier: LinearClassifier, labels: Tensor, ids: Sequence[int], seed: int
) -> Tensor:
    pixels = int(np.prod(conditions.shape))
    uniform = np.stack([generator(seed, ROLE, "images", image).random(pixels + 1) for image in ids])
    low, high = conditions.strength
    strength = torch.from_numpy(low + (high - low) * uniform[:, :1])
    jitter = torch.from_numpy(conditions.jitter * (2.0 * uniform[:, 1:] - 1.0))
    flat = 0.5 + strength * _patterns(classifier, conditions)[labels] + jitter
    if conditions.lattice is not None:
        below = (LEVELS * flat - conditions.lattice).floor()
        flat = (below + 0.5 + conditions.lattice) / LEVELS
    return flat.view(-1, *conditions.shape).float()


@dataclass(frozen=True)
class Examples:
    """What a defence of known truth is built for.

    images      (n, C, H, W) float32 in [0, 1]
    labels, ids  true classes (n,) and numbers, which key the noise
    classifier  right for most images
    """

    seed: int
    conditions: Conditions
    images: Tensor
    labels: Tensor
    ids: list[int]
    classifier: LinearClassifier

    @cached_property
    def threat(self) -> ThreatModel:
        """The budget; under l1 a step moves one pixel."""
        one_pixel = 1.0 / self.images[0].numel()
        share = one_pixel if self.conditions.norm == "l1" else None
        return ThreatModel(self.conditions.norm, self.conditions.epsilon, share)

    @property
    def classes(self) -> int:
        """Number of classes that occur as labels; of two, one margin decides."""
        return self.conditions.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def noise(self, role: str) -> NoiseSource:
        """Noise of one role for these images."""
        return NoiseSource(self.seed, role, self.shape)

    @cached_property
    def rivals(self) -> Tensor:
        """(n, logits - 1) numbers of the wrong logits."""
        count = len(self.classifier.biases)
        every = torch.arange(count).expand(len(self.labels), count)
        return every[every != self.labels[:, None]].view(len(self.labels), count - 1)

    @cached_property
    def differences(self) -> Tensor:
        """(n, logits - 1, D) weights of the true class less those of every rival, float64."""
        weights = self.classifier.weights
        return weights[self.labels][:, None] - weights[self.rivals]

    @cached_property
    def bias_differences(self) -> Tensor:
        """(n, logits - 1) biases of the true class less those of every rival, float64."""
        biases = self.classifier.biases
        return biases[self.labels][:, None] - biases[self.rivals]


def make_examples(conditions: Conditions, ids: Sequence[int], seed: int) -> Examples:
    """Images number `ids`, the same whatever the others."""
    classifier = make_classifier(conditions, seed)
    labels = torch.tensor(list(ids)) % conditions.classes
    images = _draw_images(conditions, classifier, labels, ids, seed)
    return Examples(seed, conditions, images, labels, list(ids), classifier)
