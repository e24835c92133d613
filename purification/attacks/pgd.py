"""Projected gradient descent through a defence, with fixed or averaged randomness."""

from __future__ import annotations

from dataclasses import dataclass

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
from purification.journal import NO_JOURNAL, Journal

SELECTIONS = ("best", "last")


@dataclass(frozen=True)
class PGD:
    """Settings of one attack (Madry et al. 2018; with draws > 1: EOT, Athalye et al. 2018).

    steps, step_size   iterations and their length, in units of the budget epsilon
    random_start       uniform point of the ball instead of the image itself
    loss               key of `defence.LOSSES` or `TARGETED_LOSSES`
    gradient           mode of `gradients`
    draws              noise draws averaged per step
    redraw             fresh draws in every step (True) or the same ones (False: fixed randomness)
    select             "best": the iterate with the highest averaged loss; "last"
    stop_when_broken   leave an image alone once its only draw is misclassified (fixed randomness)
    restarts           runs from different random starts; `best_of` chooses
    targets            wrong classes attacked one after another, of targeted losses
    """

    steps: int
    step_size: float
    random_start: bool
    loss: str
    gradient: str
    draws: int
    redraw: bool
    select: str
    stop_when_broken: bool
    restarts: int
    targets: int = 0

    def __post_init__(self) -> None:
        check_averaging(self)
        if self.steps < 0 or self.restarts < 1:
            raise ValueError(f"expected steps >= 0 and restarts >= 1, got {self.steps} and {self.restarts}")
        if self.select not in SELECTIONS:
            raise ValueError(f"expected select to be one of {SELECTIONS}, got {self.select!r}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"expected a random start for {self.restarts} restarts, got none — they would be equal")
        check_targets(self.loss, self.targets)
        if self.stop_when_broken:
            check_stopping(self)


@dataclass(frozen=True)
class _Climb(Search):
    """The search and the iterate chosen so far."""

    best: Tensor
    best_loss: Tensor
    best_accuracy: Tensor
    iteration: Tensor


def _begin(x: Tensor) -> _Climb:
    zeros = torch.zeros(len(x), device=x.device)
    return _Climb(
        **search_from(x), best=x.clone(), best_loss=zeros - torch.inf, best_accuracy=zeros + 1, iteration=zeros.long()
    )


def _ascend(at: _Climb, step: int, problem: Problem, pgd: PGD) -> None:
    """Judge the iterate by its averages, keep it where it is the best so far, and go on to the next one."""
    threat, active = problem.threat, at.active.nonzero().squeeze(1)
    loss, gradient, accuracy = at.losses[active], at.slopes[active], at.accuracy[active]
    broken = (accuracy == 0) & pgd.stop_when_broken
    better = (loss > at.best_loss[active]) | broken | (pgd.select == "last")
    chosen = active[better]
    at.best[chosen] = at.x[chosen]
    at.best_loss[chosen], at.best_accuracy[chosen] = loss[better], accuracy[better]
    at.iteration[chosen] = step
    at.active[active[broken]] = False
    some = active[~broken]
    if step < pgd.steps and len(some):
        length = pgd.step_size * threat.epsilon
        at.x[some] = threat.ascend(at.x[some], gradient[~broken], length, problem.images[some])


def _restart(problem: Problem, pgd: PGD, journal: Journal, number: int) -> AttackResult:
    images = problem.images
    x = images.clone()
    if pgd.random_start:
        x = random_start(problem, number)
    at = _begin(x)
    run(problem, at, pgd, lambda state, step: _ascend(state, step, problem, pgd), pgd.steps + 1, journal)
    problem.threat.check(at.best, images)
    return single_run(at.best, at.best_loss, at.best_accuracy, at.iteration)


def pgd_attack(problem: Problem, pgd: PGD, journal: Journal = NO_JOURNAL) -> AttackResult:
    """PGD from the images themselves or from random points of the ball; for targeted losses, one run per class."""
    if pgd.restarts == 1 and not pgd.targets:
        return _restart(problem, pgd, journal, 0)

    def once(number: int) -> Attempt:
        return lambda part, kept: [_restart(part, pgd, kept, number)]

    attempts = [once(number) for number in range(pgd.restarts)]
    if pgd.targets:
        attempts = [aim for attempt in attempts for aim in aimed(attempt, pgd.draws, pgd.targets)]
    return best_of(problem, attempts, journal, stop=pgd.stop_when_broken)
