"""Square Attack: random search with squares that shrink, no gradient (Andriushchenko et al. 2020, arXiv 1912.00049)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purification.attacks.choosing import Attempt, best_of
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

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the area is halved
PLANNED = 10_000  # queries that the schedule is made for
ORDERS = {"l2": 2, "l1": 1}
DECAYS = {"l2": 2, "l1": 4}  # of the pyramids


@dataclass(frozen=True)
class Square:
    """Settings of Square Attack.

    queries            proposals per restart
    fraction           share of the image's area that the first squares cover
    rescale            stretch the schedule of sizes over the queries; false keeps the one made for 10 000
    paired             judge every proposal and the image it would replace on the same draws, anew in every query (for
                       random defences: a value that is kept from an earlier query is a lucky one)
    draws, redraw      as in `Averaging`
    stop_when_broken   leave an image alone once its only draw is misclassified (fixed randomness)
    restarts           runs from different random starts
    """

    queries: int
    fraction: float
    rescale: bool
    paired: bool
    draws: int
    redraw: bool
    stop_when_broken: bool
    restarts: int

    @property
    def loss(self) -> str:
        return "margin"

    @property
    def gradient(self) -> str:
        """None is taken."""
        return "replay"

    def __post_init__(self) -> None:
        check_averaging(self)
        if self.queries < 1 or self.restarts < 1:
            raise ValueError(f"expected queries >= 1 and restarts >= 1, got {self.queries} and {self.restarts}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"expected fraction in (0, 1], got {self.fraction}")
        if self.stop_when_broken:
            check_stopping(self)


@dataclass(frozen=True)
class _Queries(Search):
    """The search, in which x is the proposal, and the image kept."""

    best: Tensor
    best_loss: Tensor
    best_accuracy: Tensor
    iteration: Tensor


def area(square: Square, query: int) -> float:
    """Share of the image that a square covers: the first share, halved after each query of the schedule."""
    planned = query * PLANNED // square.queries if square.rescale else query
    return square.fraction / 2.0 ** sum(planned > point for point in SCHEDULE)


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers >= 0, 1.0, -1.0).to(numbers)


def _corner(numbers: Tensor, extent: int, side: int) -> Tensor:
    """First row or column (B,) of a square, uniform over all places, from uniform numbers in [-1, 1)."""
    return ((numbers + 1) / 2 * (extent - side + 1)).long().clamp_max(extent - side)


def _window(rows: Tensor, columns: Tensor, side: int, like: Tensor) -> Tensor:
    """Mask (B, 1, H, W) of one square per image."""
    down, across = (torch.arange(extent, device=like.device) for extent in like.shape[2:])
    inside = (down >= rows[:, None]) & (down < rows[:, None] + side)
    beside = (across >= columns[:, None]) & (across < columns[:, None] + side)
    return (inside[:, :, None] & beside[:, None, :])[:, None]


def _numbers(problem: Problem, chosen: Tensor, restart: int, query: int) -> Tensor:
    """Uniform numbers (B, 5 + C) of one query: two corners, an orientation, a sign per channel."""
    width = 5 + problem.images.shape[1]
    source = replace(problem.start, shape=(1, 1, width))
    return source(problem.ids_of(chosen), restart).uniform("square", query).flatten(1)


def _propose_linf(x: Tensor, images: Tensor, numbers: Tensor, share: float, epsilon: float) -> Tensor:
    """Add +-2 epsilon per channel inside a square, so that its pixels lie on the faces of the ball (Algorithm 2)."""
    height, width = x.shape[2:]
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    mask = _window(_corner(numbers[:, 0], height, side), _corner(numbers[:, 1], width, side), side, x)
    return x + 2 * epsilon * _signs(numbers[:, 5:])[:, :, None, None] * mask


def _pyramid(height: int, width: int, decay: int) -> Tensor:
    """Nested rectangles around the centre, each lower than the one inside it (equation 2)."""
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(rows.abs()[:, None], columns.abs()[None, :])
    levels = max(height // 2, width // 2) + 1
    heights = torch.tensor([sum((k + 1.0) ** -decay for k in range(start, levels)) for start in range(levels + 1)])
    return heights[ring.clamp_max(levels)]


def pattern(side: int, norm: str) -> Tensor:
    """A pyramid above its negative, (side, side), of length 1 in the norm."""
    half = side // 2
    upper, lower = (_pyramid(rows, side, DECAYS[norm]) for rows in (half, side - half))
    both = torch.cat([unit for unit in (_over(upper, norm), -_over(lower, norm)) if len(unit)])
    return _over(both, norm)


def _over(values: Tensor, norm: str) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, ord=ORDERS[norm])
    return values / length.clamp_min(1e-12)


def _lengths(delta: Tensor, norm: str, dims: tuple[int, ...]) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(delta, ord=ORDERS[norm], dim=dims, keepdim=True)
    return lengths


def _propose_sparse(x: Tensor, images: Tensor, numbers: Tensor, share: float, epsilon: float, norm: str) -> Tensor:
    """Move the mass of one square into another, as a pyramid and its negative (Algorithm 3; l1 as in AutoAttack)."""
    height, width = x.shape[2:]
    side = max(round(math.sqrt(share * height * width)), 3)
    side = min(side + 1 - side % 2, height, width)
    corners = [_corner(numbers[:, i], extent, side) for i, extent in enumerate((height, width, height, width))]
    into, out_of = _window(corners[0], corners[1], side, x), _window(corners[2], corners[3], side, x)
    delta, order = x - images, ORDERS[norm]
    free = (epsilon**order - _lengths(delta, norm, (1, 2, 3)) ** order).clamp_min(0.0) / x.shape[1]
    mass = (free + _lengths(delta * (into | out_of), norm, (2, 3)) ** order) ** (1 / order)
    shape = pattern(side, norm).to(x)
    turned = torch.where((numbers[:, 4] >= 0).view(-1, 1, 1), shape, shape.T)[:, None]
    down, across = (torch.arange(side, device=x.device) + corner[:, None] for corner in corners[:2])
    new = torch.zeros_like(x)
    image, channel = torch.arange(len(x), device=x.device)[:, None, None, None], torch.arange(x.shape[1])[:, None, None]
    place = (image, channel.to(x.device), down[:, None, :, None], across[:, None, None, :])
    new[place] = (turned * _signs(numbers[:, 5:])[:, :, None, None]).expand(-1, -1, side, side)
    old = delta * into
    new = new + old / (_lengths(old, norm, (2, 3)) + 1e-12)
    new = new / (_lengths(new, norm, (2, 3)) + 1e-12) * mass
    delta = torch.where(into, new, delta * ~out_of)
    return images + epsilon * delta / _lengths(delta, norm, (1, 2, 3)).clamp_min(1e-12)


def _stripes(images: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
    """+-epsilon in vertical stripes one pixel wide."""
    return images + epsilon * _signs(uniform[:, :, :1, :])


def _tiles(images: Tensor, uniform: Tensor, epsilon: float, norm: str) -> Tensor:
    """A grid of patterns, each with its sign."""
    height, width = images.shape[2:]
    side = max(height // 5, 1)
    tile = pattern(side, norm).to(images)
    grid = tile.repeat(height // side + 1, width // side + 1)[:height, :width]
    signs = _signs(uniform[:, :, ::side, ::side])
    delta = grid * signs.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]
    return images + epsilon * delta / _lengths(delta, norm, (1, 2, 3)).clamp_min(1e-12)


Proposal = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
PROPOSALS: dict[str, Proposal] = {
    "linf": _propose_linf,
    "l2": lambda x, images, numbers, share, epsilon: _propose_sparse(x, images, numbers, share, epsilon, "l2"),
    "l1": lambda x, images, numbers, share, epsilon: _propose_sparse(x, images, numbers, share, epsilon, "l1"),
}
STARTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "linf": _stripes,
    "l2": lambda images, uniform, epsilon: _tiles(images, uniform, epsilon, "l2"),
    "l1": lambda images, uniform, epsilon: _tiles(images, uniform, epsilon, "l1"),
}


def _judge(at: _Queries, query: int, settings: Square, renew: bool) -> None:
    """Keep the proposal where its loss is higher, or take the loss of the kept image on these draws."""
    broken = at.active & (at.accuracy == 0) & settings.stop_when_broken
    better = at.active & (renew | (at.losses > at.best_loss)) | broken
    at.best[better] = at.x[better]
    at.best_loss[better], at.best_accuracy[better] = at.losses[better], at.accuracy[better]
    if not renew:
        at.iteration[better] = query
    at.active[broken] = False


def _propose(at: _Queries, query: int, problem: Problem, settings: Square, restart: int) -> None:
    chosen, threat = at.active.nonzero().squeeze(1), problem.threat
    if not len(chosen):
        return
    images, numbers = problem.images[chosen], _numbers(problem, chosen, restart, query)
    new = PROPOSALS[threat.norm](at.best[chosen], images, numbers, area(settings, query), threat.epsilon)
    at.x[chosen] = threat.project(new, images)


def _restart(problem: Problem, settings: Square, journal: Journal, restart: int) -> Sequence[AttackResult]:
    threat, images = problem.threat, problem.images
    uniform = problem.start(problem.ids, restart).uniform("stripes")
    x = threat.project(STARTS[threat.norm](images, uniform, threat.epsilon), images)
    zeros = torch.zeros(len(x), device=x.device)
    at = _Queries(
        **search_from(x), best=x.clone(), best_loss=zeros - torch.inf, best_accuracy=zeros + 1, iteration=zeros.long()
    )

    def one(state: _Queries, number: int) -> None:
        _judge(state, number, settings, renew=number == 0)
        if number < settings.queries:
            _propose(state, number, problem, settings, restart)

    def two(state: _Queries, number: int) -> None:
        query, proposed = divmod(number, 2)
        _judge(state, query + 1, settings, renew=not proposed)
        if proposed:
            state.x.copy_(state.best)
        else:
            _propose(state, query, problem, settings, restart)

    if settings.paired:
        run(problem, at, settings, two, 2 * settings.queries, journal, differentiated=lambda number: False, shared=2)
    else:
        run(problem, at, settings, one, settings.queries + 1, journal, differentiated=lambda number: False)
    return [single_run(at.best, at.best_loss, at.best_accuracy, at.iteration)]


def square_attempts(settings: Square) -> list[Attempt]:
    """One attempt per restart."""

    def once(number: int) -> Attempt:
        return lambda part, journal: _restart(part, settings, journal, number)

    return [once(number) for number in range(settings.restarts)]


def square_attack(problem: Problem, settings: Square, journal: Journal = NO_JOURNAL) -> AttackResult:
    """Square Attack on the margin, with windows and signs of every image's own."""
    return best_of(problem, square_attempts(settings), journal, stop=settings.stop_when_broken)
