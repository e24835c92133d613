"""Attacks, all in one table: bounded, deterministic, optimal on linear models, and blind to the evaluation's noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from attack_cases import (
    ALL,
    ATTACK,
    ATTACKS,
    BASE,
    CLASSES,
    FIXED,
    IDENTITY,
    SHAPE,
    SOFT,
    START,
    Numbers,
    Setting,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from purification.attacks import PGD, pgd_attack
from purification.defence import Defence
from purification.models.denoisers import Denoiser
from purification.noise import Noise
from purification.purifiers import FunctionPurifier, Purifier
from purification.schedule import Level
from purification.threat import ThreatModel


@pytest.fixture(scope="module")
def weights(random_tensor: Numbers) -> Tensor:
    return random_tensor(36, CLASSES, seed=3, normal=True)


@pytest.fixture(scope="module")
def linear(random_tensor: Numbers, weights: Tensor) -> Setting:
    """An undefended linear classifier that is right on every clean image."""
    images = 0.25 + 0.5 * random_tensor(12, *SHAPE)
    labels = ((images.flatten(1) - 0.5) @ weights).argmax(dim=1)
    return Setting(
        Defence(IDENTITY, lambda x: (x.flatten(1) - 0.5) @ weights, 5), images, labels, list(range(100, 112))
    )


@pytest.fixture(scope="module")
def soft(linear: Setting) -> Setting:
    """The same images behind a smooth random purifier; labels are what it predicts on average."""
    votes = [linear.behind(SOFT).defence.predict(linear.images, linear.ids, FIXED, draw) for draw in range(9)]
    return replace(linear.behind(SOFT), labels=torch.stack(votes).mode(dim=0).values)


each_attack = pytest.mark.parametrize("pgd", ALL.values(), ids=ALL.keys())
each_pgd = pytest.mark.parametrize("pgd", ATTACKS.values(), ids=ATTACKS.keys())
each_norm = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.4), ("l1", 1.2)])


def shortened(attack: Any, step_size: float) -> Any:
    changes = {"steps": 4, "step_size": step_size, "queries": 6}
    return replace(attack, **{name: value for name, value in changes.items() if getattr(attack, name, 0)})


# --- every attack


@each_attack
@settings(max_examples=8)
@given(
    norm=st.sampled_from(["linf", "l2", "l1"]), epsilon=st.floats(0, 2), step_size=st.floats(0.01, 3), far=st.booleans()
)
def test_adversarial_images_stay_in_ball_and_box(
    soft: Setting, pgd: PGD, norm: str, epsilon: float, step_size: float, far: bool
) -> None:
    case = replace(soft, images=soft.images.round() if far else soft.images)
    out = case.attacked(shortened(pgd, step_size), norm, epsilon).adversarial
    ThreatModel(norm, epsilon).check(out, case.images)


@each_attack
@each_norm
def test_the_same_attack_twice_is_bit_equal_and_leaves_its_inputs_alone(
    soft: Setting, pgd: PGD, norm: str, epsilon: float, global_random_state: None
) -> None:
    before = soft.images.clone()
    once, twice = (soft.attacked(pgd, norm, epsilon) for _ in range(2))
    for a, b in zip(vars(once).values(), vars(twice).values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(soft.images, before)


@each_attack
@each_norm
def test_a_zero_budget_returns_the_image(soft: Setting, pgd: PGD, norm: str, epsilon: float) -> None:
    assert torch.equal(soft.attacked(pgd, norm, 0.0).adversarial, soft.images)


@each_attack
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1.0), ("l2", 6.0), ("l1", 36.0)])
def test_a_large_budget_reaches_zero_accuracy(linear: Setting, pgd: PGD, norm: str, epsilon: float) -> None:
    assert linear.accuracy(linear.images) == 1
    assert linear.accuracy(linear.attacked(pgd, norm, epsilon).adversarial) == 0


@each_attack
@each_norm
def test_results_do_not_depend_on_the_batch_size(linear: Setting, pgd: PGD, norm: str, epsilon: float) -> None:
    adversarial = []
    for size in (1, 5, 12, 40):
        case = replace(linear, defence=replace(linear.defence, batch_size=size))
        adversarial.append(case.attacked(pgd, norm, epsilon).adversarial)
    for other in adversarial[1:]:
        torch.testing.assert_close(other, adversarial[0], rtol=0, atol=1e-6 if pgd in ATTACKS.values() else 1e-3)


@each_attack
@each_norm
def test_results_of_an_image_ignore_its_companions_bit_for_bit(
    soft: Setting, pgd: PGD, norm: str, epsilon: float
) -> None:
    whole = soft.attacked(pgd, norm, epsilon)
    some = [7, 2, 11]
    part = replace(soft, images=soft.images[some], labels=soft.labels[some], ids=[soft.ids[i] for i in some])
    for a, b in zip(vars(part.attacked(pgd, norm, epsilon)).values(), vars(whole).values(), strict=True):
        assert torch.equal(a, b[some])


@each_pgd
@each_norm
def test_more_steps_are_not_weaker(soft: Setting, pgd: PGD, norm: str, epsilon: float) -> None:
    """Loss under the attack's own draws; the best iterate of a fixed objective can only improve."""
    losses = [soft.attacked(replace(pgd, steps=n, step_size=0.1), norm, epsilon).loss for n in (0, 4, 40)]
    means = [float(loss.mean()) for loss in losses]
    assert means == sorted(means)
    if pgd.select == "best" and not (pgd.redraw or pgd.stop_when_broken):
        assert all(bool((a <= b).all()) for a, b in pairwise(losses))


@each_pgd
def test_reported_loss_and_accuracy_are_those_of_the_returned_iterate(soft: Setting, pgd: PGD) -> None:
    out = soft.attacked(pgd, "linf", 0.05)
    source, values, correct = (ATTACK if pgd.redraw else FIXED), [], []
    for i, iteration in enumerate(out.iteration.tolist()):
        first = iteration * pgd.draws if pgd.redraw else 0
        judged = [soft.judge(out.adversarial, source, draw, pgd.loss) for draw in range(first, first + pgd.draws)]
        losses = [float(loss[i]) for loss, _, _ in judged]
        if pgd.loss == "ce":  # reported is the logarithm of the mean cross-entropy, log(1 + exp(log-odds))
            values.append(math.log(sum(math.log1p(math.exp(loss)) for loss in losses) / pgd.draws))
        else:
            values.append(sum(losses) / pgd.draws)
        correct.append(sum(bool(predicted[i] == soft.labels[i]) for _, _, predicted in judged) / pgd.draws)
    assert out.loss.tolist() == pytest.approx(values, rel=1e-4, abs=1e-5)
    assert out.accuracy.tolist() == pytest.approx(correct, abs=1e-6)
    assert set(out.iteration.tolist()) <= (set(range(pgd.steps + 1)) if pgd.select == "best" else {pgd.steps})


# --- known optima


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.0125), ("l2", 0.1)])
def test_one_step_has_the_length_step_size_times_epsilon_in_the_norm(linear: Setting, norm: str, length: float) -> None:
    """An l2 step is the normalised gradient, not its sign: it is as long and points where the gradient does."""
    epsilon = {"linf": 0.05, "l2": 0.4}[norm]
    out = linear.attacked(replace(BASE, steps=1, select="last"), norm, epsilon).adversarial
    moved = (out - linear.images).flatten(1)
    slope = linear.judge(linear.images, FIXED, 0, "ce")[1].flatten(1)
    direction = slope.sign() if norm == "linf" else slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(moved, length * direction, rtol=0, atol=1e-6)


def test_eot_averages_the_gradients_of_all_draws(linear: Setting) -> None:
    """The purifier multiplies by its noise: the mean slope is the mean of the draws, another direction than any one."""
    case = linear.behind(FunctionPurifier(lambda x, noise: 0.5 + (x - 0.5) * noise.normal("own")))
    pgd = replace(BASE, loss="margin", draws=4, redraw=True, steps=1, select="last")
    moved = (case.attacked(pgd, "l2", 0.4).adversarial - case.images).flatten(1)
    slopes = [case.judge(case.images, ATTACK, draw, "margin")[1].flatten(1) for draw in range(4)]
    cosine = torch.cosine_similarity(moved, torch.stack(slopes).mean(dim=0))
    torch.testing.assert_close(cosine, torch.ones(12), rtol=0, atol=1e-5)
    assert all(float(torch.cosine_similarity(moved, slope).max()) < 0.95 for slope in slopes)


def test_identity_and_t_star_0_give_bit_equal_adversarial_images(
    linear: Setting, unet: Denoiser, diffusion: Callable[..., Purifier]
) -> None:
    expected = linear.attacked(BASE, "linf", 0.05).adversarial
    assert torch.equal(linear.behind(diffusion(unet, t_star=0)).attacked(BASE, "linf", 0.05).adversarial, expected)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.4)])
def test_the_exact_gradient_is_at_least_as_strong_as_bpda(soft: Setting, norm: str, epsilon: float) -> None:
    losses = [soft.attacked(replace(BASE, gradient=mode), norm, epsilon).loss for mode in ("replay", "bpda")]
    assert float(losses[0].mean()) >= float(losses[1].mean())


# --- randomness


@dataclass(frozen=True)
class Recorder:
    """A purifier function that writes down the role and draw of the noise it was given."""

    seen: set[tuple[str, int]] = field(default_factory=set)

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        self.seen.update((noise.role, draw) for draw in noise.draws)
        return images + 0.01 * noise.normal("own")


def seen_by(linear: Setting, pgd: PGD, **changes: Any) -> set[tuple[str, int]]:
    recorder = Recorder()
    linear.behind(FunctionPurifier(recorder)).attacked(pgd, "linf", 0.01, **changes)
    return recorder.seen


def test_a_fixed_randomness_attack_sees_draw_0_of_its_role_only(linear: Setting) -> None:
    assert seen_by(linear, ATTACKS["fixed"]) == {("fixed", 0)}
    assert seen_by(linear, ATTACKS["random start"]) == {("fixed", 0)}


def test_an_eot_attack_draws_anew_in_every_step_and_never_from_another_role(linear: Setting) -> None:
    assert seen_by(linear, ATTACKS["eot"]) == {("attack", draw) for draw in range(3 * 11)}
    assert seen_by(linear, ATTACKS["several fixed draws"]) == {("fixed", 0), ("fixed", 1)}


def test_the_random_start_belongs_to_the_image(linear: Setting) -> None:
    pgd = replace(BASE, random_start=True, steps=0)
    out = linear.attacked(pgd, "linf", 0.05).adversarial
    torch.testing.assert_close(out, linear.images + 0.05 * START(linear.ids).uniform("start"), rtol=0, atol=1e-6)


def test_a_broken_image_is_left_at_its_first_misclassified_iterate(soft: Setting) -> None:
    stopped = soft.attacked(ATTACKS["fixed"], "linf", 0.3)
    assert bool((stopped.accuracy == 0).all()) and soft.accuracy(stopped.adversarial) == 0
    for i in range(12):
        first = int(stopped.iteration[i])
        if first:
            shorter = soft.attacked(replace(ATTACKS["fixed, to the end"], steps=first - 1, select="last"), "linf", 0.3)
            assert float(shorter.accuracy[i]) == 1


def test_a_misclassified_iterate_is_kept_even_if_an_earlier_one_had_a_higher_loss() -> None:
    """One step from a = 0 to a = 1: the cross-entropy falls from 1.07 to .744, but there class 1 wins.

    What an attack on cross-entropy maximises is its logarithm.
    """

    def classify(x: Tensor) -> Tensor:
        a = (x.mean(dim=(1, 2, 3)) - 0.5) / 0.1
        return torch.stack([0.05 - 0.05 * a, 0.1 * a, 90 * a - 100 * a.square()], dim=1)

    case = Setting(Defence(IDENTITY, classify, 1), torch.full((1, *SHAPE), 0.5), torch.tensor([0]), [0])
    out = case.attacked(replace(ATTACKS["fixed"], steps=1, step_size=1.0), "linf", 0.1)
    assert (out.iteration.tolist(), out.accuracy.tolist()) == ([1], [0.0])
    assert out.loss.item() == pytest.approx(math.log(0.7444), abs=1e-3)
    assert case.attacked(replace(BASE, steps=1, step_size=1.0), "linf", 0.1).iteration.tolist() == [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["fixed", "eot, last iterate"])
def test_attacks_run_where_the_images_are(soft: Setting, weights: Tensor, name: str) -> None:
    pgd, moved = ATTACKS[name], weights.cuda()
    defence = replace(soft.defence, classifier=lambda x: (x.flatten(1) - 0.5) @ moved)
    there = replace(soft, defence=defence, images=soft.images.cuda(), labels=soft.labels.cuda())
    source = replace(ATTACK if pgd.redraw else FIXED, device="cuda")
    out = there.attacked(replace(pgd, steps=2), "linf", 0.05, source=source).adversarial
    expected = soft.attacked(replace(pgd, steps=2), "linf", 0.05).adversarial
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("memory", "visits"), [(0.0, 2), (1e9, 1)])
def test_memory_changes_how_often_a_step_runs_and_nothing_else(
    linear: Setting, curved: Denoiser, diffusion: Callable[..., Purifier], memory: float, visits: int
) -> None:
    calls: list[int] = []

    def epsilon(u: Tensor, level: Level) -> Tensor:
        calls.append(len(u))
        return curved.epsilon(u, level)

    pgd = replace(BASE, steps=2)
    expected = linear.behind(diffusion(curved)).attacked(pgd, "linf", 0.05).adversarial
    counted = linear.behind(diffusion(Denoiser(epsilon, curved.schedule)))
    assert torch.equal(counted.attacked(pgd, "linf", 0.05, memory=memory).adversarial, expected)
    batches, steps = 3, 5
    assert len(calls) == 1 + (pgd.steps + 1) * batches * steps * visits  # one to measure the memory of a step


# --- refusals


@pytest.mark.parametrize("change", [{"redraw": True}, {"draws": 2}, {"draws": 2, "redraw": True}], ids=str)
def test_stopping_at_a_lucky_draw_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected stop_when_broken only with one fixed draw .* redraw: false"):
        replace(ATTACKS["fixed"], **change)


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected select to be one of \('best', 'last'\), got 'first'"):
        replace(BASE, select="first")


def test_the_attack_is_checked_against_the_threat_model(linear: Setting) -> None:
    class Loose(ThreatModel):
        def project(self, candidate: Tensor, images: Tensor) -> Tensor:
            return candidate

    problem = replace(linear.problem(BASE, "linf", 0.05), threat=Loose("linf", 0.05))
    with pytest.raises(ValueError, match=r"expected \|\|x' - x\|\|_linf <= 0\.05, got"):
        pgd_attack(problem, BASE)


@pytest.mark.parametrize("select", ["best", "last"])
@each_norm
def test_a_gradient_that_is_not_finite_is_an_error_and_not_robustness(
    linear: Setting, select: str, norm: str, epsilon: float
) -> None:
    """sqrt(x - x) has the value 0 and a slope of infinity minus infinity."""
    broken = linear.behind(FunctionPurifier(lambda x, noise: x + (x - x).sqrt()))
    assert broken.accuracy(linear.images) == 1
    with pytest.raises(ValueError, match="NaN or infinity"):
        broken.attacked(replace(BASE, select=select), norm, epsilon)
