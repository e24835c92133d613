"""Auto-PGD: projected gradient ascent that halves its own step where it stops gaining.

Croce and Hein 2020, arXiv 2003.01690, Algorithm 1. Under l1 the number of moved pixels adapts in place of the momentum,
and larger balls may be searched first: Croce and Hein 2021, arXiv 2103.01208.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purification.attacks.choosing import Attempt, aimed, best_of
from purification.attacks.problem import (
    AttackResult,
    Problem,
    Search,
    check_averaging,
    check_stopping,
    check_targets,
    random_start,
    run,
    search_from,
    single_run,
)
from purification.attacks.stepping import checkpoints
from purification.journal import NO_JOURNAL, Journal

LENGTHS = {"linf": 2.0, "l2": 2.0, "l1": 1.0}  # of the first step, in units of epsilon
# Under l1: share of the pixels moved at first, its division at checkpoints, the fall of sparsity that resets the step,
# the division of the step otherwise, and how far it may fall.
SHARE, NARROWER, FELL, SHORTER, LEAST = 0.2, 1.5, 0.95, 1.5, 10.0
EARLIER = 0.3  # share of the iterations in each of the larger balls


@dataclass(frozen=True)
class APGD:
    """Settings of Auto-PGD.

    steps              iterations
    rho                a step is halved when at most this share of the iterations since the last checkpoint gained
    momentum           weight of the new step; the rest repeats the last movement (linf and l2)
    loss, gradient     as in `Averaging`
    draws, redraw      as in `Averaging`; loss and gradient are both averaged
    stop_when_broken   leave an image alone once its only draw is misclassified (fixed randomness)
    restarts           runs from different random starts
    targets            wrong classes attacked one after another, of targeted losses
    radii              multiples of the budget whose balls are searched one after another, each from the best point of
                       the one before; at most two larger ones, then 1
    """

    steps: int
    rho: float
    momentum: float
    loss: str
    gradient: str
    draws: int
    redraw: bool
    stop_when_broken: bool
    restarts: int
    targets: int = 0
    radii: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        check_averaging(self)
        check_targets(self.loss, self.targets)
        check_radii(self.radii, self.redraw)
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"expected steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}")
        if not (0 <= self.rho <= 1 and 0 < self.momentum <= 1):
            raise ValueError(f"expected rho in [0, 1], momentum in (0, 1], got {self.rho} and {self.momentum}")
        if self.stop_when_broken:
            check_stopping(self)


def check_radii(radii: Sequence[float], redraw: bool) -> None:
    """Raise ValueError unless the radii fall to 1, and larger ones are searched on known randomness only."""
    if list(radii) != sorted(set(radii), reverse=True) or radii[-1] != 1 or len(radii) > 3:
        raise ValueError(f"expected at most three radii that fall to 1, got {list(radii)} — write [3, 2, 1] or [1]")
    if len(radii) > 1 and redraw:
        raise ValueError(f"expected radii [1] with fresh draws, got {list(radii)} — larger balls need known randomness")


def _iterations(steps: int, count: int) -> list[int]:
    """Iterations in each of `count` balls: 30, 30 and 40 of 100; of very few the last ball, which counts, has all."""
    earlier = min(math.ceil(EARLIER * steps), (steps - 1) // max(count - 1, 1))
    return [earlier] * (count - 1) + [steps - earlier * (count - 1)]


@dataclass(frozen=True)
class _Climb(Search):
    """The search, its past and its step.

    previous                 iterate before the current one
    best, best_*             iterate with the highest loss, its loss, slope and accuracy; iteration is its number
    length, share            of the next step; the share of the pixels it moves (l1)
    last, rises              loss of the last iterate, and how often it rose since the last checkpoint
    checked, halved, spread  best loss, whether the step was halved, pixels moved, all at the last checkpoint
    """

    previous: Tensor
    best: Tensor
    best_slope: Tensor
    best_loss: Tensor
    best_accuracy: Tensor
    iteration: Tensor
    length: Tensor
    share: Tensor
    last: Tensor
    rises: Tensor
    checked: Tensor
    halved: Tensor
    spread: Tensor


def _begin(x: Tensor, problem: Problem, *, wide: bool) -> _Climb:
    """The state at x; under l1 first steps move a fifth of the pixels (wide), or two thirds of those that differ."""
    zeros = torch.zeros(len(x), device=x.device)
    spread = zeros + x[0].numel() if wide else _spread(x, problem)
    share = zeros + SHARE if wide else spread / x[0].numel() / NARROWER
    return _Climb(
        **search_from(x),
        previous=x.clone(), best=x.clone(), best_slope=torch.zeros_like(x), best_loss=zeros - torch.inf,
        best_accuracy=zeros + 1, iteration=zeros.long(),
        length=zeros + LENGTHS[problem.threat.norm] * problem.threat.epsilon, share=share,
        last=zeros + torch.inf, rises=zeros.clone(), checked=zeros + torch.inf, halved=zeros == 0,
        spread=spread,
    )  # fmt: skip


def _spread(x: Tensor, problem: Problem) -> Tensor:
    """Number of pixels (n,) that differ from the clean image's."""
    return (x != problem.images).flatten(1).sum(dim=1).to(x.dtype)


def _record(at: _Climb, number: int, apgd: APGD) -> None:
    """Compare the iterate with the best one and the last one."""
    broken = at.active & (at.accuracy == 0) & apgd.stop_when_broken
    better = at.active & (at.losses > at.best_loss) | broken
    at.best[better], at.best_slope[better] = at.x[better], at.slopes[better]
    at.best_loss[better], at.best_accuracy[better] = at.losses[better], at.accuracy[better]
    at.iteration[better] = number
    at.rises[at.active & (at.losses > at.last)] += 1
    at.last[at.active] = at.losses[at.active]
    if number == 0:
        at.checked[at.active] = at.best_loss[at.active]
    at.active[broken] = False


def _return_to_best(at: _Climb, chosen: Tensor, apgd: APGD) -> None:
    """Take up the best iterate again; not where draws are random, since it was best on lucky ones."""
    if apgd.redraw:
        return
    at.x[chosen], at.slopes[chosen] = at.best[chosen], at.best_slope[chosen]


def _check(at: _Climb, window: int, apgd: APGD) -> None:
    """Halve after few rises (condition 1), or without a new best since an unhalved check (2); return to the best."""
    idle = ~at.halved & (at.checked >= at.best_loss)
    halve = at.active & ((at.rises <= apgd.rho * window) | idle)
    at.halved.copy_(halve)
    at.checked.copy_(at.best_loss)
    at.rises.zero_()
    at.length[halve] /= 2
    _return_to_best(at, halve, apgd)


def _check_sparsity(at: _Climb, problem: Problem, apgd: APGD) -> None:
    """Move as many pixels as the best iterate suggests; start again from it where they became fewer.

    Where draws are random, the present iterate takes the place of the best.
    """
    spread = _spread(at.x if apgd.redraw else at.best, problem)
    fewer = at.active & (spread / at.spread.clamp_min(1) < FELL)
    longest = LENGTHS["l1"] * problem.threat.epsilon
    at.length.div_(SHORTER).clamp_(longest / LEAST, longest)
    at.length[fewer] = longest
    at.share.copy_(spread / problem.images[0].numel() / NARROWER)
    at.spread.copy_(spread)
    _return_to_best(at, fewer, apgd)


def _move(at: _Climb, number: int, problem: Problem, apgd: APGD) -> None:
    threat, chosen = problem.threat, at.active.nonzero().squeeze(1)
    if not len(chosen):
        return
    x, previous, images = at.x[chosen], at.previous[chosen], problem.images[chosen]
    ahead = threat.ascend(x, at.slopes[chosen], at.length[chosen].view(-1, 1, 1, 1), images, at.share[chosen])
    if number and threat.norm != "l1":
        weight = apgd.momentum
        ahead = threat.project(x + weight * (ahead - x) + (1 - weight) * (x - previous), images)
    at.previous[chosen], at.x[chosen] = x, ahead


def _advance(at: _Climb, number: int, problem: Problem, apgd: APGD) -> None:
    _record(at, number, apgd)
    window = checkpoints(apgd.steps, problem.threat.norm).get(number)
    if window and problem.threat.norm == "l1":
        _check_sparsity(at, problem, apgd)
    elif window:
        _check(at, window, apgd)
    if number < apgd.steps:
        _move(at, number, problem, apgd)


def _search(problem: Problem, apgd: APGD, journal: Journal, at: _Climb) -> _Climb:
    run(problem, at, apgd, lambda state, turn: _advance(state, turn, problem, apgd), apgd.steps + 1, journal)
    return at


def _through_balls(problem: Problem, apgd: APGD, journal: Journal, number: int) -> _Climb:
    """The search of the last ball, from the best point of the larger one before it, projected."""
    counts = _iterations(apgd.steps, len(apgd.radii))
    threats = [replace(problem.threat, epsilon=radius * problem.threat.epsilon) for radius in apgd.radii]
    x = random_start(replace(problem, threat=threats[0]), number)
    for place, (threat, steps) in enumerate(zip(threats, counts, strict=True)):
        if not steps:
            continue
        within, last = replace(problem, threat=threat), place == len(threats) - 1
        settings = replace(apgd, steps=steps, stop_when_broken=apgd.stop_when_broken and last, radii=(1.0,))
        at = _begin(threat.project(x, problem.images), within, wide=False)
        x = _search(within, settings, journal.part(str(place)), at).best
    return at


def _restart(problem: Problem, apgd: APGD, journal: Journal, number: int) -> Sequence[AttackResult]:
    """The best iterate; where draws are random, also the last, since the best one was best on lucky draws."""
    if len(apgd.radii) > 1:
        at = _through_balls(problem, apgd, journal, number)
    else:
        at = _search(problem, apgd, journal, _begin(random_start(problem, number), problem, wide=True))
    best = single_run(at.best, at.best_loss, at.best_accuracy, at.iteration)
    last = single_run(at.x, at.last, at.best_accuracy, torch.full_like(at.iteration, apgd.steps))
    return [best, last] if apgd.redraw else [best]


def apgd_attempts(apgd: APGD) -> list[Attempt]:
    """One attempt per restart, or per restart and target."""

    def once(number: int) -> Attempt:
        return lambda part, journal: _restart(part, apgd, journal, number)

    attempts = [once(number) for number in range(apgd.restarts)]
    if not apgd.targets:
        return attempts
    return [aim for attempt in attempts for aim in aimed(attempt, apgd.draws, apgd.targets)]


def apgd_attack(problem: Problem, apgd: APGD, journal: Journal = NO_JOURNAL) -> AttackResult:
    """Auto-PGD on an untargeted loss, or on a targeted one against several classes (APGD-T)."""
    return best_of(problem, apgd_attempts(apgd), journal, stop=apgd.stop_when_broken)
