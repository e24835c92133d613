"""FLAWED evaluation protocols, reproduced to show what they report. NEVER use them to evaluate a defence.

Each one reads chance as success or as failure: it lets the draws that judge an image also choose it. They are called by
`purification.known_truth.evaluators` only, on defences whose robust accuracy is known, and a test keeps it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purification.attacks import DiffHammer, Problem, diffhammer_attack
from purification.attacks.problem import random_start
from purification.attacks.stepping import Stepping, advance, begin_stepping
from purification.balls import NORMS
from purification.defence import cross_entropy, dlr
from purification.noise import NoiseSource

LOSSES = {"ce": cross_entropy, "dlr": dlr}  # as published: the cross-entropy vanishes where a classifier is sure


@dataclass(frozen=True)
class Gradients:
    """Loss (n,) and labels (n,) of the last draw, and the gradient (n, C, H, W) averaged over all of them."""

    loss: Tensor
    labels: Tensor
    slopes: Tensor


def _differentiate(problem: Problem, x: Tensor, loss: str, mode: str, first: int, draws: int) -> Gradients:
    """Gradients over draws number first .. first + draws - 1, in a mode of `gradients`."""

    def judge(purified: Tensor, block: list[int]) -> tuple[Tensor, Tensor]:
        logits = problem.defence.classifier(purified)
        return LOSSES[loss](logits, problem.labels[block]), logits

    slopes = torch.zeros_like(x)
    for draw in range(first, first + draws):
        values, gradient, labels = problem.defence.differentiate(
            problem.defence.purifier, x, problem.ids, problem.source, draw, judge, mode=mode, kept_steps=0
        )
        slopes += gradient / draws
    return Gradients(values, labels, slopes)


def flawed_apgd(problem: Problem, loss: str, *, mode: str, steps: int, draws: int) -> Tensor:
    """Images of APGD with the bookkeeping of AutoAttack's `rand` (Croce and Hein 2020), (n, C, H, W).

    The gradient is averaged over draws, but loss and success are those of the last draw: an image that one draw
    misclassifies counts as fooled, and the last such iterate is returned; one that none does is returned as it was.
    """
    at = Stepping(**begin_stepping(random_start(problem, 0), 2.0))
    share = at.size.new_full(at.size.shape, problem.threat.share or 1.0)
    found = problem.images.clone()
    for k in range(steps + 1):
        seen = _differentiate(problem, at.x, loss, mode, k * draws, draws)
        fooled = seen.labels != problem.labels
        found[fooled] = at.x[fooled]
        way = NORMS[problem.threat.norm].steepest(seen.slopes, at.x, share)
        advance(at, k, steps, seen.loss, way, problem.threat, problem.images)
    return found


def iterate_pgd(problem: Problem, *, mode: str, count: int, step_size: float) -> list[Tensor]:
    """Images after 1 .. count steps of PGD on the cross-entropy with one draw each; step_size in units of epsilon."""
    x = problem.images
    path = []
    for step in range(count):
        slopes = _differentiate(problem, x, "ce", mode, step, 1).slopes
        x = problem.threat.ascend(x, slopes, step_size * problem.threat.epsilon, problem.images)
        path.append(x)
    return path


def _right(problem: Problem, images: Tensor, source: NoiseSource, draw: int) -> Tensor:
    return problem.defence.predict(images, problem.ids, source, draw) == problem.labels


def flawed_single_draw_selection(problem: Problem, candidates: Sequence[Tensor], source: NoiseSource) -> Tensor:
    """(n,) survivors of AutoAttack "rand" (Croce and Hein 2020): clean image and every candidate, one draw each.

    An image that fails any of the draws is counted as broken: p^m for m useless candidates.
    """
    alive = torch.ones(len(problem.labels), dtype=torch.bool)
    for draw, images in enumerate(candidates):
        alive &= _right(problem, images, source, draw)
    return alive.double()


def flawed_minimum_of_estimates(
    problem: Problem, candidates: Sequence[Tensor], source: NoiseSource, *, draws: int
) -> Tensor:
    """(n,) smallest of the candidates' mean accuracies over `draws` draws, itself reported ("fixed AutoAttack", ADDT).

    The minimum of noisy estimates is below every one of their means (winner's curse).
    """
    means = []
    for number, images in enumerate(candidates):
        right = [_right(problem, images, source, number * draws + d).double() for d in range(draws)]
        means.append(torch.stack(right).mean(dim=0))
    return torch.stack(means).amin(dim=0)


def flawed_stop_at_first_success(problem: Problem, iterates: Sequence[Tensor], source: NoiseSource) -> Tensor:
    """(n,) images that no iterate breaks, each judged by a draw of its own: p^m for m useless iterates.

    The "any misclassified iterate" of attacks that stop at their first success.
    """
    alive = torch.ones(len(problem.labels), dtype=torch.bool)
    for draw, images in enumerate(iterates):
        some = alive.nonzero().squeeze(1)
        if not len(some):
            break
        alive[some] = _right(problem.part(some), images[some], source, draw)
    return alive.double()


def flawed_diffhammer(problem: Problem, hammer: DiffHammer) -> Tensor:
    """(n,) share of an iterate's own draws that it does not fool, at the iterate that fools most of them.

    The protocol of DiffHammer (Wang et al. 2024): the draws that are reported are those that the attack was made
    with, and the best iteration is chosen by them.
    """
    return diffhammer_attack(problem, hammer).accuracy.double()
