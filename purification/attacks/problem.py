"""The attacked problem, and the loop all attacks share: evaluate an iterate on averaged draws, then advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from purification.defence import LOSSES, Defence
from purification.gradients import MODES
from purification.journal import Journal, restore
from purification.noise import NoiseSource
from purification.progress import track
from purification.threat import ThreatModel


class Averaging(Protocol):
    """What an attack's settings say about its evaluations.

    loss       key of `defence.LOSSES`
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
    if settings.loss not in LOSSES:
        raise ValueError(f"expected loss to be one of {sorted(LOSSES)}, got {settings.loss!r}")
    if settings.gradient not in MODES:
        raise ValueError(f"expected gradient to be one of {sorted(MODES)}, got {settings.gradient!r}")
    if settings.draws < 1:
        raise ValueError(f"expected draws >= 1, got {settings.draws}")


@dataclass(frozen=True)
class Problem:
    """Images (n, C, H, W) in [0, 1] that a defence is to misclassify, and what the attacker has.

    labels, ids  true classes (n,) and dataset indices
    source       noise the attacker draws (role "fixed" when it knows the defence's randomness)
    start        noise of the attack's own choices, such as random starts
    memory       bytes of activations the exact gradient may keep
    """

    defence: Defence
    images: Tensor
    labels: Tensor
    ids: Sequence[int]
    threat: ThreatModel
    source: NoiseSource
    start: NoiseSource
    memory: float

    def __post_init__(self) -> None:
        if not len(self.images):
            raise ValueError("expected at least one image, got none — raise the number of images")

    @cached_property
    def kept_steps(self) -> int:
        """Steps of the purifier whose activations fit into memory."""
        return self.defence.kept_steps(self.images, self.ids, self.source, self.memory)

    def ids_of(self, chosen: Tensor) -> list[int]:
        """Dataset indices of some of the images."""
        return [self.ids[i] for i in chosen.tolist()]


@dataclass(frozen=True)
class AttackResult:
    """adversarial (n, C, H, W); loss (n,) and accuracy (n,) of the chosen iterate, averaged over the attack's draws;
    iteration (n,) of the chosen iterate (0 is the start)."""

    adversarial: Tensor
    loss: Tensor
    accuracy: Tensor
    iteration: Tensor


@dataclass(frozen=True)
class Search:
    """State of an attack between two draws; turn () counts draws, everything else has one entry per image.

    x                          current iterate
    active                     whether the image is still attacked
    losses, slopes, accuracy   averages over the draws of this evaluation so far
    """

    turn: Tensor
    x: Tensor
    active: Tensor
    losses: Tensor
    slopes: Tensor
    accuracy: Tensor


def search_from(x: Tensor) -> dict[str, Tensor]:
    """Fields of `Search` before the first draw."""
    zeros = torch.zeros(len(x), device=x.device)
    return {
        "turn": torch.zeros((), dtype=torch.long),
        "x": x,
        "active": zeros == 0,
        "losses": zeros.clone(),
        "slopes": torch.zeros_like(x),
        "accuracy": zeros.clone(),
    }


S = TypeVar("S", bound=Search)


def run(
    problem: Problem, at: S, settings: Averaging, advance: Callable[[S, int], None], evaluations: int, journal: Journal
) -> None:
    """Average the draws of one evaluation, call `advance(state, number of the evaluation)`, and so on.

    The journal keeps the state after every draw; a run of the same arguments goes on from it, to the same bits.
    """
    restore(vars(at), journal.load())
    for turn in track(range(evaluations * settings.draws), "attack", int(at.turn)):
        if not at.active.any():
            break
        _add_draw(problem, at, settings, turn)
        if (turn + 1) % settings.draws == 0:
            _refuse_infinite(at)
            advance(at, turn // settings.draws)
            for average in (at.losses, at.slopes, at.accuracy):
                average.zero_()
        at.turn.add_(1)
        journal.save(lambda: vars(at))
    journal.save(lambda: vars(at), last=True)


def _add_draw(problem: Problem, at: Search, settings: Averaging, turn: int) -> None:
    """Add the next draw to loss, gradient and accuracy of the active images."""
    active = at.active.nonzero().squeeze(1)
    labels = problem.labels[active]
    values, slopes, predictions = problem.defence.loss_gradient(
        at.x[active], labels, problem.ids_of(active), problem.source,
        turn if settings.redraw else turn % settings.draws,
        loss=settings.loss, mode=settings.gradient, kept_steps=problem.kept_steps,
    )  # fmt: skip
    at.losses[active] += values / settings.draws
    at.slopes[active] += slopes / settings.draws
    at.accuracy[active] += (predictions == labels).float() / settings.draws


def _refuse_infinite(at: Search) -> None:
    if not (torch.isfinite(at.losses[at.active]).all() and torch.isfinite(at.slopes[at.active]).all()):
        raise ValueError("expected a finite loss and gradient, got NaN or infinity — mend the defence's derivative")
