"""Where a long loop leaves its state, so that the same computation, called again, goes on from there.

Noise and batches are functions of the step, never of what was drawn before, so a loop that is given its tensors and its
step back computes the same bits as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]


class Journal(Protocol):
    """Keeps the last state of one loop; who keeps it knows what the loop depends on and never hands out another's."""

    def load(self) -> State:
        """The state kept last; empty when there is none."""

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """Offer a state after a step; it is asked for when it is time to write it, at the `last` step always."""

    def part(self, name: str) -> Journal:
        """The journal of one of several loops."""


class NoJournal:
    """Keeps nothing."""

    def load(self) -> State:
        return {}

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        pass

    def part(self, name: str) -> NoJournal:
        return self


NO_JOURNAL = NoJournal()


def restore(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved values, if any, into the tensors of a loop, which keep their device and memory format."""
    if not saved:
        return
    if live.keys() != saved.keys():
        raise ValueError(f"expected a saved state of {sorted(live)}, got {sorted(saved)} — delete the journal")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
