"""Steps towards images of other classes: bounded, deterministic, and no gradient or logit is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from purification.attacks import Exemplars, Problem, References, exemplar_attack
from purification.attacks.exemplars import rank_exemplars
from purification.defence import Defence
from purification.known_truth.catalogue import set_up
from purification.known_truth.evaluators import pose
from purification.known_truth.groups import GROUPS
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel

SHAPE = (1, 4, 4)
KNOWN = Exemplars(count=3, redraw=False)
IDENTITY = FunctionPurifier(lambda images, noise: images)


@pytest.fixture
def problem(random_tensor: Callable[..., Tensor]) -> Problem:
    """A classifier of the mean brightness that answers with labels only."""
    images = random_tensor(9, *SHAPE)
    images[::3] *= 0.5
    threshold = float(images.flatten(1).mean(dim=1).median())

    def classify(x: Tensor) -> Tensor:
        return torch.eye(2)[(x.flatten(1).mean(dim=1) > threshold).long()]

    labels = classify(images).argmax(dim=1)
    fixed = NoiseSource(0, "fixed", SHAPE)
    return Problem(
        Defence(IDENTITY, classify, 4), images, labels, list(range(9)), ThreatModel("linf", 0.05), source=fixed,
        start=fixed, judge=fixed, judges=1, memory=0.0, references=References(images, labels),
    )  # fmt: skip


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.4), ("l1", 1.2), ("linf", 0.0)])
def test_every_image_stays_in_ball_and_box_and_repeats(problem: Problem, norm: str, epsilon: float) -> None:
    bounded = replace(problem, threat=ThreatModel(norm, epsilon, share=1 / 16))
    first, second = (exemplar_attack(bounded, KNOWN).adversarial for _ in range(2))
    bounded.threat.check(first, problem.images)
    assert torch.equal(first, second)
    assert (first != problem.images).any() or epsilon == 0.0


def test_an_image_is_attacked_alike_whatever_the_others(problem: Problem) -> None:
    whole = exemplar_attack(problem, KNOWN)
    some = torch.tensor([1, 4, 7])
    part = exemplar_attack(problem.part(some), KNOWN)
    assert torch.equal(whole.adversarial[some], part.adversarial)
    assert torch.equal(whole.attempt[some], part.attempt)


def test_exemplars_are_the_nearest_of_other_classes(problem: Problem) -> None:
    ranks, there = rank_exemplars(problem, 3)
    assert bool(there.all()) and bool((problem.labels[ranks] != problem.labels[:, None]).all())
    distance = torch.cdist(problem.images.flatten(1), problem.images.flatten(1))
    others = distance.masked_fill(problem.labels[:, None] == problem.labels, torch.inf)
    assert torch.equal(distance.gather(1, ranks), others.sort(dim=1).values[:, :3])


def test_where_no_other_class_is_there_nothing_moves(problem: Problem) -> None:
    alike = replace(problem, references=References(problem.images[:2], problem.labels[:1].expand(2)))
    same = problem.labels == problem.labels[0]
    found = exemplar_attack(alike, KNOWN)
    assert torch.equal(found.adversarial[same], problem.images[same])
    assert bool((found.attempt[same] == -1).all())


def test_few_references_are_enough_and_none_are_refused(problem: Problem) -> None:
    one = replace(problem, references=References(problem.images[:1], problem.labels[:1]))
    assert exemplar_attack(one, Exemplars(count=5, redraw=False)).adversarial.shape == problem.images.shape
    with pytest.raises(ValueError, match="expected references"):
        exemplar_attack(replace(problem, references=None), KNOWN)
    with pytest.raises(ValueError, match="count >= 1"):
        Exemplars(count=0, redraw=False)


@pytest.mark.parametrize("name", ["hard labels, noise .2"])
def test_a_classifier_that_answers_with_labels_hides_nothing(name: str) -> None:
    """Truth .57; what follows margins leaves .9 and more (docs/known_truth.md)."""
    known = set_up(
        name, "faulty", GROUPS["faulty"][name], ids=range(100), seed=1, batch_size=50, gradient_batch_size=50
    )
    on = known.examples
    problem = replace(pose(known, "both", 1), references=References(on.images, on.labels))
    found = exemplar_attack(problem, Exemplars(count=10, redraw=False))
    assert known.truth.frozen.mean() <= float(found.accuracy.mean()) < 0.75
