"""AutoAttack: several attacks one after another on the images still standing (Croce and Hein, arXiv 2003.01690)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from purification.attacks.apgd import APGD, apgd_attempts
from purification.attacks.choosing import Attempt, best_of
from purification.attacks.fab import FAB, fab_attempts
from purification.attacks.problem import AttackResult, Problem
from purification.attacks.square import Square, square_attempts
from purification.journal import NO_JOURNAL, Journal


@dataclass(frozen=True)
class AutoAttack:
    """Settings of AutoAttack.

    version    "standard": apgd-ce, apgd-t, fab-t and square on known randomness; "rand": apgd-ce and apgd-dlr with
               averaged draws, for randomness that is not known
    steps        iterations of apgd and fab
    restarts     of apgd-ce and apgd-dlr
    targets      wrong classes of apgd-t
    fab_targets  wrong classes of fab-t
    the others as in `APGD`, `FAB` and `Square`, of which "rand" has no use for the latter two

    The published "standard" has 100 steps, 5000 queries and 9 fab_targets; under linf and l2 one restart, 9 targets and
    radii [1]; under l1 5 restarts, 5 targets and radii [3, 2, 1].
    """

    version: str
    steps: int
    restarts: int
    rho: float
    momentum: float
    gradient: str
    draws: int
    redraw: bool
    targets: int = 0
    fab_targets: int = 0
    radii: Sequence[float] = (1.0,)
    alpha_max: float = 0.0
    overshoot: float = 0.0
    backward: float = 0.0
    queries: int = 0
    fraction: float = 0.0
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"expected a version among {sorted(VERSIONS)}, got {self.version!r}")
        if self.redraw != (self.version == "rand"):
            wanted = "fresh draws" if self.version == "rand" else "known randomness"
            raise ValueError(f"expected {wanted} with version {self.version!r}, got redraw {self.redraw}")

    def climb(self, loss: str, restarts: int, targets: int) -> APGD:
        """APGD on one of the losses."""
        return APGD(
            steps=self.steps, rho=self.rho, momentum=self.momentum, loss=loss, gradient=self.gradient,
            draws=self.draws, redraw=self.redraw, stop_when_broken=self.stops, restarts=restarts, targets=targets,
            radii=self.radii,
        )  # fmt: skip

    @property
    def stops(self) -> bool:
        """Whether an image that is misclassified is attacked no further: with one known draw, nothing is left to do."""
        return not self.redraw and self.draws == 1


def _standard(settings: AutoAttack) -> list[Attempt]:
    fab = FAB(
        steps=settings.steps, targets=settings.fab_targets, alpha_max=settings.alpha_max, overshoot=settings.overshoot,
        backward=settings.backward, gradient=settings.gradient, draws=settings.draws, redraw=settings.redraw,
        stop_when_broken=settings.stops,
    )  # fmt: skip
    square = Square(
        queries=settings.queries, fraction=settings.fraction, rescale=settings.rescale, paired=False,
        draws=settings.draws, redraw=settings.redraw, stop_when_broken=settings.stops, restarts=1,
    )  # fmt: skip
    return [
        *apgd_attempts(settings.climb("ce", settings.restarts, 0)),
        *apgd_attempts(settings.climb("targeted_dlr", 1, settings.targets)),
        *fab_attempts(fab),
        *square_attempts(square),
    ]


def _rand(settings: AutoAttack) -> list[Attempt]:
    return [
        *apgd_attempts(settings.climb("ce", settings.restarts, 0)),
        *apgd_attempts(settings.climb("dlr", settings.restarts, 0)),
    ]


VERSIONS: dict[str, Callable[[AutoAttack], list[Attempt]]] = {"standard": _standard, "rand": _rand}


def auto_attack(problem: Problem, settings: AutoAttack, journal: Journal = NO_JOURNAL) -> AttackResult:
    """All attacks of the version; `best_of` chooses on averaged judging draws, never on one that an attack ended on."""
    return best_of(problem, VERSIONS[settings.version](settings), journal, stop=settings.stops)
