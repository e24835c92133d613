"""The update of APGD (Croce & Hein 2020): momentum, and step lengths halved per image where progress stops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purification.threat import ThreatModel

# Percent of the steps: the first interval between checkpoints, its decrease, the shortest, and all of them under l1.
FIRST, DECREASE, SHORTEST, SPARSE = 22, 3, 6, 4
MOMENTUM = 0.75  # weight of the new step against the last displacement
PROGRESS = 0.75  # share of iterations that must raise the score


def checkpoints(steps: int, norm: str) -> dict[int, int]:
    """Iteration of every checkpoint -> iterations since the one before; 22, 41, 57, 70, 80, 87, 93, 99 of 100."""
    interval, shortest = max(FIRST * steps // 100, 1), max(SHORTEST * steps // 100, 1)
    decrease = max(DECREASE * steps // 100, 1)
    if norm == "l1":
        interval = shortest = max(SPARSE * steps // 100, 1)
    found, at = {}, interval
    while at < steps:
        found[at] = interval
        interval = max(interval - decrease, shortest)
        at += interval
    return found


@dataclass(frozen=True)
class Stepping:
    """State with one entry per image.

    x, previous                  current and last iterate
    best, best_way, best_score   iterate of the highest score, the direction taken there, and the score
    score                        of the last iterate
    size                         step length in units of epsilon
    gains                        iterations since the last checkpoint that raised the score
    halved, checked              whether the last checkpoint halved the step, and the best score then
    """

    x: Tensor
    previous: Tensor
    best: Tensor
    best_way: Tensor
    best_score: Tensor
    score: Tensor
    size: Tensor
    gains: Tensor
    halved: Tensor
    checked: Tensor


def begin_stepping(x: Tensor, step_size: float) -> dict[str, Tensor]:
    """Fields of `Stepping` before the first iteration."""
    zeros = torch.zeros(len(x), device=x.device)
    return {
        "x": x,
        "previous": x.clone(),
        "best": x.clone(),
        "best_way": torch.zeros_like(x),
        "best_score": zeros - torch.inf,
        "score": zeros - torch.inf,
        "size": zeros + step_size,
        "gains": zeros.long(),
        "halved": zeros == 0,
        "checked": zeros - torch.inf,
    }


def _halve(at: Stepping, k: int, steps: int, norm: str) -> Tensor:
    """Halve where at most three quarters of the iterations gained, or a full interval found nothing better."""
    length = checkpoints(steps, norm).get(k)
    if length is None:
        return torch.zeros_like(at.halved)
    stuck = (at.gains <= PROGRESS * length) | (~at.halved & (at.best_score <= at.checked))
    at.size[stuck] /= 2
    at.halved.copy_(stuck)
    at.checked.copy_(at.best_score)
    at.gains.zero_()
    return stuck


def advance(at: Stepping, k: int, steps: int, score: Tensor, way: Tensor, threat: ThreatModel, images: Tensor) -> None:
    """Note the score (n,) of iterate k and, unless it is the last, step along `way` (n, C, H, W) of unit length.

    z = P(x + size way), x' = P(x + a (z - x) + (1 - a) (x - previous)), a = MOMENTUM, 1 at k = 0. Images whose step was
    halved go on from their best iterate and the direction taken there.
    """
    if k:
        at.gains.add_((score > at.score).long())
    better = score > at.best_score
    at.best[better], at.best_way[better], at.best_score[better] = at.x[better], way[better], score[better]
    at.score.copy_(score)
    if k >= steps:
        return
    back = _halve(at, k, steps, threat.norm).view(-1, 1, 1, 1)
    x, towards = torch.where(back, at.best, at.x), torch.where(back, at.best_way, way)
    length = (threat.epsilon * at.size).view(-1, 1, 1, 1)
    aim = threat.project(x + length * towards, images)
    share = MOMENTUM if k else 1.0
    moved = threat.project(x + share * (aim - x) + (1 - share) * (x - at.previous), images)
    at.previous.copy_(x)
    at.x.copy_(moved)
