"""A defence: a purifier in front of a classifier, evaluated in batches of one fixed size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from purification.batching import batches, map_batches
from purification.gradients import bytes_of_step, gradient
from purification.models.classifiers import Classifier
from purification.noise import NoiseSource
from purification.purifiers import Purifier, purify

logger = logging.getLogger("purification")

SHARE_OF_GAP = 0.25  # no worse than the whole gap on any of nine defences tried, and up to two points better
LEAST_SCALE = 1e-30  # of logits: below it two of them count as equal, and nothing is divided by zero


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(z)_y, (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def _true_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """z_y, (B,), and the logits (B, classes) with minus infinity at y."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return true, logits.scatter(1, labels[:, None], -torch.inf)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Logarithm of the odds of being wrong, log((1 - p_y) / p_y) = log sum_{i != y} exp(z_i) - z_y, (B,).

    It grows with the cross-entropy, log(1 + exp(log_odds)), and its gradient has the same direction. The gradient of
    the cross-entropy is 1 - p_y times as long, which is zero in float32 where p_y rounds to 1; this one never vanishes.
    """
    true, others = _true_and_others(logits, labels)
    return torch.logsumexp(others, dim=1) - true


def scaled_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """s times the log-odds of the logits divided by s, (B,); s, a constant to the gradient, is their own scale.

    s is `SHARE_OF_GAP` of the gap between the two largest logits of an image; MIFPE (Yu and Xu 2023) takes the gap. A
    multiple of the logits has the same multiple of the value and of the gradient, so attacks go the same way. Between
    margin and margin + s log(classes - 1); with two classes, and where the gap is zero, it is the margin.
    """
    true, others = _true_and_others(logits, labels)
    ranked = logits.detach().topk(2, dim=1).values
    scale = (SHARE_OF_GAP * (ranked[:, :1] - ranked[:, 1:])).clamp_min(LEAST_SCALE)
    top = others.detach().amax(dim=1, keepdim=True)
    soft = top + scale * torch.logsumexp((others - top) / scale, dim=1, keepdim=True)
    return soft.squeeze(1) - true


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{i != y} z_i - z_y, (B,); positive exactly when misclassified (Carlini & Wagner 2017)."""
    true, others = _true_and_others(logits, labels)
    return others.amax(dim=1) - true


def _ranked(logits: Tensor, least: int) -> Tensor:
    if logits.shape[1] < least:
        raise ValueError(f"expected at least {least} classes for this loss, got {logits.shape[1]} — use margin instead")
    return logits.sort(dim=1, descending=True).values


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, (B,): margin / (z_(1) - z_(3)), the same for any positive multiple of the logits.

    Croce and Hein 2020 (Auto-PGD), equation 6; needs three classes.
    """
    ranked = _ranked(logits, 3)
    return margin(logits, labels) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """z_t - z_y, (B,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), (B,); Croce and Hein 2020, equation 7; needs four classes."""
    ranked = _ranked(logits, 4)
    return targeted_margin(logits, labels, targets) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": log_odds,
    "scaled_ce": scaled_log_odds,
    "margin": margin,
    "dlr": dlr,
}
TARGETED_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "targeted_margin": targeted_margin,
    "targeted_dlr": targeted_dlr,
}


def loss_of(loss: str, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Value (B,) of one of the losses; targeted ones need the classes (B,) they drive to."""
    if targets is None:
        return LOSSES[loss](logits, labels)
    return TARGETED_LOSSES[loss](logits, labels, targets)


# results of a chain (B, ...), numbers of their images -> values (B,), logits (B, classes)
Judge = Callable[[Tensor, list[int]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Defence:
    """purifier and classifier, both frozen; all methods take images (n, C, H, W) and their dataset indices.

    batch_size           of everything but gradients
    surrogate            purifier of fewer steps, for the gradient mode of that name; nothing else looks at it
    gradient_batch_size  of gradients, whose activations take the memory; None: the same. Like `batch_size` it decides
                         the last bits of a result, so it is a setting and never follows from the machine
    """

    purifier: Purifier
    classifier: Classifier
    batch_size: int
    surrogate: Purifier | None = None
    gradient_batch_size: int | None = None

    @property
    def _differentiated(self) -> int:
        return self.gradient_batch_size or self.batch_size

    def purify(self, images: Tensor, ids: Sequence[int], source: NoiseSource, draw: int) -> Tensor:
        """Purified images at one draw."""

        def run(block: list[int]) -> Tensor:
            return purify(self.purifier, images[block], source([ids[i] for i in block], draw))

        # no_grad, not inference_mode: a guided purifier differentiates inside
        with torch.no_grad():
            return map_batches(run, range(len(images)), self.batch_size)

    def logits(self, images: Tensor) -> Tensor:
        """Classifier logits of images as they are (no purification)."""
        with torch.no_grad():
            return map_batches(lambda block: self.classifier(images[block]), range(len(images)), self.batch_size)

    def predict(self, images: Tensor, ids: Sequence[int], source: NoiseSource, draw: int) -> Tensor:
        """Predicted labels (n,) of the purified images at one draw."""
        return self.logits(self.purify(images, ids, source, draw)).argmax(dim=1)

    def kept_steps(self, images: Tensor, ids: Sequence[int], source: NoiseSource, memory: float) -> int:
        """Steps whose activations fit into `memory` bytes at this batch size; a warning where not even one does."""
        size = self._differentiated
        block, _ = next(batches(range(len(images)), size))
        need = bytes_of_step(self.purifier, images[block], source([ids[i] for i in block]))
        if need > memory:
            logger.warning(
                "one step of %d images keeps %.3g bytes of activations, memory_bytes allows %.3g: "
                "expected gradient_batch_size of at most %d", size, need, memory, max(1, int(size * memory / need)),
            )  # fmt: skip
        return min(self.purifier.num_steps, int(memory // max(need, 1)))

    def loss_gradient(
        self,
        images: Tensor,
        labels: Tensor,
        ids: Sequence[int],
        source: NoiseSource,
        draw: int,
        *,
        loss: str,
        mode: str,
        kept_steps: int,
        targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Per-image loss (n,), its gradient at the images (n, C, H, W), and predicted labels (n,), at one draw.

        targets   classes (n,) of a targeted loss
        """

        def judge(purified: Tensor, block: list[int]) -> tuple[Tensor, Tensor]:
            logits = self.classifier(purified)
            return loss_of(loss, logits, labels[block], None if targets is None else targets[block]), logits

        return self.differentiate(self.purifier, images, ids, source, draw, judge, mode=mode, kept_steps=kept_steps)

    def differentiate(
        self, chain: Purifier, images: Tensor, ids: Sequence[int], source: NoiseSource, draw: int, judge: Judge, *,
        mode: str, kept_steps: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Values (n,) of a judge at the results of a chain, their gradients at the images, and the labels it saw."""
        values, gradients, predictions = [], [], []
        options: dict[str, Any] = {"surrogate": self.surrogate} if mode == "surrogate" else {}
        for block, valid in batches(range(len(images)), self._differentiated):
            logits: list[Tensor] = []

            def objective(result: Tensor, block: list[int] = block, logits: list[Tensor] = logits) -> Tensor:
                value, seen = judge(result, block)
                logits.append(seen)
                return value

            noise = source([ids[i] for i in block], draw)
            out = gradient(chain, images[block], noise, objective, mode=mode, kept_steps=kept_steps, **options)
            values.append(out.values[:valid])
            gradients.append(out.gradient[:valid])
            predictions.append(logits[-1].detach().argmax(dim=1)[:valid])
        return torch.cat(values), torch.cat(gradients), torch.cat(predictions)

    def pull_back(
        self,
        images: Tensor,
        cotangents: Tensor,
        ids: Sequence[int],
        source: NoiseSource,
        draws: Sequence[int],
        *,
        mode: str,
        kept_steps: int,
    ) -> Tensor:
        """v^T J (n, C, H, W): directions v at the purified images as directions at the images, each at its own draw."""
        options: dict[str, Any] = {"surrogate": self.surrogate} if mode == "surrogate" else {}
        pulled = []
        for block, valid in batches(range(len(images)), self._differentiated):

            def objective(purified: Tensor, block: list[int] = block) -> Tensor:
                return (purified * cotangents[block]).flatten(1).sum(dim=1)

            noise = source([ids[i] for i in block], [draws[i] for i in block])
            out = gradient(self.purifier, images[block], noise, objective, mode=mode, kept_steps=kept_steps, **options)
            pulled.append(out.gradient[:valid])
        return torch.cat(pulled)
