"""The attacked problem, and the loop all attacks share: evaluate an iterate on averaged draws, then advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from purification.attacks.averaging import Averages, add_draw, forget_draws, no_draws
from purification.defence import LOSSES, TARGETED_LOSSES, Defence, loss_of, margin
from purification.gradients import MODES
from purification.journal import Journal, restore
from purification.noise import NoiseSource
from purification.progress import track
from purification.threat import ThreatModel


class Averaging(Protocol):
    """What an attack's settings say about its evaluations.

    loss       key of `defence.LOSSES`, or of `defence.TARGETED_LOSSES` for a problem with targets
    gradient   mode of `gradients`
    draws      noise draws averaged per evaluation (EOT, Athalye et al. 2018)
    redraw     fresh draws in every evaluation (True) or the same ones (False: fixed randomness)
    """

    @property
    def loss(self) -> str: ...
    @property
    def gradient(self) -> str: ...
    @property
    def draws(self) -> int: ...
    @property
    def redraw(self) -> bool: ...


def check_averaging(settings: Averaging) -> None:
    """Raise ValueError unless loss, gradient mode and draws exist."""
    if settings.loss not in LOSSES and settings.loss not in TARGETED_LOSSES:
        raise ValueError(f"expected loss to be one of {sorted({**LOSSES, **TARGETED_LOSSES})}, got {settings.loss!r}")
    if settings.gradient not in MODES:
        raise ValueError(f"expected gradient to be one of {sorted(MODES)}, got {settings.gradient!r}")
    if settings.draws < 1:
        raise ValueError(f"expected draws >= 1, got {settings.draws}")


def check_stopping(settings: Averaging) -> None:
    """Raise ValueError unless one fixed draw is known: stopping at a lucky draw reports chance as success."""
    if settings.redraw or settings.draws != 1:
        raise ValueError(
            "expected stop_when_broken only with one fixed draw — stopping at a lucky draw of a random defence "
            "reports chance as success; set draws: 1 and redraw: false, or stop_when_broken: false"
        )


def check_targets(loss: str, targets: int) -> None:
    """Raise ValueError unless a targeted loss has targets and another loss has none."""
    if (loss in TARGETED_LOSSES) != (targets > 0):
        raise ValueError(f"expected targets >= 1 with a targeted loss and 0 with another, got {targets} with {loss!r}")


@dataclass(frozen=True)
class References:
    """Images (m, C, H, W) with their classes (m,), which an attack may move towards."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Problem:
    """Images (n, C, H, W) in [0, 1] that a defence is to misclassify, and what the attacker has.

    labels, ids  true classes (n,) and dataset indices
    source       noise the attacker draws (role "fixed" when it knows the defence's randomness)
    start        noise of the attack's own choices, such as random starts
    judge        noise on which candidates are compared: the attacker's own where it knows the randomness, else draws
                 that neither an attack nor the evaluation uses
    judges       how many of these draws are averaged
    memory       bytes of activations the exact gradient may keep
    targets      classes (n,) of targeted losses
    references   other images of the data set; only attacks that move towards them need any
    """

    defence: Defence
    images: Tensor
    labels: Tensor
    ids: Sequence[int]
    threat: ThreatModel
    source: NoiseSource
    start: NoiseSource
    judge: NoiseSource
    judges: int
    memory: float
    targets: Tensor | None = None
    references: References | None = None

    def __post_init__(self) -> None:
        if not len(self.images):
            raise ValueError("expected at least one image, got none — raise the number of images")
        if self.judges < 1:
            raise ValueError(f"expected judges >= 1, got {self.judges}")

    @cached_property
    def kept_steps(self) -> int:
        """Steps of the purifier whose activations fit into memory."""
        return self.defence.kept_steps(self.images, self.ids, self.source, self.memory)

    def ids_of(self, chosen: Tensor) -> list[int]:
        """Dataset indices of some of the images."""
        return [self.ids[i] for i in chosen.tolist()]

    def part(self, chosen: Tensor) -> Problem:
        """The problem of some of the images."""
        targets = None if self.targets is None else self.targets[chosen]
        some = replace(self, images=self.images[chosen], labels=self.labels[chosen], ids=self.ids_of(chosen))
        return replace(some, targets=targets)

    def judged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Margin and accuracy, (n,) each, of images on the judging draws."""
        margins, correct = torch.zeros(len(x), device=x.device), torch.zeros(len(x), device=x.device)
        for draw in range(self.judges):
            logits = self.defence.logits(self.defence.purify(x, self.ids, self.judge, draw))
            margins += margin(logits, self.labels) / self.judges
            correct += (logits.argmax(dim=1) == self.labels).float()
        return margins, correct / self.judges

    def ranked_targets(self, draws: int, count: int) -> Tensor:
        """The wrong classes with the highest mean logits over the attacker's draws, (n, at most `count`)."""
        sums: Tensor | float = 0.0
        for draw in range(draws):
            sums = sums + self.defence.logits(self.defence.purify(self.images, self.ids, self.source, draw))
        wrong = torch.as_tensor(sums).scatter(1, self.labels[:, None], -torch.inf)
        there_are = wrong.shape[1] - 1
        return wrong.argsort(dim=1, descending=True, stable=True)[:, : min(count, there_are)]


@dataclass(frozen=True)
class AttackResult:
    """What an attack proposes; what chose an image says nothing about it, so robustness is judged elsewhere.

    adversarial     images (n, C, H, W)
    loss, accuracy  (n,) of the chosen iterate, averaged over the attack's draws, or over the judging draws where
                    candidates were compared
    iteration       (n,) of the chosen iterate; 0 is the start
    attempt         (n,) of several attempts the number of the one that proposed the image, -1 where none did
    """

    adversarial: Tensor
    loss: Tensor
    accuracy: Tensor
    iteration: Tensor
    attempt: Tensor


def single_run(adversarial: Tensor, loss: Tensor, accuracy: Tensor, iteration: Tensor) -> AttackResult:
    """The result of one attempt."""
    return AttackResult(adversarial, loss, accuracy, iteration, attempt=torch.zeros_like(iteration))


@dataclass(frozen=True)
class Search(Averages):
    """State of an attack between two draws; turn () counts draws, everything else has one entry per image.

    x        current iterate
    active   whether the image is still attacked
    """

    turn: Tensor
    x: Tensor
    active: Tensor


def search_from(x: Tensor) -> dict[str, Tensor]:
    """Fields of `Search` before the first draw."""
    active = torch.ones(len(x), dtype=torch.bool, device=x.device)
    return {**no_draws(x), "turn": torch.zeros((), dtype=torch.long), "x": x, "active": active}


def random_start(problem: Problem, number: int) -> Tensor:
    """A uniform point of the ball around every image, another one for every number."""
    noise = problem.start(problem.ids, number)
    radius = (noise.uniform("radius").flatten(1)[:, 0] + 1) / 2
    return problem.threat.random_start(noise.uniform("start"), radius, problem.images)


S = TypeVar("S", bound=Search)


def run(
    problem: Problem,
    at: S,
    settings: Averaging,
    advance: Callable[[S, int], None],
    evaluations: int,
    journal: Journal,
    *,
    differentiated: Callable[[int], bool] = lambda number: True,
    shared: int = 1,
) -> None:
    """Average the draws of one evaluation, call `advance(state, number of the evaluation)`, and so on.

    differentiated   whether an evaluation needs the gradient
    shared           how many evaluations in a row share their draws
    The journal keeps the state after every draw; a run of the same arguments goes on from it, to the same bits.
    """
    restore(vars(at), journal.load())
    for turn in track(range(evaluations * settings.draws), "attack", int(at.turn)):
        if not at.active.any():
            break
        number, fresh = turn // settings.draws, turn % settings.draws
        draw = number // shared * settings.draws + fresh if settings.redraw else fresh
        _add_draw(problem, at, settings, draw, differentiated(number))
        if fresh == settings.draws - 1:
            _refuse_infinite(at)
            advance(at, number)
            forget_draws(at)
        at.turn.add_(1)
        journal.save(lambda: vars(at))
    journal.save(lambda: vars(at), last=True)


def _add_draw(problem: Problem, at: Search, settings: Averaging, draw: int, differentiate: bool) -> None:
    """Add one draw to loss, gradient and accuracy of the active images."""
    active = at.active.nonzero().squeeze(1)
    x, labels, ids = at.x[active], problem.labels[active], problem.ids_of(active)
    targets = None if problem.targets is None else problem.targets[active]
    if differentiate:
        values, slopes, predictions = problem.defence.loss_gradient(
            x, labels, ids, problem.source, draw,
            loss=settings.loss, mode=settings.gradient, kept_steps=problem.kept_steps, targets=targets,
        )  # fmt: skip
    else:
        logits = problem.defence.logits(problem.defence.purify(x, ids, problem.source, draw))
        values, predictions = loss_of(settings.loss, logits, labels, targets), logits.argmax(dim=1)
        slopes = torch.zeros_like(x)
    add_draw(at, active, settings.loss, values, slopes, settings.draws)
    at.accuracy[active] += (predictions == labels).float() / settings.draws


def _refuse_infinite(at: Search) -> None:
    if not (torch.isfinite(at.losses[at.active]).all() and torch.isfinite(at.slopes[at.active]).all()):
        raise ValueError("expected a finite loss and gradient, got NaN or infinity — mend the defence's derivative")
