"""Several attempts at the same images, and the choice among what they propose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from purification.attacks.problem import AttackResult, Problem
from purification.journal import Journal

Attempt = Callable[[Problem, Journal], Sequence[AttackResult]]


def best_of(problem: Problem, attempts: Iterable[Attempt], journal: Journal, *, stop: bool) -> AttackResult:
    """Per image the candidate of all attempts that the judging draws misclassify most often; ties go to the margin.

    All candidates, the clean image among them, meet the same judging draws. Where randomness is known, these are the
    attacker's own, and with `stop` an image they misclassify is left to no further attempt. Elsewhere they are draws
    the attempts have not seen, so that no attempt wins by its own luck; the minimum over candidates is still too low,
    and the chosen image is reported on other draws.
    """
    margins, accuracy = problem.judged(problem.images)
    kept = AttackResult(problem.images.clone(), margins, accuracy, torch.zeros_like(accuracy, dtype=torch.long))
    for number, attempt in enumerate(attempts):
        standing = ((kept.accuracy > 0) | (not stop)).nonzero().squeeze(1)
        if not len(standing):
            break
        part = problem.part(standing)
        for candidate in attempt(part, journal.part(str(number))):
            margins, accuracy = part.judged(candidate.adversarial)
            old_margins, old_accuracy = kept.loss[standing], kept.accuracy[standing]
            better = (accuracy < old_accuracy) | ((accuracy == old_accuracy) & (margins > old_margins))
            chosen = standing[better]
            kept.adversarial[chosen] = candidate.adversarial[better]
            kept.loss[chosen], kept.accuracy[chosen] = margins[better], accuracy[better]
            kept.iteration[chosen] = candidate.iteration[better]
    problem.threat.check(kept.adversarial, problem.images)
    return kept


def aimed(attempt: Attempt, draws: int, count: int) -> list[Attempt]:
    """One attempt per wrong class, in the order of the mean logits on the clean images."""

    def towards(rank: int) -> Attempt:
        def run(part: Problem, journal: Journal) -> Sequence[AttackResult]:
            return attempt(replace(part, targets=part.ranked_targets(draws, count)[:, rank]), journal)

        return run

    return [towards(rank) for rank in range(count)]
