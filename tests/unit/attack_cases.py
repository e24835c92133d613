"""Attacks and the small defences they are tried on, shared by the tests of attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
from torch import Tensor

from purification.attacks import (
    APGD,
    FAB,
    PGD,
    AttackResult,
    AutoAttack,
    Problem,
    Square,
    apgd_attack,
    auto_attack,
    fab_attack,
    pgd_attack,
    square_attack,
)  # fmt: skip
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal, State
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier, Purifier
from purification.threat import ThreatModel

SHAPE = (1, 6, 6)
CLASSES = 4
FIXED = NoiseSource(seed=0, role="fixed", shape=SHAPE)
ATTACK = replace(FIXED, role="attack")
START = replace(FIXED, role="start")
JUDGE = replace(FIXED, role="judge")
SHARE = 1 / 36  # of the pixels that a step moves under l1: one
IDENTITY = FunctionPurifier(lambda images, noise: images)
SOFT = FunctionPurifier(lambda images, noise: (3 * images).sin() / 2 + 0.5 + 0.1 * noise.normal("own"))
BASE = PGD(
    steps=10, step_size=0.25, random_start=False, loss="ce", gradient="replay",
    draws=1, redraw=False, select="best", stop_when_broken=False, restarts=1,
)  # fmt: skip
ATTACKS: dict[str, PGD] = {
    "fixed": replace(BASE, stop_when_broken=True),
    "fixed, to the end": BASE,
    "last iterate": replace(BASE, select="last"),
    "margin": replace(BASE, loss="margin"),
    "dlr": replace(BASE, loss="dlr"),
    "random start": replace(BASE, random_start=True),
    "bpda": replace(BASE, gradient="bpda"),
    "autograd": replace(BASE, gradient="autograd"),
    "eot": replace(BASE, draws=3, redraw=True),
    "eot, last iterate": replace(BASE, draws=3, redraw=True, select="last"),
    "several fixed draws": replace(BASE, draws=2),
}
# Their images are chosen among several candidates.
CHOSEN: dict[str, Any] = {
    "restarts": replace(BASE, random_start=True, restarts=3, stop_when_broken=True),
    "eot, restarts": replace(BASE, random_start=True, restarts=2, draws=3, redraw=True),
    "targeted margin": replace(BASE, loss="targeted_margin", targets=3),
    "targeted dlr, eot": replace(BASE, loss="targeted_dlr", targets=2, draws=2, redraw=True),
}
AUTO_PGD = APGD(
    steps=20, rho=0.75, momentum=0.75, loss="ce", gradient="replay", draws=1, redraw=False, stop_when_broken=True,
    restarts=1,
)  # fmt: skip
FAB_T = FAB(
    steps=12, targets=3, alpha_max=0.1, overshoot=1.05, backward=0.9, gradient="replay", draws=1, redraw=False,
    stop_when_broken=True,
)  # fmt: skip
SQUARE = Square(
    queries=150, fraction=0.8, rescale=True, paired=False, draws=1, redraw=False, stop_when_broken=True, restarts=1
)
STANDARD = AutoAttack(
    version="standard", steps=20, restarts=1, rho=0.75, momentum=0.75, gradient="replay", draws=1, redraw=False,
    targets=3, fab_targets=3, alpha_max=0.1, overshoot=1.05, backward=0.9, queries=20, fraction=0.8, rescale=True,
)  # fmt: skip
RAND = replace(STANDARD, version="rand", steps=6, draws=3, redraw=True)
AUTOMATIC: dict[str, Any] = {
    "apgd": AUTO_PGD,
    "apgd, to the end": replace(AUTO_PGD, stop_when_broken=False),
    "apgd, dlr, eot": replace(AUTO_PGD, loss="dlr", draws=2, redraw=True, stop_when_broken=False, steps=8),
    "apgd-t": replace(AUTO_PGD, loss="targeted_dlr", targets=2, restarts=2),
    "fab-t": FAB_T,
    "fab-t, to the end": replace(FAB_T, stop_when_broken=False),
    "square": SQUARE,
    "square, eot": replace(SQUARE, draws=2, redraw=True, stop_when_broken=False, queries=60),
    "square, eot, paired": replace(SQUARE, draws=2, redraw=True, stop_when_broken=False, queries=60, paired=True),
    "autoattack": STANDARD,
    "autoattack, rand": RAND,
}
ALL: dict[str, Any] = {**ATTACKS, **CHOSEN, **AUTOMATIC}
RUN: dict[type, Callable[..., AttackResult]] = {
    PGD: pgd_attack,
    APGD: apgd_attack,
    FAB: fab_attack,
    Square: square_attack,
    AutoAttack: auto_attack,
}
Numbers = Callable[..., Tensor]


@dataclass(frozen=True)
class Setting:
    """A defence with its images, labels and dataset indices."""

    defence: Defence
    images: Tensor
    labels: Tensor
    ids: list[int]

    def problem(self, settings: Any, norm: str, epsilon: float, **changes: Any) -> Problem:
        source = ATTACK if settings.redraw else FIXED
        judge, judges = (JUDGE, 4) if settings.redraw else (FIXED, settings.draws)
        arguments: dict[str, Any] = {"source": source, "start": START, "judge": judge, "judges": judges, "memory": 0.0}
        threat = ThreatModel(norm, epsilon, SHARE)
        return Problem(self.defence, self.images, self.labels, self.ids, threat=threat, **{**arguments, **changes})

    def attacked(
        self, settings: Any, norm: str, epsilon: float, journal: Journal = NO_JOURNAL, **changes: Any
    ) -> AttackResult:
        return RUN[type(settings)](self.problem(settings, norm, epsilon, **changes), settings, journal)

    def accuracy(self, adversarial: Tensor, source: NoiseSource = FIXED, draw: int = 0) -> float:
        return float((self.defence.predict(adversarial, self.ids, source, draw) == self.labels).double().mean())

    def judge(self, images: Tensor, source: NoiseSource, draw: int, loss: str) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, its gradient and predictions at one draw."""
        options: dict[str, Any] = {"loss": loss, "mode": "autograd", "kept_steps": 0}
        return self.defence.loss_gradient(images, self.labels, self.ids, source, draw, **options)

    def behind(self, purifier: Purifier) -> Setting:
        return replace(self, defence=replace(self.defence, purifier=purifier))


class Interrupted(Exception):
    """Raised in place of a kill."""


@dataclass
class Store:
    """Journals of all parts as bytes; the run is interrupted after some writes."""

    stop: int
    content: dict[str, bytes] = field(default_factory=dict)
    saves: list[int] = field(default_factory=lambda: [0])
    name: str = ""

    def load(self) -> State:
        return safetensors.torch.load(self.content[self.name]) if self.name in self.content else {}

    def save(self, state: Any, *, last: bool = False) -> None:
        copies = {name: value.detach().clone().contiguous() for name, value in state().items()}
        self.content[self.name] = safetensors.torch.save(copies)
        self.saves[0] += 1
        if self.saves[0] == self.stop:
            raise Interrupted

    def part(self, name: str) -> Store:
        return Store(self.stop, self.content, self.saves, f"{self.name}/{name}")
