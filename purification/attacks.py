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


def _averaged(
    defence: Defence, x: Tensor, labels: Tensor, ids: Sequence[int], source: NoiseSource, pgd: PGD, step: int, kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and accuracy, averaged over the draws of one step."""
    first = step * pgd.draws if pgd.redraw else 0
    loss, gradient = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
    accuracy = torch.zeros(len(x), device=x.device)
    for draw in range(first, first + pgd.draws):
        values, slopes, predictions = defence.loss_gradient(
            x, labels, ids, source, draw, loss=pgd.loss, mode=pgd.gradient, kept_steps=kept
        )
        loss += values / pgd.draws
        gradient += slopes / pgd.draws
        accuracy += (predictions == labels).float() / pgd.draws
    return loss, gradient, accuracy


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
) -> AttackResult:
    """PGD on images (n, C, H, W) in [0, 1].

    source  noise the attacker draws (role "fixed" with redraw False when it knows the defence's randomness)
    start   noise of the random start
    memory  bytes of activations the exact gradient may keep
    """
    if not len(images):
        raise ValueError("expected at least one image, got none — raise the number of images")
    size = pgd.step_size * threat.epsilon
    kept = defence.kept_steps(images, ids, source, memory)
    x = threat.random_start(start(ids).uniform("start"), images) if pgd.random_start else images.clone()
    zeros = torch.zeros(len(images), device=images.device)
    best = AttackResult(x.clone(), zeros - torch.inf, zeros + 1, zeros.long())
    active = torch.arange(len(images), device=images.device)
    for step in track(range(pgd.steps + 1), "attack"):
        some_ids = [ids[i] for i in active.tolist()]
        loss, gradient, accuracy = _averaged(defence, x[active], labels[active], some_ids, source, pgd, step, kept)
        if not (torch.isfinite(loss).all() and torch.isfinite(gradient).all()):
            raise ValueError("expected a finite loss and gradient, got NaN or infinity — mend the defence's derivative")
        broken = (accuracy == 0) & pgd.stop_when_broken
        better = (loss > best.loss[active]) | broken | (pgd.select == "last")
        chosen = active[better]
        best.adversarial[chosen] = x[chosen]
        best.loss[chosen], best.accuracy[chosen] = loss[better], accuracy[better]
        best.iteration[chosen] = step
        active, gradient = active[~broken], gradient[~broken]
        if step == pgd.steps or not len(active):
            break
        x[active] = threat.ascend(x[active], gradient, size, images[active])
    threat.check(best.adversarial, images)
    return best
