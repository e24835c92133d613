"""The update of APGD (Croce & Hein 2020): momentum, and step lengths halved per image where progress stops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purification.threat import ThreatModel

MOMENTUM = 0.75  # weight of the new step against the last displacement
PROGRESS = 0.75  # share of iterations that must raise the score


def checkpoints(steps: int) -> list[int]:
    """Iterations at which step lengths are looked at: .22 n, then after intervals that shrink by .03 n to .06 n."""
    period, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    at = [period]
    while at[-1] < steps:
        period = max(period - shrink, least)
        at.append(at[-1] + period)
    return at[:-1]


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


def _halve(at: Stepping, k: int, steps: int) -> Tensor:
    """Halve where at most three quarters of the iterations gained, or a full interval found nothing better."""
    places = checkpoints(steps)
    if k not in places:
        return torch.zeros_like(at.halved)
    length = k - ([0, *places][places.index(k)])
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
    back = _halve(at, k, steps).view(-1, 1, 1, 1)
    x, towards = torch.where(back, at.best, at.x), torch.where(back, at.best_way, way)
    length = (threat.epsilon * at.size).view(-1, 1, 1, 1)
    aim = threat.project(x + length * towards, images)
    share = MOMENTUM if k else 1.0
    moved = threat.project(x + share * (aim - x) + (1 - share) * (x - at.previous), images)
    at.previous.copy_(x)
    at.x.copy_(moved)
