"""DiffAttack (Kang et al., NeurIPS 2023): drive the reverse process away from the noised image at every level.

The objective of an attack gains weight * L_dev. L_dev is the mean over reverse steps and pixels of (u_t - u'_t)^2, with
u'_t the reverse process's state at a level and u_t = sqrt(abar_t) u_0 + sqrt(1 - abar_t) eps the image at that level
with the forward noise of the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purification.attacks.pgd import PGD, pgd_attack
from purification.attacks.problem import AttackResult, Problem
from purification.defence import Defence, loss_of
from purification.journal import NO_JOURNAL, Journal
from purification.noise import Noise, NoiseSource
from purification.purifiers import DiffusionPurifier, Purifier


@dataclass(frozen=True)
class Deviating:
    """A diffusion purifier that carries its deviation along: states and results (B, 2C, H, W), deviations last.

    The deviation of a pixel is (u_t - u'_t)^2, averaged over the states after every reverse step. As the chain of
    another purifier it is replayed like any other: its gradient is exact and keeps the activations of single steps.
    """

    inner: DiffusionPurifier

    @property
    def num_steps(self) -> int:
        return self.inner.num_steps

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        state = self.inner.start(images, noise)
        return torch.cat([state, torch.zeros_like(state)], dim=1)

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        u, deviation = state.chunk(2, dim=1)
        after = self.inner.step(number, u, images, noise)
        levels = [step.level.alpha_bar for step in self.inner.table[1:]]
        alpha_bar = [*levels, 1.0][number]
        square = (self.inner.noised(images, noise, alpha_bar) - after).square() / self.num_steps
        return torch.cat([after, deviation + square], dim=1)

    def finish(self, state: Tensor) -> Tensor:
        u, deviation = state.chunk(2, dim=1)
        return torch.cat([self.inner.finish(u), deviation], dim=1)


def deviating(purifier: Purifier) -> Purifier | None:
    """The purifier with its deviation; None where no diffusion state deviates."""
    if isinstance(purifier, DiffusionPurifier):
        return Deviating(purifier)
    if purifier.num_steps:
        raise ValueError(
            f"expected a purifier of kind diffusion, got {type(purifier).__name__} — its states have no noised image "
            "to deviate from; choose another attack"
        )
    return None


@dataclass(frozen=True)
class DeviatedDefence(Defence):
    """A defence whose loss gains `weight` times the mean deviation of a pixel; predictions are those of the defence."""

    weight: float = 0.0

    def loss_gradient(
        self,
        images: Tensor,
        labels: Tensor,
        ids: Sequence[int],
        source: NoiseSource,
        draw: int,
        *,
        loss: str,
        mode: str,
        kept_steps: int,
        targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same as of a defence, with the deviation in values and gradients."""
        chain, channels = deviating(self.purifier), images.shape[1]
        if chain is None:
            return super().loss_gradient(
                images, labels, ids, source, draw, loss=loss, mode=mode, kept_steps=kept_steps, targets=targets
            )

        def judge(result: Tensor, block: list[int]) -> tuple[Tensor, Tensor]:
            logits = self.classifier(result[:, :channels])
            deviation = result[:, channels:].flatten(1).mean(dim=1)
            aims = None if targets is None else targets[block]
            return loss_of(loss, logits, labels[block], aims) + self.weight * deviation, logits

        return self.differentiate(chain, images, ids, source, draw, judge, mode=mode, kept_steps=kept_steps)


def diffattack_attack(problem: Problem, pgd: PGD, weight: float, journal: Journal = NO_JOURNAL) -> AttackResult:
    """Projected gradient ascent on loss and deviation; on the loss alone where no diffusion state deviates."""
    plain = problem.defence
    if deviating(plain.purifier) is not None and pgd.gradient not in ("replay", "autograd"):
        raise ValueError(f"expected gradient replay or autograd for DiffAttack, got {pgd.gradient!r} — set replay")
    deviated = DeviatedDefence(
        plain.purifier, plain.classifier, plain.batch_size, plain.surrogate, plain.gradient_batch_size, weight
    )
    return pgd_attack(replace(problem, defence=deviated), pgd, journal)
