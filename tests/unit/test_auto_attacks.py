"""The parts of Auto-PGD, FAB, Square and AutoAttack, each of which makes a difference that is tested; and resuming."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_cases import (
    AUTO_PGD,
    AUTOMATIC,
    CHOSEN,
    FAB_T,
    FIXED,
    IDENTITY,
    RAND,
    SHAPE,
    SQUARE,
    Interrupted,
    Numbers,
    Setting,
    Store,
)
from torch import Tensor

from purification.attacks.apgd import APGD
from purification.attacks.fab import shift_to_plane
from purification.attacks.problem import random_start
from purification.attacks.square import area
from purification.attacks.stepping import checkpoints
from purification.defence import Defence, margin
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel


@pytest.fixture(scope="module")
def curved(random_tensor: Numbers) -> Setting:
    """A small nonlinear network, right on all its images."""
    first, second = random_tensor(36, 24, seed=1, normal=True), random_tensor(24, 4, seed=2, normal=True)
    images = random_tensor(12, *SHAPE)

    def classify(x: Tensor) -> Tensor:
        return ((x.flatten(1) - 0.5) @ first).sin() @ second

    return Setting(Defence(IDENTITY, classify, 5), images, classify(images).argmax(dim=1), list(range(12)))


# --- Auto-PGD


def test_checkpoints_of_a_hundred_steps() -> None:
    assert list(checkpoints(100, "linf")) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100, "linf").values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert set(checkpoints(100, "l1").values()) == {4}


def reference(case: Setting, apgd: APGD, norm: str, epsilon: float) -> Tensor:
    """Highest margin of every image by Algorithm 1 of Auto-PGD, one image at a time, in plain steps."""
    problem, found = case.problem(apgd, norm, epsilon), []
    starts, marks = random_start(problem, 0), checkpoints(apgd.steps, norm)
    for i in range(len(case.images)):
        one = replace(case, images=case.images[[i]], labels=case.labels[[i]], ids=[case.ids[i]])
        x = past = starts[[i]]
        loss, grad, _ = one.judge(x, FIXED, 0, apgd.loss)
        best, best_loss, best_grad, step = x, loss, grad, 2 * epsilon
        rises, halved, checked = 0, True, best_loss
        for k in range(1, apgd.steps + 1):
            weight = apgd.momentum if k > 1 else 1.0
            unit = grad.sign() if norm == "linf" else grad / grad.norm()
            ahead = problem.threat.project(x + step * unit, one.images)
            new = problem.threat.project(x + weight * (ahead - x) + (1 - weight) * (x - past), one.images)
            past, x, before = x, new, loss
            loss, grad, _ = one.judge(x, FIXED, 0, apgd.loss)
            rises += int(loss > before)
            if loss > best_loss:
                best, best_loss, best_grad = x, loss, grad
            if k in marks:
                halve = rises <= apgd.rho * marks[k] or (not halved and bool(checked >= best_loss))
                halved, checked, rises = halve, best_loss, 0
                if halve:
                    step, x, grad = step / 2, best, best_grad
        found.append(best_loss)
    return torch.cat(found)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.4)])
def test_auto_pgd_follows_the_algorithm(curved: Setting, norm: str, epsilon: float) -> None:
    """Step halving, momentum, and the return to the best point all show in the loss that is reached."""
    apgd = replace(AUTO_PGD, steps=40, loss="margin", stop_when_broken=False)
    out = curved.attacked(apgd, norm, epsilon).adversarial
    reached = margin(curved.defence.logits(out), curved.labels)
    torch.testing.assert_close(reached, reference(curved, apgd, norm, epsilon), rtol=1e-4, atol=1e-4)


def test_halving_finds_a_maximum_inside_the_ball() -> None:
    """The margin has its maximum at +.037 in every pixel; a step that stays long jumps over it for ever."""

    def classify(x: Tensor) -> Tensor:
        value = -(x - 0.537).square().flatten(1).sum(dim=1)
        return torch.stack([0 * value + 1, value], dim=1)

    case = Setting(Defence(IDENTITY, classify, 1), torch.full((1, *SHAPE), 0.5), torch.tensor([0]), [0])
    out = case.attacked(replace(AUTO_PGD, steps=100, loss="margin", stop_when_broken=False), "linf", 0.1).adversarial
    assert float((out - 0.537).abs().max()) < 0.004


def test_auto_pgd_offers_its_last_iterate_where_draws_are_random(curved: Setting) -> None:
    """The best iterate under random draws was best on lucky draws."""
    case = curved.behind(FunctionPurifier(lambda x, noise: x + 0.3 * noise.normal("own")))
    apgd = replace(AUTO_PGD, steps=6, draws=1, redraw=True, stop_when_broken=False)
    out = case.attacked(apgd, "linf", 0.1, judges=9)
    assert 6 in out.iteration.tolist() and set(out.iteration.tolist()) != {6}


# --- FAB


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("need", [0.5, -2.0, 50.0])
def test_the_shift_to_a_plane_is_the_shortest_in_the_box(random_tensor: Numbers, norm: str, need: float) -> None:
    """It reaches the plane, or the corner nearest to it, and no random shift on the plane is shorter."""
    x, slope = random_tensor(6, *SHAPE).double(), random_tensor(6, *SHAPE, seed=1, normal=True).double()
    slope[:, :, 0] = 0
    shift, goal = shift_to_plane(x, slope, torch.full((6,), need).double(), norm), torch.full((6,), need).double()
    reached = (slope * shift).flatten(1).sum(dim=1)
    corner = torch.where(slope * need > 0, 1 - x, -x) * (slope != 0)
    most = (slope * corner).flatten(1).sum(dim=1)
    torch.testing.assert_close(reached, torch.where(goal.abs() < most.abs(), goal, most), rtol=1e-9, atol=1e-9)
    assert float((x + shift).min()) >= -1e-12 and float((x + shift).max()) <= 1 + 1e-12
    threat = ThreatModel(norm, 1.0)
    for seed in range(20):
        other = shift + 0.1 * random_tensor(6, *SHAPE, seed=seed, normal=True).double()
        other = (x + other).clamp(0, 1) - x
        there = (slope * other).flatten(1).sum(dim=1)
        as_far = (there / reached) >= 1
        assert bool((threat.size(other) >= threat.size(shift) - 1e-9)[as_far].all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_finds_the_distance_to_a_linear_boundary(random_tensor: Numbers, norm: str) -> None:
    slope, images = random_tensor(36, 2, seed=8, normal=True), 0.45 + 0.1 * random_tensor(6, *SHAPE)
    away = slope[:, 1] - slope[:, 0]
    bias = (images.flatten(1) @ away).max() + 0.02 * away.abs().sum() / 36
    case = Setting(
        Defence(IDENTITY, lambda x: torch.stack([0 * x.flatten(1)[:, 0], x.flatten(1) @ away - bias], dim=1), 4),
        images, torch.zeros(6, dtype=torch.long), list(range(6)),
    )  # fmt: skip
    gap = (bias - images.flatten(1) @ away).double()
    dual = {"linf": away.abs().sum(), "l2": away.norm(), "l1": away.abs().max()}[norm]
    fab = replace(FAB_T, targets=1, steps=40, stop_when_broken=False)
    out = case.attacked(fab, norm, 40.0 if norm == "l1" else 1.0).adversarial
    ratio = ThreatModel(norm, 1.0).size(out - images).double() / (gap / dual)
    assert float(ratio.min()) > 0.999 and float(ratio.max()) < 1.02
    assert case.accuracy(out) == 0


def test_the_backward_step_of_fab_brings_it_nearer(curved: Setting) -> None:
    """Without it every round starts again from the clean image and ends where the first one did."""
    fab, threat = replace(FAB_T, steps=30, stop_when_broken=False), ThreatModel("l2", 6.0)
    sizes = []
    for backward in (0.9, 0.0):
        out = curved.attacked(replace(fab, backward=backward), "l2", 6.0).adversarial
        sizes.append(threat.size(out - curved.images))
    nearer = sizes[0] < 0.999 * sizes[1]
    assert float(sizes[0].mean()) < 0.98 * float(sizes[1].mean()) and float(nearer.float().mean()) > 0.5


def test_fab_on_fresh_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="expected known randomness for FAB, got fresh draws"):
        replace(FAB_T, redraw=True, stop_when_broken=False)


# --- Square


def test_squares_shrink_by_the_schedule() -> None:
    planned = replace(SQUARE, queries=10_000, rescale=False)
    halvings = {0: 0, 10: 0, 11: 1, 51: 2, 201: 3, 501: 4, 1001: 5, 2001: 6, 4001: 7, 6001: 8, 8001: 9}
    for query, times in halvings.items():
        assert area(planned, query) == pytest.approx(0.8 / 2**times)
    assert area(replace(SQUARE, queries=100, rescale=True), 60) == pytest.approx(0.8 / 2**7)
    assert area(replace(SQUARE, queries=100, rescale=False), 60) == pytest.approx(0.8 / 2**2)


def test_proposals_are_single_squares_of_the_scheduled_size() -> None:
    """All pixels inside move by 2 epsilon or stay, none outside, and places cover the image."""
    seen: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return torch.stack([0 * x.flatten(1)[:, 0] + 1, 0 * x.flatten(1)[:, 0]], dim=1)

    case = Setting(Defence(IDENTITY, note, 1), torch.full((1, *SHAPE), 0.5), torch.tensor([0]), [0])
    case.attacked(replace(SQUARE, queries=60, rescale=False), "linf", 0.1)
    start, proposals = seen[1], seen[2:62]  # the clean image is judged first
    assert bool(((start - 0.5).abs() - 0.1 < 1e-6).all()) and torch.equal(start[0, 0, 0], start[0, 0, 3])
    for query, x in enumerate(proposals):
        rows, columns = (x != start)[0, 0].nonzero().unbind(dim=1) if bool((x != start).any()) else (None, None)
        if rows is not None and columns is not None:
            side = round((area(replace(SQUARE, rescale=False), query) * 36) ** 0.5)
            assert int(rows.max() - rows.min()) < side and int(columns.max() - columns.min()) < side
    touched = torch.stack([(x != start)[0, 0] for x in proposals]).any(dim=0)
    assert bool(touched.all())


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.5), ("l1", 2.0)])
def test_square_gains_with_queries(curved: Setting, norm: str, epsilon: float) -> None:
    square = replace(SQUARE, stop_when_broken=False)
    few, many = (curved.attacked(replace(square, queries=n), norm, epsilon).loss for n in (1, 200))
    assert bool((many >= few).all()) and float((many - few).mean()) > 0.5


def test_pairs_share_their_draws_and_renew_them(curved: Setting) -> None:
    """A kept value under fresh draws is a lucky one: with pairs each query judges both images on the same new draws."""
    draws: list[int] = []

    def note(x: Tensor, noise: Any) -> Tensor:
        if noise.role == "attack":
            draws.append(noise.draws[0])
        return x + 0.1 * noise.normal("own")

    case = replace(
        curved.behind(FunctionPurifier(note)), images=curved.images[:3], labels=curved.labels[:3], ids=[0, 1, 2]
    )
    paired = replace(SQUARE, queries=3, draws=2, redraw=True, stop_when_broken=False, paired=True)
    case.attacked(paired, "linf", 0.05)
    assert draws == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5]


def test_a_rejected_proposal_does_not_return_with_pairs(curved: Setting) -> None:
    """With one fixed draw pairs see the same values as kept ones: both ways end with the same images."""
    square = replace(SQUARE, stop_when_broken=False, queries=60)
    kept, renewed = (curved.attacked(replace(square, paired=paired), "linf", 0.05) for paired in (False, True))
    assert torch.equal(kept.adversarial, renewed.adversarial)


# --- AutoAttack


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "plus"}, r"expected a version among \['rand', 'standard'\], got 'plus'"),
        ({"redraw": False}, "expected fresh draws with version 'rand', got redraw False"),
        ({"version": "standard"}, "expected known randomness with version 'standard', got redraw True"),
    ],
    ids=str,
)
def test_versions_fit_the_randomness(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RAND, **change)


def test_chance_does_not_look_like_success(random_tensor: Numbers) -> None:
    """A defence that is right on 85 of 100 draws whatever the image: the best of three restarts, chosen on judging
    draws, is still right on 85 of 100 draws that chose nothing."""

    def chance(x: Tensor, noise: Any) -> Tensor:
        return 0 * x + noise.uniform("own")[:, :, :1, :1]

    defence = Defence(
        FunctionPurifier(chance), lambda x: torch.stack([0.7 + x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], dim=1), 50
    )
    case = Setting(defence, random_tensor(150, *SHAPE), torch.zeros(150, dtype=torch.long), list(range(150)))
    apgd = replace(AUTO_PGD, steps=2, draws=2, redraw=True, stop_when_broken=False, restarts=3)
    out = case.attacked(apgd, "linf", 0.1, judges=5)
    fresh = replace(FIXED, role="evaluation")
    honest = sum(case.accuracy(out.adversarial, fresh, draw) for draw in range(20)) / 20
    assert honest == pytest.approx(0.85, abs=0.02)
    assert float(out.accuracy.mean()) < honest + 0.03


# --- resuming


@pytest.mark.parametrize("name", [*AUTOMATIC, *CHOSEN])
def test_an_attack_killed_at_any_step_ends_with_the_same_bits(curved: Setting, name: str) -> None:
    settings = {**AUTOMATIC, **CHOSEN}[name]
    case = curved.behind(FunctionPurifier(lambda x, noise: x + 0.05 * noise.normal("own")))
    whole = Store(-1)
    expected = case.attacked(settings, "linf", 0.02, journal=whole)
    total = whole.saves[0]
    for stop in sorted({1, 2, 3, total // 3, total // 2, total - 1}):
        first = Store(stop)
        with pytest.raises(Interrupted):
            case.attacked(settings, "linf", 0.02, journal=first)
        second = Store(-1, first.content)
        again = case.attacked(settings, "linf", 0.02, journal=second)
        for one, other in zip(vars(again).values(), vars(expected).values(), strict=True):
            assert torch.equal(one, other)
        assert second.saves[0] < total or stop < 4


def test_every_choice_of_an_attack_is_keyed_by_the_image(curved: Setting) -> None:
    """Another seed of the start gives other images, the same one the same, without global random state."""
    one, same, other = (
        curved.attacked(SQUARE, "linf", 0.02, start=NoiseSource(seed, "start", SHAPE)).adversarial for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
