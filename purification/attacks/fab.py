"""FAB-T: the nearest misclassified image, by steps to linearised boundaries with other classes (Croce and Hein 2020,
arXiv 1907.02044)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    run,
    search_from,
    single_run,
)
from purification.journal import NO_JOURNAL, Journal


@dataclass(frozen=True)
class FAB:
    """Settings of FAB-T; the randomness must be known, an average of fresh draws has no boundary to stand on.

    steps              iterations per target
    targets            wrong classes attacked one after another
    alpha_max          largest weight of the clean image's projection
    overshoot          eta: how far beyond the linearised boundary
    backward           beta: share of the way to the misclassified image from which the search goes on
    gradient, draws    as in `Averaging`
    stop_when_broken   leave an image alone once it is misclassified within the budget, though a nearer one may exist
    """

    steps: int
    targets: int
    alpha_max: float
    overshoot: float
    backward: float
    gradient: str
    draws: int
    redraw: bool
    stop_when_broken: bool

    @property
    def loss(self) -> str:
        return "targeted_margin"

    def __post_init__(self) -> None:
        check_averaging(self)
        if self.redraw:
            raise ValueError("expected known randomness for FAB, got fresh draws — set redraw: false, or use apgd")
        if self.steps < 1 or self.targets < 1:
            raise ValueError(f"expected steps >= 1 and targets >= 1, got {self.steps} and {self.targets}")
        if not (0 <= self.alpha_max <= 1 and 0 <= self.backward < 1 <= self.overshoot):
            got = f"{self.alpha_max}, {self.backward}, {self.overshoot}"
            raise ValueError(f"expected alpha_max in [0, 1], backward in [0, 1), overshoot >= 1, got {got}")
        if self.stop_when_broken:
            check_stopping(self)


@dataclass(frozen=True)
class _Boundary(Search):
    """The search and the nearest misclassified image so far, with its distance."""

    best: Tensor
    distance: Tensor
    iteration: Tensor


def _level(weights: Tensor, speed: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """min(t speed, room), t such that sum(weights min(t speed, room)) = need (B,); all of room if there is none."""
    at, order = torch.where(speed > 0, room / speed.clamp_min(1e-300), 0.0).sort(dim=1)
    gain = (weights * room).gather(1, order)
    rate = (weights * speed).gather(1, order).flip(1).cumsum(dim=1).flip(1)  # of the pixels that still move
    met = gain.cumsum(dim=1) - gain
    first = ((met + at * rate) < need[:, None]).sum(dim=1)
    inside = first.clamp_max(room.shape[1] - 1)[:, None]
    time = (need - met.gather(1, inside).squeeze(1)) / rate.gather(1, inside).squeeze(1).clamp_min(1e-300)
    time = torch.where(first < room.shape[1], time, torch.inf)
    return torch.where(speed > 0, torch.minimum(time[:, None] * speed, room), 0.0)


def _steepest_first(weights: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Fill the room of the pixels with the largest weights first, until sum(weights filled) = need (B,)."""
    steep, order = weights.sort(dim=1, descending=True, stable=True)
    gain = steep * room.gather(1, order)
    left = need[:, None] - (gain.cumsum(dim=1) - gain)
    filled = (left / steep.clamp_min(1e-300)).clamp_min(0.0).minimum(room.gather(1, order))
    return torch.zeros_like(room).scatter(1, order, filled)


# Size of the shortest shift in each norm: |slope|, room in the box, and the needed change of the linear function.
SHIFTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": lambda steep, room, need: _level(steep, (steep > 0).to(steep), room, need),
    "l2": lambda steep, room, need: _level(steep, steep, room, need),
    "l1": _steepest_first,
}


def shift_to_plane(x: Tensor, slope: Tensor, need: Tensor, norm: str) -> Tensor:
    """Shortest d with slope . d = need (B,) and x + d in the box; the farthest corner where the box has no such d.

    Equations 5 and 6 of the paper in closed form: pixels move against the box at a rate that depends on the norm.
    """
    steep, signs = slope.double().abs().flatten(1), slope.double().sign().flatten(1) * need.double().sign()[:, None]
    inside = x.double().flatten(1)
    room = torch.where(signs > 0, 1 - inside, inside) * (signs != 0)
    return (signs * SHIFTS[norm](steep, room, need.double().abs())).view(x.shape).to(x.dtype)


def _step(at: _Boundary, problem: Problem, fab: FAB) -> None:
    """Towards the linearised boundary, with a bias to the clean image's own projection on it (equations 7 to 9)."""
    chosen, threat = at.active.nonzero().squeeze(1), problem.threat
    x, clean = at.x[chosen], problem.images[chosen]
    value, slope = at.losses[chosen], at.slopes[chosen]
    there = value + (slope * (clean - x)).flatten(1).sum(dim=1)
    near = shift_to_plane(x, slope, -value, threat.norm)
    far = shift_to_plane(clean, slope, -there, threat.norm)
    one, other = (threat.size(shift).clamp_min(1e-8).to(x.dtype) for shift in (near, far))
    alpha = (one / (one + other)).clamp_max(fab.alpha_max).view(-1, 1, 1, 1)
    at.x[chosen] = ((1 - alpha) * (x + fab.overshoot * near) + alpha * (clean + fab.overshoot * far)).clamp(0.0, 1.0)


def _step_back(at: _Boundary, number: int, problem: Problem, fab: FAB) -> None:
    """Keep a misclassified image that is the nearest so far, and go on from nearer to the clean one (section 2.3)."""
    wrong = (at.active & (at.accuracy == 0)).nonzero().squeeze(1)
    x, clean = at.x[wrong], problem.images[wrong]
    distance = problem.threat.size(x - clean).to(at.distance)
    nearer = distance < at.distance[wrong]
    at.best[wrong[nearer]], at.distance[wrong[nearer]] = x[nearer], distance[nearer]
    at.iteration[wrong[nearer]] = number
    at.x[wrong] = clean + fab.backward * (x - clean)
    if fab.stop_when_broken:
        at.active[wrong[distance <= problem.threat.epsilon]] = False


def _towards(problem: Problem, fab: FAB, journal: Journal) -> Sequence[AttackResult]:
    x, zeros = problem.images.clone(), torch.zeros(len(problem.images), device=problem.images.device)
    at = _Boundary(**search_from(x), best=x.clone(), distance=zeros + torch.inf, iteration=zeros.long())

    def advance(state: _Boundary, number: int) -> None:
        if number % 2:
            _step_back(state, number // 2 + 1, problem, fab)
        else:
            _step(state, problem, fab)

    run(problem, at, fab, advance, 2 * fab.steps, journal, differentiated=lambda number: number % 2 == 0)
    within = (at.distance <= problem.threat.epsilon).view(-1, 1, 1, 1)
    found = torch.where(within, at.best, problem.threat.project(at.best, problem.images))
    return [single_run(found, at.distance, (~within).flatten().float(), at.iteration)]


def fab_attempts(fab: FAB) -> list[Attempt]:
    """One attempt per target."""
    return aimed(lambda part, journal: _towards(part, fab, journal), fab.draws, fab.targets)


def fab_attack(problem: Problem, fab: FAB, journal: Journal = NO_JOURNAL) -> AttackResult:
    """FAB-T; an image whose nearest misclassified one lies beyond the budget is given that one's projection."""
    return best_of(problem, fab_attempts(fab), journal, stop=fab.stop_when_broken)
