"""How much of a purifier's derivative is set to zero by clamps and by operations that have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from purification.errors import NoDerivative
from purification.noise import Noise
from purification.purifiers import Purifier, purify

# Nodes of autograd that can stop a derivative.
STOPPING = (
    *("Clamp", "Hardtanh", "Maximum", "Minimum", "Round", "Floor", "Ceil", "Trunc", "Sign"),
    *("Relu", "Threshold", "Where", "MaskedFill"),
)


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of the graph behind a result, once."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(source for source, _ in node.next_functions)


def _are_images(values: Tensor, images: Tensor) -> bool:
    """Whether values are images of the batch, at their size or another."""
    if values.shape[0] != len(images):
        return False
    return values[0].numel() == images[0].numel() or (values.dim() == 4 and values.shape[1] == images.shape[1])


def masked_share(purifier: Purifier, images: Tensor, noise: Noise) -> Tensor:
    """Share of derivatives that arrive at an operation of `STOPPING` and leave it as zero, (B,) in [0, 1].

    The largest over all such operations between the image and the result, on tensors that are images: (B, C, h, w) of
    any height and width with the channels of the images, or as many values as an image has. Those inside a network, of
    other shapes, and those that a straight-through rule hides from the derivative do not count.
    Raises NoDerivative for a result without one.
    """
    leaf = images.detach().requires_grad_()
    purified = purify(purifier, leaf, noise)
    if not purified.requires_grad:
        raise NoDerivative("expected a purifier with a derivative, got a result without one — attack it by BPDA")
    shares = [torch.zeros(len(images), dtype=torch.float64, device=images.device)]

    def note(leaving: tuple[Tensor | None, ...], arriving: tuple[Tensor | None, ...]) -> None:
        before = arriving[0]
        if before is None or not _are_images(before, images):
            return
        after = torch.zeros_like(before)
        for part in leaving:
            if part is not None and part.shape == before.shape:
                after = after + part
        alive = (before != 0).flatten(1)
        stopped = alive & (after == 0).flatten(1)
        shares.append(stopped.sum(dim=1).double() / alive.sum(dim=1).clamp_min(1))

    for node in _nodes(purified.grad_fn):
        if node.name().startswith(STOPPING):
            node.register_hook(note)
    weighted = (purified * noise.normal("weights").to(purified.dtype)).sum()
    torch.autograd.grad(weighted, leaf, allow_unused=True)
    return torch.stack(shares).amax(dim=0)
