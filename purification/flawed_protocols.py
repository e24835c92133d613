"""FLAWED evaluation protocols, reproduced to show what they report. NEVER use them to evaluate a defence.

Each one reads chance as success or as failure: it lets the draws that judge an image also choose it. They are called by
`purification.protocol_control` only, on a defence whose robust accuracy is known, and a test keeps it so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from purification.defence import Defence
from purification.noise import NoiseSource


def _right(
    defence: Defence, images: Tensor, labels: Tensor, ids: Sequence[int], source: NoiseSource, draw: int
) -> Tensor:
    return defence.predict(images, ids, source, draw) == labels


def flawed_single_draw_selection(
    defence: Defence, candidates: Sequence[Tensor], labels: Tensor, ids: Sequence[int], source: NoiseSource
) -> Tensor:
    """(n,) survivors of AutoAttack "rand" (Croce & Hein 2020): clean image and every candidate, one draw each.

    An image that fails any of the draws is counted as broken: p^m for m useless candidates.
    """
    alive = torch.ones(len(labels), dtype=torch.bool)
    for draw, images in enumerate(candidates):
        alive &= _right(defence, images, labels, ids, source, draw)
    return alive.float()


def flawed_minimum_of_estimates(
    defence: Defence,
    candidates: Sequence[Tensor],
    labels: Tensor,
    ids: Sequence[int],
    source: NoiseSource,
    *,
    draws: int,
) -> Tensor:
    """(n,) smallest of the candidates' mean accuracies over `draws` draws, itself reported ("fixed AutoAttack", ADDT).

    The minimum of noisy estimates is below every one of their means (winner's curse).
    """
    shares = [
        torch.stack([_right(defence, images, labels, ids, source, k * draws + d).float() for d in range(draws)]).mean(0)
        for k, images in enumerate(candidates)
    ]
    return torch.stack(shares).amin(dim=0)


def flawed_stop_at_first_success(
    defence: Defence, iterates: Sequence[Tensor], labels: Tensor, ids: Sequence[int], source: NoiseSource, *, votes: int
) -> Tensor:
    """(n,) images that no iterate breaks, each judged by the majority of `votes` draws of its own; ties break it.

    With one vote, the "any misclassified iterate" of attacks that stop at their first success: p^m for m iterates.
    """
    alive = torch.ones(len(labels), dtype=torch.bool)
    for number, images in enumerate(iterates):
        some = alive.nonzero().squeeze(1)
        who = [ids[i] for i in some.tolist()]
        draws = range(number * votes, (number + 1) * votes)
        right = [_right(defence, images[some], labels[some], who, source, d).long() for d in draws] if who else []
        alive[some] = 2 * torch.stack(right).sum(dim=0) > votes if who else alive[some]
    return alive.float()
