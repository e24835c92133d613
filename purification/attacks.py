"""Projected gradient descent through a defence, with fixed or averaged randomness.

The attack only proposes images; `ThreatModel` projects and checks them, and robustness is judged elsewhere on draws the
attack has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purification.defence import LOSSES, Defence
from purification.gradients import MODES
from purification.journal import NO_JOURNAL, Journal, restore
from purification.noise import NoiseSource
from purification.progress import track
from purification.threat import ThreatModel

SELECTIONS = ("best", "last")


@dataclass(frozen=True)
class PGD:
    """Settings of one attack (Madry et al. 2018; with draws > 1: EOT, Athalye et al. 2018).

    steps, step_size   iterations and their length, in units of the budget epsilon
    random_start       uniform point of the ball instead of the image itself
    loss               "ce" or "margin"
    gradient           mode of `gradients`
    draws              noise draws averaged per step
    redraw             fresh draws in every step (True) or the same ones (False: fixed randomness)
    select             "best": the iterate with the highest averaged loss; "last"
    stop_when_broken   leave an image alone once its only draw is misclassified (fixed randomness)
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

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"expected loss to be one of {sorted(LOSSES)}, got {self.loss!r}")
        if self.gradient not in MODES:
            raise ValueError(f"expected gradient to be one of {sorted(MODES)}, got {self.gradient!r}")
        if self.steps < 0 or self.draws < 1:
            raise ValueError(f"expected steps >= 0 and draws >= 1, got {self.steps} and {self.draws}")
        if self.select not in SELECTIONS:
            raise ValueError(f"expected select to be one of {SELECTIONS}, got {self.select!r}")
        if self.stop_when_broken and (self.redraw or self.draws != 1):
            raise ValueError(
                "expected stop_when_broken only with one fixed draw — stopping at a lucky draw of a random defence "
                "reports chance as success; set draws: 1 and redraw: false, or stop_when_broken: false"
            )


@dataclass(frozen=True)
class AttackResult:
    """adversarial (n, C, H, W); loss (n,) and accuracy (n,) of the chosen iterate, averaged over the attack's draws;
    iteration (n,) of the chosen iterate (0 is the start)."""

    adversarial: Tensor
    loss: Tensor
    accuracy: Tensor
    iteration: Tensor


@dataclass(frozen=True)
class _Search:
    """State between two draws; turn () counts draws, everything else has one entry per image.

    x                          current iterate
    active                     whether the image is still attacked
    losses, slopes, accuracy   averages over the draws of this step so far
    """

    turn: Tensor
    x: Tensor
    active: Tensor
    losses: Tensor
    slopes: Tensor
    accuracy: Tensor
    best: Tensor
    best_loss: Tensor
    best_accuracy: Tensor
    iteration: Tensor


def _begin(x: Tensor) -> _Search:
    zeros = torch.zeros(len(x), device=x.device)
    return _Search(
        turn=torch.zeros((), dtype=torch.long), x=x, active=zeros == 0,
        losses=zeros.clone(), slopes=torch.zeros_like(x), accuracy=zeros.clone(),
        best=x.clone(), best_loss=zeros - torch.inf, best_accuracy=zeros + 1, iteration=zeros.long(),
    )  # fmt: skip


def _add_draw(
    at: _Search, defence: Defence, labels: Tensor, ids: Sequence[int], source: NoiseSource, pgd: PGD, kept: int
) -> None:
    """Add the next draw to loss, gradient and accuracy of this step."""
    turn, active = int(at.turn), at.active.nonzero().squeeze(1)
    values, slopes, predictions = defence.loss_gradient(
        at.x[active], labels[active], [ids[i] for i in active.tolist()], source,
        turn if pgd.redraw else turn % pgd.draws, loss=pgd.loss, mode=pgd.gradient, kept_steps=kept,
    )  # fmt: skip
    at.losses[active] += values / pgd.draws
    at.slopes[active] += slopes / pgd.draws
    at.accuracy[active] += (predictions == labels[active]).float() / pgd.draws


def _ascend(at: _Search, images: Tensor, threat: ThreatModel, pgd: PGD) -> None:
    """Judge the iterate by its averages, keep it where it is the best so far, and go on to the next one."""
    step, active = int(at.turn) // pgd.draws, at.active.nonzero().squeeze(1)
    loss, gradient, accuracy = at.losses[active], at.slopes[active], at.accuracy[active]
    if not (torch.isfinite(loss).all() and torch.isfinite(gradient).all()):
        raise ValueError("expected a finite loss and gradient, got NaN or infinity — mend the defence's derivative")
    broken = (accuracy == 0) & pgd.stop_when_broken
    better = (loss > at.best_loss[active]) | broken | (pgd.select == "last")
    chosen = active[better]
    at.best[chosen] = at.x[chosen]
    at.best_loss[chosen], at.best_accuracy[chosen] = loss[better], accuracy[better]
    at.iteration[chosen] = step
    at.active[active[broken]] = False
    some = active[~broken]
    if step < pgd.steps and len(some):
        at.x[some] = threat.ascend(at.x[some], gradient[~broken], pgd.step_size * threat.epsilon, images[some])
    for average in (at.losses, at.slopes, at.accuracy):
        average.zero_()


def attack(
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: Sequence[int],
    *,
    threat: ThreatModel,
    pgd: PGD,
    source: NoiseSource,
    start: NoiseSource,
    memory: float,
    journal: Journal = NO_JOURNAL,
) -> AttackResult:
    """PGD on images (n, C, H, W) in [0, 1].

    source   noise the attacker draws (role "fixed" with redraw False when it knows the defence's randomness)
    start    noise of the random start
    memory   bytes of activations the exact gradient may keep
    journal  keeps the state after every draw; an attack of the same arguments goes on from it, to the same bits
    """
    if not len(images):
        raise ValueError("expected at least one image, got none — raise the number of images")
    kept = defence.kept_steps(images, ids, source, memory)
    x = threat.random_start(start(ids).uniform("start"), images) if pgd.random_start else images.clone()
    at = _begin(x)
    restore(vars(at), journal.load())
    for turn in track(range((pgd.steps + 1) * pgd.draws), "attack", int(at.turn)):
        if not at.active.any():
            break
        _add_draw(at, defence, labels, ids, source, pgd, kept)
        if (turn + 1) % pgd.draws == 0:
            _ascend(at, images, threat, pgd)
        at.turn.add_(1)
        journal.save(lambda: vars(at))
    journal.save(lambda: vars(at), last=True)
    threat.check(at.best, images)
    return AttackResult(at.best, at.best_loss, at.best_accuracy, at.iteration)
