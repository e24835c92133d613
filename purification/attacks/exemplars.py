"""Steps towards images of other classes: an attack that needs neither a gradient nor a logit, only labels.

Where a defence answers with labels, or where its margins are flat between jumps, gradients and margins lead nowhere.
An image of another class then still says where that class lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purification.attacks.choosing import Attempt, best_of
from purification.attacks.problem import AttackResult, Problem, single_run
from purification.balls import NORMS
from purification.journal import NO_JOURNAL, Journal


@dataclass(frozen=True)
class Exemplars:
    """Settings of the attack.

    count   nearest images of other classes that every image moves towards, one after another
    redraw  whether the defence's noise is unknown; where it is known, an image that is broken is left alone
    """

    count: int
    redraw: bool

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"expected count >= 1, got {self.count}")


def rank_exemplars(problem: Problem, count: int) -> tuple[Tensor, Tensor]:
    """Numbers (n, count) of the nearest references of other classes, and whether there are as many (n, count)."""
    references = problem.references
    if references is None:
        raise ValueError("expected references, images of other classes to move towards, got none — set them")
    distances = torch.cdist(problem.images.flatten(1), references.images.flatten(1))
    distances[problem.labels[:, None] == references.labels] = torch.inf
    nearest = distances.sort(dim=1, stable=True)
    places = torch.arange(count).clamp_max(nearest.indices.shape[1] - 1)
    there = nearest.values[:, places].isfinite() & (torch.arange(count) < nearest.indices.shape[1])
    return nearest.indices[:, places], there


def _approach(problem: Problem, rank: int, count: int) -> AttackResult:
    """The whole budget towards one exemplar each; images without that many stay where they are."""
    indices, there = rank_exemplars(problem, count)
    references = problem.references
    assert references is not None
    images, threat = problem.images, problem.threat
    towards = references.images[indices[:, rank]] - images
    share = images.new_full((len(images),), threat.share or 1.0)
    step = threat.epsilon * NORMS[threat.norm].steepest(towards, images, share)
    moved = threat.project(images + step, images)
    found = torch.where(there[:, rank].view(-1, 1, 1, 1), moved, images)
    zeros = torch.zeros(len(images), device=images.device)
    return single_run(found, zeros, zeros + 1, zeros.long())


def exemplar_attack(problem: Problem, settings: Exemplars, journal: Journal = NO_JOURNAL) -> AttackResult:
    """Steps towards the nearest images of other classes; `best_of` chooses on the judging draws."""

    def towards(rank: int) -> Attempt:
        return lambda part, kept: [_approach(part, rank, settings.count)]

    attempts = [towards(rank) for rank in range(settings.count)]
    return best_of(problem, attempts, journal, stop=not settings.redraw)
