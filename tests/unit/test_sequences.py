"""Attacks one after another on the images still standing, and attacks that go on after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from attack_cases import BASE, FIXED, SHAPE, Interrupted, Numbers, Setting, Store
from torch import Tensor

from purification.attacks import Attack, AttackResult, Problem, attack_after, pgd_attack, sequence_attack
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel

KNOWN = replace(BASE, stop_when_broken=True)
WEAK = replace(KNOWN, steps=1, step_size=0.3)
EPSILON = 0.05


@pytest.fixture(scope="module")
def curved(random_tensor: Numbers) -> Setting:
    """A small nonlinear network, right on all its images, behind noise."""
    first, second = random_tensor(36, 24, seed=1, normal=True), random_tensor(24, 4, seed=2, normal=True)
    images, ids = random_tensor(24, *SHAPE), list(range(24))

    def classify(x: Tensor) -> Tensor:
        return ((x.flatten(1) - 0.5) @ first).sin() @ second

    noisy = FunctionPurifier(lambda x, noise: x + 0.05 * noise.normal("own"))
    defence = Defence(noisy, classify, 5)
    return Setting(defence, images, defence.predict(images, ids, FIXED, 0), ids)


@dataclass(frozen=True)
class Recorded:
    """An attack that writes down which images it was given."""

    settings: Any
    seen: list[list[int]] = field(default_factory=list)

    def __call__(self, problem: Problem, journal: Journal) -> AttackResult:
        self.seen.append(list(problem.ids))
        return pgd_attack(problem, self.settings, journal)


def problem_of(case: Setting) -> Problem:
    return case.problem(KNOWN, "linf", EPSILON)


def standing(case: Setting, adversarial: Tensor) -> list[int]:
    right = case.defence.predict(adversarial, case.ids, FIXED, 0) == case.labels
    return right.nonzero().squeeze(1).tolist()


def test_every_stage_attacks_what_no_stage_before_it_broke(curved: Setting) -> None:
    stages = [Recorded(WEAK), Recorded(replace(WEAK, loss="margin")), Recorded(KNOWN)]
    out = sequence_attack(problem_of(curved), stages, NO_JOURNAL)
    alone = [pgd_attack(problem_of(curved), stage.settings).adversarial for stage in stages]
    left, expected = curved.ids, []
    for adversarial in alone:
        expected.append(left)
        left = sorted({*left} & {*standing(curved, adversarial)})
    assert [stage.seen for stage in stages] == [[ids] for ids in expected]
    assert 0 < len(expected[-1]) < len(curved.ids) and len(left) < len(expected[-1])
    assert standing(curved, out.adversarial) == left == (out.accuracy == 1).nonzero().squeeze(1).tolist()


def test_the_stage_that_broke_an_image_is_named_and_its_image_kept(curved: Setting) -> None:
    stages = [Recorded(WEAK), Recorded(KNOWN)]
    out = sequence_attack(problem_of(curved), stages, NO_JOURNAL)
    first, second = (pgd_attack(problem_of(curved), stage.settings) for stage in stages)
    broken = [result.accuracy == 0 for result in (first, second)]
    assert out.attempt[broken[0]].tolist() == [0] * int(broken[0].sum())
    assert out.attempt[~broken[0] & broken[1]].tolist() == [1] * int((~broken[0] & broken[1]).sum())
    assert torch.equal(out.adversarial[broken[0]], first.adversarial[broken[0]])
    assert torch.equal(out.adversarial[~broken[0] & broken[1]], second.adversarial[~broken[0] & broken[1]])


def test_an_image_that_nothing_makes_worse_is_left_as_it_is(curved: Setting) -> None:
    out = sequence_attack(curved.problem(KNOWN, "linf", 0.0), [Recorded(WEAK), Recorded(KNOWN)], NO_JOURNAL)
    assert torch.equal(out.adversarial, curved.images)
    assert out.attempt.tolist() == [-1] * len(curved.ids)


def test_an_image_that_is_wrong_from_the_start_is_not_attacked(curved: Setting) -> None:
    labels = curved.labels.clone()
    labels[:3] = (labels[:3] + 1) % 4
    stage = Recorded(KNOWN)
    out = sequence_attack(problem_of(replace(curved, labels=labels)), [stage], NO_JOURNAL)
    assert stage.seen == [curved.ids[3:]]
    assert out.attempt[:3].tolist() == [-1] * 3 and out.accuracy[:3].tolist() == [0.0] * 3


def test_an_attack_after_another_keeps_what_that_one_broke(curved: Setting) -> None:
    earlier = pgd_attack(problem_of(curved), WEAK)
    broken, later = earlier.accuracy == 0, Recorded(KNOWN)
    assert 0 < int(broken.sum()) < len(curved.ids)
    out = attack_after(problem_of(curved), earlier.adversarial, later, NO_JOURNAL)
    alone = pgd_attack(problem_of(curved), KNOWN)
    assert later.seen == [(~broken).nonzero().squeeze(1).tolist()]
    assert torch.equal(out.adversarial[broken], earlier.adversarial[broken])
    assert torch.equal(out.adversarial[~broken], alone.adversarial[~broken])
    assert out.attempt.tolist() == [-1 if done else 0 for done in broken.tolist()]
    assert torch.equal(out.accuracy == 0, broken | (alone.accuracy == 0))


def test_an_attack_after_one_that_broke_everything_has_nothing_to_do(curved: Setting) -> None:
    case = replace(curved, labels=(curved.labels + 1) % 4)
    later = Recorded(KNOWN)
    out = attack_after(problem_of(case), curved.images, later, NO_JOURNAL)
    assert later.seen == [] and torch.equal(out.adversarial, curved.images) and not out.accuracy.any()


def test_what_the_earlier_attack_says_is_not_believed() -> None:
    """A purifier that is another function while gradients are recorded: the attack saw it wrong, it runs right."""

    def torn(x: Tensor, noise: Any) -> Tensor:
        return x - 0.2 if torch.is_grad_enabled() else x

    def classify(x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([mean, 0.45 + 0.0 * mean], dim=1)

    defence = Defence(FunctionPurifier(torn), classify, 2)
    case = Setting(defence, torch.full((2, *SHAPE), 0.5), torch.zeros(2, dtype=torch.long), [0, 1])
    earlier = pgd_attack(problem_of(case), KNOWN)
    assert not earlier.accuracy.any() and standing(case, earlier.adversarial) == [0, 1]
    later = Recorded(replace(KNOWN, stop_when_broken=False))
    attack_after(problem_of(case), earlier.adversarial, later, NO_JOURNAL)
    assert later.seen == [[0, 1]]


def test_images_outside_the_threat_are_refused(curved: Setting) -> None:
    """What an earlier attack with another budget left is no result of this one."""
    case = replace(curved, labels=(curved.labels + 1) % 4)
    with pytest.raises(ValueError, match=r"expected \|\|x' - x\|\|_linf <= 0\.05"):
        attack_after(problem_of(case), (curved.images + 0.2).clamp(0, 1), Recorded(KNOWN), NO_JOURNAL)


def test_stages_meet_the_noise_that_judges(curved: Setting) -> None:
    """A stage on other noise would be compared by what the defence does with the known one."""
    seen: set[tuple[str, int]] = set()

    def note(x: Tensor, noise: Any) -> Tensor:
        seen.update((noise.role, draw) for draw in noise.draws)
        return x + 0.05 * noise.normal("own")

    case = curved.behind(FunctionPurifier(note))
    sequence_attack(problem_of(case), [Recorded(WEAK), Recorded(KNOWN)], NO_JOURNAL)
    assert seen == {("fixed", 0)}


def test_a_sequence_of_one_is_that_attack(curved: Setting) -> None:
    stage: Attack = Recorded(KNOWN)
    out = sequence_attack(problem_of(curved), [stage], NO_JOURNAL)
    alone = pgd_attack(problem_of(curved), KNOWN)
    broken = alone.accuracy == 0
    assert torch.equal(out.accuracy, alone.accuracy)
    assert torch.equal(out.adversarial[broken], alone.adversarial[broken])


def test_more_stages_never_leave_more_standing(curved: Setting) -> None:
    stages: list[Attack] = [Recorded(replace(WEAK, step_size=size)) for size in (0.3, 0.2, 0.6)]
    left = []
    for count in (1, 2, 3):
        out = sequence_attack(problem_of(curved), stages[:count], NO_JOURNAL)
        left.append(len(standing(curved, out.adversarial)))
    assert left == sorted(left, reverse=True) and left[-1] < left[0]


def test_results_of_a_sequence_obey_the_threat(curved: Setting) -> None:
    out = sequence_attack(problem_of(curved), [Recorded(WEAK), Recorded(KNOWN)], NO_JOURNAL)
    ThreatModel("linf", EPSILON).check(out.adversarial, curved.images)


ATTACKS: dict[str, Callable[[Problem, Journal], AttackResult]] = {
    "sequence": lambda problem, journal: sequence_attack(problem, [Recorded(WEAK), Recorded(KNOWN)], journal),
    "after": lambda problem, journal: attack_after(problem, problem.images, Recorded(KNOWN), journal),
    "sequence after": lambda problem, journal: attack_after(problem, problem.images, ATTACKS["sequence"], journal),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_one_that_is_killed_at_any_step_ends_with_the_same_bits(curved: Setting, name: str) -> None:
    whole = Store(-1)
    expected = ATTACKS[name](problem_of(curved), whole)
    total = whole.saves[0]
    for stop in range(1, total):
        first = Store(stop)
        with pytest.raises(Interrupted):
            ATTACKS[name](problem_of(curved), first)
        again = ATTACKS[name](problem_of(curved), Store(-1, first.content))
        for one, other in zip(vars(again).values(), vars(expected).values(), strict=True):
            assert torch.equal(one, other)
