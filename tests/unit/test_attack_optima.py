"""Attacks against what is known: optima on linear classifiers, targets, and honest choices among candidates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_cases import ATTACK, AUTO_PGD, BASE, FAB_T, FIXED, IDENTITY, JUDGE, SHAPE, Numbers, Setting
from scipy import optimize
from torch import Tensor

from purification.attacks import PGD
from purification.defence import Defence, dlr, margin, targeted_dlr, targeted_margin
from purification.noise import Noise
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel

REACHING: dict[str, Any] = {
    "pgd": replace(BASE, steps=100),
    "pgd, margin": replace(BASE, steps=100, loss="margin"),
    "pgd, random start": replace(BASE, steps=100, random_start=True),
    "apgd": replace(AUTO_PGD, steps=100, stop_when_broken=False),
    "apgd, margin": replace(AUTO_PGD, steps=100, stop_when_broken=False, loss="margin"),
    "pgd, restarts": replace(BASE, steps=100, random_start=True, restarts=2),
}
BUDGETS = {"linf": (0.05, 0.3), "l2": (0.3, 2.0), "l1": (0.3, 4.0)}  # inside the box, and meeting it


def optimum(norm: str, epsilon: float, slope: Tensor, image: Tensor) -> Tensor:
    """The largest slope . delta over ball and box: corners, the stationary point, or the steepest pixels first."""
    room = torch.where(slope > 0, 1 - image, image).double()
    steep = slope.abs().double()
    if norm == "linf":
        return (steep * room.clamp_max(epsilon)).sum()
    if norm == "l2":

        def excess(scale: float) -> float:
            return float((scale * steep).minimum(room).norm()) - epsilon

        return (steep * (optimize.brentq(excess, 0, 1e6, xtol=1e-14) * steep).minimum(room)).sum()
    total, left = torch.zeros((), dtype=torch.float64), epsilon
    for pixel in steep.argsort(descending=True).tolist():
        moved = min(left, float(room[pixel]))
        total, left = total + steep[pixel] * moved, left - moved
    return total


@pytest.mark.parametrize("settings", REACHING.values(), ids=REACHING.keys())
@pytest.mark.parametrize("meets_box", [False, True], ids=["inside the box", "meeting the box"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_attacks_reach_the_optimum_of_a_linear_classifier(
    random_tensor: Numbers, settings: Any, meets_box: bool, norm: str
) -> None:
    """Two classes: the margin is linear in the image."""
    slope, noise = random_tensor(36, 2, seed=8, normal=True), random_tensor(6, *SHAPE)
    images = (1.6 * noise - 0.3).clamp(0, 1) if meets_box else 0.45 + 0.1 * noise
    bias = images.flatten(1).mean(dim=0) @ (slope[:, 0] - slope[:, 1])
    labels = (images.flatten(1) @ (slope[:, 1] - slope[:, 0]) + bias > 0).long()
    case = Setting(
        Defence(IDENTITY, lambda x: x.flatten(1) @ slope + torch.stack([0 * bias, bias]), 4),
        images, labels, list(range(6)),
    )  # fmt: skip
    epsilon = BUDGETS[norm][meets_box]
    out = case.attacked(settings, norm, epsilon).adversarial
    ThreatModel(norm, epsilon).check(out, images)
    before, after = (margin(case.defence.logits(x), labels).double() for x in (images, out))
    away = (slope[:, 1 - labels] - slope[:, labels]).T
    best = torch.stack([optimum(norm, epsilon, w, x) for w, x in zip(away, images.flatten(1), strict=True)])
    torch.testing.assert_close(after - before, best, rtol=1e-3, atol=1e-5)
    assert bool((after - before <= best * (1 + 1e-5) + 1e-5).all())


# --- losses


def test_losses_of_known_logits() -> None:
    """z = (1, 4, 2, 0), y = 1: margin 2 - 4, dlr -2 / (4 - 1); towards 0: 1 - 4, -3 / (4 - (1 + 0) / 2)."""
    z, y, t = torch.tensor([[1.0, 4.0, 2.0, 0.0]]), torch.tensor([1]), torch.tensor([0])
    assert dlr(z, y).item() == pytest.approx(-2 / 3)
    assert targeted_margin(z, y, t).item() == pytest.approx(-3)
    assert targeted_dlr(z, y, t).item() == pytest.approx(-3 / 3.5)
    assert dlr(z, torch.tensor([2])).item() == pytest.approx(2 / 3)
    for loss in (dlr(7 * z, y), targeted_dlr(7 * z, y, t)):
        assert loss.item() in (pytest.approx(-2 / 3), pytest.approx(-3 / 3.5))
    with pytest.raises(ValueError, match="expected at least 3 classes for this loss, got 2"):
        dlr(z[:, :2], y)
    with pytest.raises(ValueError, match="expected at least 4 classes for this loss, got 3"):
        targeted_dlr(z[:, :3], y, t)


# --- targets and choices


def test_targets_are_the_most_likely_wrong_classes(random_tensor: Numbers) -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 3.0, 1.0, 2.0]])
    defence = Defence(IDENTITY, lambda x: logits[x[:, 0, 0, 0].long()], 2)
    images = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    case = Setting(defence, images, torch.tensor([0, 3]), [4, 5])
    assert case.problem(BASE, "linf", 0.1).ranked_targets(1, 3).tolist() == [[1, 2, 3], [1, 2, 0]]
    assert case.problem(BASE, "linf", 0.1).ranked_targets(1, 9).tolist() == [[1, 2, 3], [1, 2, 0]]


TARGETED: dict[str, Any] = {"apgd": replace(AUTO_PGD, loss="targeted_margin", targets=1), "fab": FAB_T}


@pytest.mark.parametrize("attack", TARGETED.values(), ids=TARGETED)
def test_more_targets_than_wrong_classes_are_all_of_them(attack: Any, random_tensor: Numbers) -> None:
    weights = random_tensor(math.prod(SHAPE), 3)
    images = random_tensor(2, *SHAPE).sigmoid()
    defence = Defence(IDENTITY, lambda x: x.flatten(1) @ weights, 2)
    case = Setting(defence, images, (images.flatten(1) @ weights).argmax(dim=1), [4, 5])
    two, nine = (case.attacked(replace(attack, targets=count), "linf", 0.1) for count in (2, 9))
    assert two.adversarial.equal(nine.adversarial)


def test_a_targeted_attack_finds_the_one_class_that_can_be_reached() -> None:
    """Class 1 is nearer at first, but only class 2 is reached within the budget."""

    def classify(x: Tensor) -> Tensor:
        a = (x.mean(dim=(1, 2, 3)) - 0.5) / 0.1
        return torch.stack([torch.zeros_like(a), -0.1 + 0.05 * a.sin(), 1.5 * (-a) - 1.2, 0 * a - 9], dim=1)

    case = Setting(Defence(IDENTITY, classify, 1), torch.full((1, *SHAPE), 0.5), torch.tensor([0]), [0])
    aimed = replace(BASE, steps=20, loss="targeted_margin", targets=1)
    assert case.accuracy(case.attacked(aimed, "linf", 0.1).adversarial) == 1
    assert case.accuracy(case.attacked(replace(aimed, targets=2), "linf", 0.1).adversarial) == 0


def test_restarts_are_chosen_on_draws_that_made_no_candidate(random_tensor: Numbers) -> None:
    """A defence whose answer is chance, right on 7 of 10 draws: what restarts win on the judging draws is luck."""

    def chance(x: Tensor, noise: Noise) -> Tensor:
        return 0 * x + noise.uniform("own").mean(dim=(1, 2, 3), keepdim=True) * 6 * 3**0.5 + 0.524

    defence = Defence(
        FunctionPurifier(chance), lambda x: torch.stack([x.mean(dim=(1, 2, 3)), 0 * x.mean(dim=(1, 2, 3))], dim=1), 50
    )
    case = Setting(defence, random_tensor(200, *SHAPE), torch.zeros(200, dtype=torch.long), list(range(200)))
    pgd: PGD = replace(BASE, random_start=True, restarts=8, draws=2, redraw=True, steps=0)
    out = case.attacked(pgd, "linf", 0.1, judges=5)
    fresh = replace(FIXED, role="evaluation")
    honest = sum(case.accuracy(out.adversarial, fresh, draw) for draw in range(20)) / 20
    assert float(out.accuracy.mean()) < honest + 0.02
    assert honest == pytest.approx(0.7, abs=0.03)


def test_candidates_meet_the_same_judging_draws_and_no_other_role(random_tensor: Numbers) -> None:
    seen: set[tuple[str, int]] = set()

    def note(x: Tensor, noise: Noise) -> Tensor:
        seen.update((noise.role, draw) for draw in noise.draws)
        return x + 0.01 * noise.normal("own")

    weights = random_tensor(36, 3, seed=1, normal=True)
    defence = Defence(FunctionPurifier(note), lambda x: x.flatten(1) @ weights, 4)
    case = Setting(defence, random_tensor(4, *SHAPE), torch.zeros(4, dtype=torch.long), list(range(4)))
    case.attacked(replace(BASE, random_start=True, restarts=2, draws=2, redraw=True, steps=1), "linf", 0.1, judges=3)
    assert seen == {(ATTACK.role, draw) for draw in range(4)} | {(JUDGE.role, draw) for draw in range(3)}


def test_the_kept_candidate_is_the_best_on_the_judging_draws(random_tensor: Numbers) -> None:
    """Never worse there than any single restart, with margins as tie-break, and better than one of them somewhere."""
    weights = random_tensor(36, 4, seed=3, normal=True)
    purifier = FunctionPurifier(lambda x, noise: (9 * x).sin() / 2 + 0.5 + 0.2 * noise.normal("own"))
    case = Setting(
        Defence(purifier, lambda x: (x.flatten(1) - 0.5) @ weights, 5), random_tensor(12, *SHAPE),
        torch.arange(12) % 4, list(range(12)),
    )  # fmt: skip
    pgd = replace(BASE, random_start=True, draws=2, redraw=True, steps=3, restarts=3)
    whole = case.attacked(pgd, "linf", 0.05)
    problem, gained = case.problem(pgd, "linf", 0.05), 0
    margins, accuracy = problem.judged(whole.adversarial)
    assert torch.equal(whole.loss, margins) and torch.equal(whole.accuracy, accuracy)
    for single in (problem.images, case.attacked(replace(pgd, restarts=1), "linf", 0.05).adversarial):
        other_margins, other = problem.judged(single)
        assert bool(((accuracy < other) | ((accuracy == other) & (margins >= other_margins))).all())
        gained += int((accuracy < other).sum())
    assert gained > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restarts": 2}, "expected a random start for 2 restarts, got none"),
        ({"restarts": 0}, "expected steps >= 0 and restarts >= 1, got 10 and 0"),
        ({"loss": "targeted_dlr"}, "expected targets >= 1 with a targeted loss and 0 with another, got 0"),
        ({"targets": 2}, "expected targets >= 1 with a targeted loss and 0 with another, got 2"),
        ({"loss": "hinge"}, r"expected loss to be one of \['ce', 'dlr', 'margin', 'scaled_ce', 'targeted_dlr'"),
    ],
    ids=str,
)
def test_settings_that_contradict_themselves_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BASE, **change)
