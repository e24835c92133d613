"""Evaluation protocols applied to defences of known truth: what each reports, beside what is true."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from purification import statistics
from purification.attacks import DiffHammer, Problem
from purification.knowledge import shared_noise
from purification.known_truth import flawed_protocols as flawed
from purification.known_truth.catalogue import KnownDefence
from purification.purifiers import purify
from purification.statistics import Array, Estimate

MEMORY = 1e9  # bytes of activations: more than these defences keep
RANDOM = ("randomised", "faulty")  # groups whose defences draw noise


@dataclass(frozen=True)
class Sizes:
    """Sizes of the experiment.

    steps, step_size     of the published attacks; step_size in units of epsilon
    draws                averaged per step of the published attacks where a defence draws noise
    iterates             at which "stop at the first success" looks
    fresh                draws that judge, and that a minimum is taken of
    worst_of, votes      N of Wor_N, K of MV_K
    vote_subsets         choices of K draws
    """

    steps: int
    step_size: float
    draws: int
    iterates: int
    fresh: int
    worst_of: int
    votes: int
    vote_subsets: int


@dataclass(frozen=True)
class Reported:
    """What one protocol reports of one defence, and what is true of its estimand on the same images."""

    protocol: str
    estimand: str
    truth: float
    reported: Estimate


def pose(known: KnownDefence, knowledge: str, judges: int) -> Problem:
    """The problem of an attacker with this knowledge of the noise."""
    on = known.examples
    source, judge = (shared_noise(on.noise(role), knowledge=knowledge, pool=1) for role in ("attack", "judge"))
    return Problem(
        known.defence,
        on.images,
        on.labels,
        on.ids,
        threat=on.threat,
        source=source,
        start=on.noise("start"),
        judge=judge,
        judges=judges,
        memory=MEMORY,
    )


def _mode(known: KnownDefence) -> str:
    """How published attacks differentiate: exactly, or, where autograd cannot follow the purifier, by BPDA."""
    on = known.examples
    images = on.images[:2].clone().requires_grad_()
    purified = purify(known.defence.purifier, images, on.noise("attack")(on.ids[:2]))
    return "autograd" if purified.requires_grad else "bpda"


def _share(survivors: Tensor) -> Estimate:
    return statistics.wilson(int(survivors.sum()), len(survivors))


def report_published(known: KnownDefence, sizes: Sizes, hammer: DiffHammer) -> list[Reported]:
    """Published protocols. A defence without noise has one draw, which they know."""
    random = known.group in RANDOM
    mode = _mode(known)
    problem = pose(known, "none" if random else "both", 1)
    draws = sizes.draws if random else 1
    source = shared_noise(known.examples.noise("flawed"), knowledge="none" if random else "both", pool=1)
    candidates = [problem.images]
    for loss in flawed.LOSSES:
        candidates.append(flawed.flawed_apgd(problem, loss, mode=mode, steps=sizes.steps, draws=draws))
    path = flawed.iterate_pgd(problem, mode=mode, count=sizes.iterates, step_size=sizes.step_size)
    truth = float(known.truth.average().mean())
    single = flawed.flawed_single_draw_selection(problem, candidates, source)
    stopped = flawed.flawed_stop_at_first_success(problem, path, source)
    lowest = flawed.flawed_minimum_of_estimates(problem, candidates, source, draws=sizes.fresh if random else 1)
    found = [
        Reported("AutoAttack rand", "one draw", truth, _share(single)),
        Reported("stop at first success", "one draw", truth, _share(stopped)),
        Reported("minimum of estimates", "avg", truth, statistics.rate(lowest.numpy())),
    ]
    if known.examples.conditions.norm == "l1":
        return found  # DiffHammer has no step under l1
    grafted = replace(hammer, gradient=mode if mode == "bpda" else hammer.gradient)
    own = flawed.flawed_diffhammer(problem, replace(grafted, draws=hammer.draws if random else 1, redraw=random))
    return [*found, Reported("DiffHammer", "avg", truth, statistics.rate(own.numpy()))]


def predict(known: KnownDefence, images: Tensor, role: str, draws: int) -> Array:
    """(n, draws) labels on the first draws of a role."""
    on = known.examples
    seen = [known.defence.predict(images, on.ids, on.noise(role), draw).numpy() for draw in range(draws)]
    return np.stack(seen, axis=1)


@dataclass(frozen=True)
class PerImage:
    """Estimates (n,) of one estimand from draws that chose nothing, and what is true of every image."""

    truth: Array
    estimates: Array


def estimate_correct(known: KnownDefence, seen: Array, sizes: Sizes) -> dict[str, PerImage]:
    """Every estimand of labels (n, draws) that a defence gives on draws which chose nothing."""
    labels = known.examples.labels.numpy()
    truth = known.truth
    right = seen == labels[:, None]
    attempts = sizes.worst_of
    found = {
        "avg": PerImage(truth.average(), statistics.average_robustness(right)),
        f"wor_{attempts}": PerImage(truth.worst_of(attempts), statistics.worst_of(right, attempts)),
    }
    if truth.binary:
        seed, subsets = known.examples.seed, sizes.vote_subsets
        votes = statistics.majority_vote(seen, labels, sizes.votes, subsets=subsets, seed=seed)
        found[f"mv_{sizes.votes}"] = PerImage(truth.majority(sizes.votes), votes)
    return found
