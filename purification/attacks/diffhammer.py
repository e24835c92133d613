"""DiffHammer (Wang et al., NeurIPS 2024): attack the draws that can be fooled together.

The mean gradient over draws is dominated by draws that no perturbation of the budget fools. Expectation maximisation at
the purified images, where gradients cost one pass of the classifier, weighs the draws by how likely one direction fools
them together; one draw then carries that direction back through the whole purifier (gradient grafting).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from purification.attacks.problem import AttackResult, Problem, check_averaging, single_run
from purification.attacks.stepping import Stepping, advance, begin_stepping
from purification.balls import normalised
from purification.journal import NO_JOURNAL, Journal, restore
from purification.progress import track


@dataclass(frozen=True)
class DiffHammer:
    """Settings of one attack.

    steps, step_size   iterations and the length of the first, in units of the budget epsilon
    loss, gradient     key of `defence.LOSSES`, positive where fooled; mode of `gradients` of the one grafted draw
    draws, redraw      draws compared in every iteration; fresh ones in every iteration or the same
    rounds             repetitions of expectation and maximisation
    temperature        lambda: how sharply a linearised loss is taken as fooled or not
    reach              length, in units of epsilon, of the step at the purified images over which losses are linearised
    smoothing          alpha: the k-th gradient has the weight k^-alpha, the smoothed ones before it the rest
    """

    steps: int
    step_size: float
    loss: str
    gradient: str
    draws: int
    redraw: bool
    rounds: int
    temperature: float
    reach: float
    smoothing: float

    def __post_init__(self) -> None:
        check_averaging(self)
        if self.steps < 1 or self.rounds < 1:
            raise ValueError(f"expected steps >= 1 and rounds >= 1, got {self.steps} and {self.rounds}")


def unit(vectors: Tensor, norm: str) -> Tensor:
    """Direction of steepest ascent of length 1 in the norm: sign (linf) or v / ||v|| (l2), over the last dimension."""
    if norm == "linf":
        return vectors.sign()
    if norm == "l2":
        return normalised(vectors, 2)
    raise ValueError(f"expected norm linf or l2 for DiffHammer, got {norm!r} — choose another attack")


def shared_direction(
    losses: Tensor, slopes: Tensor, *, norm: str, reach: float, temperature: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """The draw (n,) that represents the others of each image, and the common direction (n, D).

    losses (N, n) and slopes (N, n, D) of N draws at the purified images. With s(z) = sigmoid(temperature z):
    representative  argmax_a sum_i s(L_i + reach <unit(g_a), g_i>)
    expectation     q_i = s(L_i + reach <unit(r), g_i>), starting from the representative's r = g_a
    maximisation    r = sum_i q_i g_i / sum_i q_i, which the next expectation uses
    """
    images = torch.arange(losses.shape[1], device=losses.device)
    gains = torch.einsum("and,ind->ain", unit(slopes, norm), slopes)
    fooled = F.logsigmoid(temperature * (losses + reach * gains)).logsumexp(dim=1)
    chosen = fooled.argmax(dim=0)
    direction = slopes[chosen, images]
    for _ in range(rounds):
        gain = torch.einsum("nd,ind->in", unit(direction, norm), slopes)
        weights = F.logsigmoid(temperature * (losses + reach * gain)).softmax(dim=0)  # q / sum q, without underflow
        direction = torch.einsum("in,ind->nd", weights, slopes)
    return chosen, direction


@dataclass(frozen=True)
class _Hunt(Stepping):
    """State between two iterations: the stepping, how many are done, and the smoothed gradient."""

    turn: Tensor
    slope: Tensor
    best_accuracy: Tensor
    iteration: Tensor


def _begin(x: Tensor, step_size: float) -> _Hunt:
    zeros = torch.zeros(len(x), device=x.device)
    return _Hunt(
        **begin_stepping(x, step_size), turn=torch.zeros((), dtype=torch.long), slope=torch.zeros_like(x),
        best_accuracy=zeros + 1, iteration=zeros.long(),
    )  # fmt: skip


def _look(problem: Problem, hammer: DiffHammer, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (N, n), slopes at the purified images (N, n, D), and accuracy (n,) of the draws from `first` on."""
    seen = [
        problem.defence.loss_gradient(
            x, problem.labels, problem.ids, problem.source, first + i, loss=hammer.loss, mode="bpda", kept_steps=0
        )
        for i in range(hammer.draws)
    ]
    losses, slopes, labels = (torch.stack(parts) for parts in zip(*seen, strict=True))
    return losses, slopes.flatten(2), (labels == problem.labels).float().mean(dim=0)


def _iterate(problem: Problem, hammer: DiffHammer, at: _Hunt) -> None:
    """Judge the iterate on the draws of this iteration, find the common direction, and step along it."""
    k, x = int(at.turn), at.x
    first = k * hammer.draws if hammer.redraw else 0
    losses, slopes, accuracy = _look(problem, hammer, x, first)
    if not (torch.isfinite(losses).all() and torch.isfinite(slopes).all()):
        raise ValueError("expected a finite loss and gradient, got NaN or infinity — mend the defence's derivative")
    score = F.logsigmoid(hammer.temperature * losses).logsumexp(dim=0)  # of the sum, which in itself would underflow
    better = score > at.best_score
    at.best_accuracy[better], at.iteration[better] = accuracy[better], k
    if k < hammer.steps:
        chosen, direction = shared_direction(
            losses, slopes, norm=problem.threat.norm, reach=hammer.reach * problem.threat.epsilon,
            temperature=hammer.temperature, rounds=hammer.rounds,
        )  # fmt: skip
        grafted = problem.defence.pull_back(
            x, direction.view_as(x), problem.ids, problem.source, (first + chosen).tolist(),
            mode=hammer.gradient, kept_steps=problem.kept_steps,
        )  # fmt: skip
        weight = (k + 1) ** -hammer.smoothing
        at.slope.copy_(weight * grafted + (1 - weight) * at.slope)
    way = unit(at.slope.flatten(1), problem.threat.norm).view_as(x)
    advance(at, k, hammer.steps, score, way, problem.threat, problem.images)


def diffhammer_attack(problem: Problem, hammer: DiffHammer, journal: Journal = NO_JOURNAL) -> AttackResult:
    """The iterate that fools most of its own draws, softly counted; from the images themselves."""
    at = _begin(problem.images.clone(), hammer.step_size)
    restore(vars(at), journal.load())
    for _ in track(range(hammer.steps + 1), "attack", int(at.turn)):
        _iterate(problem, hammer, at)
        at.turn.add_(1)
        journal.save(lambda: vars(at))
    journal.save(lambda: vars(at), last=True)
    problem.threat.check(at.best, problem.images)
    return single_run(at.best, at.best_score, at.best_accuracy, at.iteration)
