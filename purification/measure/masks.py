"""How much of a purifier's derivative is set to zero by clamps and by operations that have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from purification.noise import Noise
from purification.purifiers import Purifier, purify

# Nodes of autograd that can stop a derivative.
STOPPING = ("Clamp", "Hardtanh", "Maximum", "Minimum", "Round", "Floor", "Ceil", "Trunc", "Sign")


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of the graph behind a result, once."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(source for source, _ in node.next_functions)


def masked_share(purifier: Purifier, images: Tensor, noise: Noise) -> Tensor:
    """Share of derivatives that arrive at an operation of `STOPPING` and leave it as zero, (B,) in [0, 1].

    The largest over all such operations on tensors of the images' size between the image and the result: those inside
    a network, of other sizes, and those that a straight-through rule hides from the derivative do not count.
    """
    leaf = images.detach().requires_grad_()
    purified = purify(purifier, leaf, noise)
    shares = [torch.zeros(len(images), dtype=torch.float64, device=images.device)]

    def note(leaving: tuple[Tensor | None, ...], arriving: tuple[Tensor | None, ...]) -> None:
        before = arriving[0]
        if before is None or before.shape[0] != len(images) or before[0].numel() != images[0].numel():
            return
        after = sum((part for part in leaving if part is not None), torch.zeros_like(before))
        alive = (before != 0).flatten(1)
        stopped = alive & (after == 0).flatten(1)
        shares.append(stopped.sum(dim=1).double() / alive.sum(dim=1).clamp_min(1))

    for node in _nodes(purified.grad_fn):
        if node.name().startswith(STOPPING):
            node.register_hook(note)
    weighted = (purified * noise.normal("weights").to(purified.dtype)).sum()
    torch.autograd.grad(weighted, leaf, allow_unused=True)
    return torch.stack(shares).amax(dim=0)
