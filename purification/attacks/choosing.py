"""Several attempts at the same images, the choice among what they propose, and attacks that go on after others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from purification.attacks.problem import AttackResult, Problem
from purification.journal import Journal

Attempt = Callable[[Problem, Journal], Sequence[AttackResult]]  # candidates that it proposes
Attack = Callable[[Problem, Journal], AttackResult]  # with its settings


def _judged(problem: Problem, images: Tensor) -> AttackResult:
    """Images that no attempt proposed, on the judging draws."""
    margins, accuracy = problem.judged(images)
    iteration = torch.zeros_like(accuracy, dtype=torch.long)
    return AttackResult(images.clone(), margins, accuracy, iteration, attempt=iteration - 1)


def _put(kept: AttackResult, places: Tensor, other: AttackResult) -> None:
    """Put another result into some places of one."""
    kept.adversarial[places] = other.adversarial
    kept.loss[places] = other.loss
    kept.accuracy[places] = other.accuracy
    kept.iteration[places] = other.iteration
    kept.attempt[places] = other.attempt


def best_of(problem: Problem, attempts: Iterable[Attempt], journal: Journal, *, stop: bool) -> AttackResult:
    """Per image the candidate of all attempts that the judging draws misclassify most often; ties go to the margin.

    All candidates, the clean image among them, meet the same judging draws. Where randomness is known, these are the
    attacker's own, and with `stop` an image they misclassify is left to no further attempt. Elsewhere they are draws
    the attempts have not seen, so that no attempt wins by its own luck; the minimum over candidates is still too low,
    and the chosen image is reported on other draws.
    """
    kept = _judged(problem, problem.images)
    for number, attempt in enumerate(attempts):
        standing = ((kept.accuracy > 0) | (not stop)).nonzero().squeeze(1)
        if not len(standing):
            break
        part = problem.part(standing)
        for candidate in attempt(part, journal.part(str(number))):
            margins, accuracy = part.judged(candidate.adversarial)
            old_margins, old_accuracy = kept.loss[standing], kept.accuracy[standing]
            better = (accuracy < old_accuracy) | ((accuracy == old_accuracy) & (margins > old_margins))
            proposed = candidate.adversarial[better]
            attempts_of = torch.full_like(candidate.iteration[better], number)
            found = AttackResult(proposed, margins[better], accuracy[better], candidate.iteration[better], attempts_of)
            _put(kept, standing[better], found)
    problem.threat.check(kept.adversarial, problem.images)
    return kept


def sequence_attack(problem: Problem, stages: Sequence[Attack], journal: Journal) -> AttackResult:
    """Attacks on known randomness one after another, each on the images that none before it broke.

    `attempt` of the result is the number of the stage.
    """

    def attempt(stage: Attack) -> Attempt:
        return lambda part, kept: [stage(part, kept)]

    return best_of(problem, [attempt(stage) for stage in stages], journal, stop=True)


def attack_after(problem: Problem, earlier: Tensor, attack: Attack, journal: Journal) -> AttackResult:
    """An attack on the images that an earlier one left standing, from the clean images.

    earlier  (n, C, H, W) what the earlier attack proposed; where the judging draws misclassify all of it, it is kept,
             with attempt -1
    """
    kept = _judged(problem, earlier)
    standing = (kept.accuracy > 0).nonzero().squeeze(1)
    if len(standing):
        _put(kept, standing, attack(problem.part(standing), journal))
    problem.threat.check(kept.adversarial, problem.images)
    return kept


def aimed(attempt: Attempt, draws: int, count: int) -> list[Attempt]:
    """One attempt per wrong class, in the order of the mean logits on the clean images.

    count  how many wrong classes; where there are fewer, the attempts beyond them propose nothing
    """

    def towards(rank: int) -> Attempt:
        def run(part: Problem, journal: Journal) -> Sequence[AttackResult]:
            ranked = part.ranked_targets(draws, count)
            if rank >= ranked.shape[1]:
                return []
            return attempt(replace(part, targets=ranked[:, rank]), journal)

        return run

    return [towards(rank) for rank in range(count)]
