"""DiffHammer, DiffAttack and the update they share, against closed forms, finite differences and interruptions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.attacks import PGD, AttackResult, DiffHammer, Problem, diffattack_attack, diffhammer_attack
from purification.attacks.diffattack import DeviatedDefence, Deviating
from purification.attacks.diffhammer import shared_direction, unit
from purification.attacks.stepping import Stepping, advance, begin_stepping, checkpoints
from purification.defence import Defence, log_odds
from purification.journal import NO_JOURNAL, Journal, State
from purification.models.denoisers import Denoiser
from purification.noise import FORWARD, Noise, NoiseSource
from purification.purifiers import DiffusionPurifier, FunctionPurifier, Purifier, purify
from purification.schedule import Schedule
from purification.threat import ThreatModel

SHAPE = (1, 6, 6)
FIXED = NoiseSource(seed=0, role="fixed", shape=SHAPE)
FRESH = replace(FIXED, role="attack")
HAMMER = DiffHammer(
    steps=10, step_size=2.0, loss="margin", gradient="replay", draws=4, redraw=True, rounds=5, temperature=5.0,
    reach=1.0, smoothing=0.5,
)  # fmt: skip
PGD_20 = PGD(
    steps=20, step_size=0.25, random_start=False, loss="ce", gradient="replay", draws=1, redraw=False, select="last",
    stop_when_broken=False, restarts=1,
)  # fmt: skip
Numbers = Callable[..., Tensor]


def problem_of(defence: Defence, images: Tensor, labels: Tensor, norm: str, epsilon: float, **changes: Any) -> Problem:
    arguments: dict[str, Any] = {"source": FRESH, "start": replace(FIXED, role="start"), **changes}
    arguments = {"judge": replace(FIXED, role="judge"), "judges": 1, "memory": 0.0, **arguments}
    ids = arguments.pop("ids", list(range(len(images))))
    return Problem(defence, images, labels, ids, threat=ThreatModel(norm, epsilon), **arguments)


# --- the update


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 37])
def test_checkpoints_lie_within_the_iterations(steps: int) -> None:
    found = list(checkpoints(steps, "linf"))
    assert found == sorted(set(found)) and all(0 < k < steps for k in found)


def climb(score_of: Callable[[Tensor], Tensor], steps: int, step_size: float, epsilon: float) -> Stepping:
    """The update on a function of two images of one pixel, always stepping upwards."""
    images = torch.full((2, 1, 1, 1), 0.5)
    at = Stepping(**begin_stepping(images.clone(), step_size))
    for k in range(steps + 1):
        score = score_of(at.x.flatten())
        advance(at, k, steps, score, torch.ones_like(at.x), ThreatModel("linf", epsilon), images)
    return at


def test_the_first_steps_have_momentum() -> None:
    """x_1 = s, then x_2 = x_1 - .75 s + .25 (x_1 - x_0) backwards: written out for s = .02, no boundary near."""
    images = torch.full((1, 1, 1, 1), 0.5)
    at, seen = Stepping(**begin_stepping(images.clone(), 0.2)), []
    for k in range(3):
        way = torch.full_like(images, -1.0 if k else 1.0)
        advance(at, k, 10, torch.tensor([float(k)]), way, ThreatModel("linf", 0.1), images)
        seen.append(float(at.x) - 0.5)
    first, second = 0.02, 0.02 - 0.75 * 0.02 + 0.25 * 0.02
    third = second - 0.75 * 0.02 + 0.25 * (second - first)
    assert seen == pytest.approx([first, second, third], abs=1e-6)


def test_steps_are_halved_where_nothing_improves_and_nowhere_else() -> None:
    """One image's score always rises, the other's falls: halved at every checkpoint, back at its best each time."""
    sign = torch.tensor([1.0, -1.0])
    at = climb(lambda x: sign * x, steps=100, step_size=0.01, epsilon=0.4)
    assert at.size.tolist() == pytest.approx([0.01, 0.01 / 2 ** len(checkpoints(100, "linf"))])
    assert float(at.best[1]) <= 0.5 and float(at.best[0]) > 0.8 and float(at.best_score[0]) == float(at.best[0])


# --- shared direction


def numbers(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_one_draw_shares_its_own_direction() -> None:
    slopes = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen, direction = shared_direction(
        numbers([[-1.0, 0.0, 2.0]]), slopes, norm="l2", reach=0.3, temperature=5.0, rounds=5
    )
    assert chosen.tolist() == [0, 0, 0]
    torch.testing.assert_close(direction, slopes[0])


def test_draws_that_cannot_be_fooled_lose_their_say() -> None:
    """Three draws within reach along e_1, one far away whose gradient along e_2 dominates the mean."""
    slopes = numbers([[[1.0, 0.0]], [[1.2, 0.0]], [[0.8, 0.0]], [[0.0, 50.0]]])
    losses = numbers([[-0.1], [-0.1], [-0.1], [-500.0]])
    chosen, direction = shared_direction(losses, slopes, norm="l2", reach=1.0, temperature=5.0, rounds=5)
    mean = slopes.mean(dim=0)
    assert int(chosen) != 3 and unit(direction, "l2")[0, 0] > 0.999 > 0.1 > unit(mean, "l2")[0, 0]


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_maximisation_feeds_the_next_expectation(rounds: int) -> None:
    """Expectation and maximisation written out for two draws of two pixels, with numbers of their own."""
    slopes, losses, reach, temperature = [[1.0, 0.2], [0.1, 0.9]], [0.3, -0.2], 0.5, 2.0

    def gain(r: list[float], g: list[float]) -> float:
        return sum(a * b for a, b in zip(r, g, strict=True)) / math.hypot(*r)

    def likely(r: list[float], i: int) -> float:
        return 1 / (1 + math.exp(-temperature * (losses[i] + reach * gain(r, slopes[i]))))

    totals = [sum(likely(g, i) for i in range(2)) for g in slopes]
    chosen = totals.index(max(totals))
    r = slopes[chosen]
    for _ in range(rounds):
        q = [likely(r, i) for i in range(2)]
        r = [sum(q[i] * slopes[i][j] for i in range(2)) / sum(q) for j in range(2)]
    found = shared_direction(
        numbers(losses)[:, None], numbers(slopes)[:, None], norm="l2", reach=reach, temperature=temperature,
        rounds=rounds,
    )  # fmt: skip
    assert int(found[0]) == chosen and found[1][0].tolist() == pytest.approx(r, rel=1e-12)


def test_hopeless_losses_still_give_a_direction() -> None:
    slopes = numbers([[[1.0, 0.0]], [[0.0, 1.0]]])
    _, direction = shared_direction(
        numbers([[-1e6], [-1e6]]), slopes, norm="linf", reach=0.1, temperature=5.0, rounds=5
    )
    assert torch.isfinite(direction).all() and float(direction.abs().sum()) > 0


# --- grafting


def test_a_direction_is_pulled_back_through_the_draw_of_each_image(random_tensor: Numbers) -> None:
    """Through x -> x M(draw) the pulled-back direction is v M(draw)^T, another matrix for every image."""
    matrices = random_tensor(5, 36, 36, seed=1, normal=True, dtype=torch.float64)

    def mixing(images: Tensor, noise: Noise) -> Tensor:
        return torch.einsum("bd,bde->be", images.flatten(1), matrices[list(noise.draws)]).view_as(images)

    defence = Defence(FunctionPurifier(mixing), lambda x: x.flatten(1)[:, :3], 4)
    images, v = (random_tensor(6, *SHAPE, seed=seed, dtype=torch.float64) for seed in (2, 3))
    draws = [3, 0, 4, 4, 1, 2]
    pulled = defence.pull_back(images, v, list(range(6)), FRESH, draws, mode="replay", kept_steps=0)
    torch.testing.assert_close(pulled.flatten(1), torch.einsum("be,bde->bd", v.flatten(1), matrices[draws]))


# --- DiffHammer


@pytest.fixture(scope="module")
def weights(random_tensor: Numbers) -> Tensor:
    return random_tensor(36, 2, seed=3, normal=True)


@pytest.fixture(scope="module")
def images(random_tensor: Numbers) -> Tensor:
    return 0.25 + 0.5 * random_tensor(7, *SHAPE)


@pytest.fixture(scope="module")
def soft(weights: Tensor) -> Defence:
    """A smooth random purifier in front of a linear classifier."""

    def purifier(images: Tensor, noise: Noise) -> Tensor:
        return (3 * images).sin() / 2 + 0.5 + 0.1 * noise.normal("own")

    return Defence(FunctionPurifier(purifier), lambda x: (x.flatten(1) - 0.5) @ weights, 4)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.3)])
def test_an_undefended_linear_classifier_meets_its_optimum(
    images: Tensor, weights: Tensor, norm: str, epsilon: float
) -> None:
    """The margin's maximum over the ball is x + epsilon unit(w_other - w_true), inside the box here."""
    defence = Defence(FunctionPurifier(lambda x, noise: x), lambda x: (x.flatten(1) - 0.5) @ weights, 4)
    labels = defence.logits(images).argmax(dim=1)
    result = diffhammer_attack(problem_of(defence, images, labels, norm, epsilon), HAMMER)
    away = (weights.T[1 - labels] - weights.T[labels]).view_as(images)
    optimum = images + epsilon * unit(away.flatten(1), norm).view_as(images)
    torch.testing.assert_close(result.adversarial, optimum, atol=1e-5, rtol=0)


@dataclass(frozen=True)
class Recording(NoiseSource):
    """A source that writes down which draws it gives."""

    def __call__(self, images: Any, draw: Any = 0) -> Noise:
        SEEN.append((self.role, tuple([draw] * len(images) if isinstance(draw, int) else draw)))
        return super().__call__(images, draw)


SEEN: list[tuple[str, tuple[int, ...]]] = []


@pytest.mark.parametrize("redraw", [True, False])
def test_draws_are_new_in_every_iteration_or_the_same(soft: Defence, images: Tensor, redraw: bool) -> None:
    SEEN.clear()
    problem = problem_of(
        soft, images, torch.zeros(7, dtype=torch.long), "linf", 0.05, source=Recording(0, "attack", SHAPE)
    )
    diffhammer_attack(problem, replace(HAMMER, steps=3, redraw=redraw))
    draws = {draw for _, several in SEEN for draw in several}
    assert draws == set(range(16 if redraw else 4)) and {role for role, _ in SEEN} == {"attack"}


@pytest.mark.parametrize("size", [1, 3, 7])
def test_images_do_not_see_each_other(soft: Defence, images: Tensor, size: int) -> None:
    labels = soft.predict(images, range(7), FIXED, 0)
    whole = diffhammer_attack(problem_of(soft, images, labels, "linf", 0.05), HAMMER)
    some = torch.arange(7).flip(0)[:size]
    part = diffhammer_attack(problem_of(soft, images[some], labels[some], "linf", 0.05, ids=some.tolist()), HAMMER)
    assert torch.equal(part.adversarial, whole.adversarial[some]) and torch.equal(part.loss, whole.loss[some])


def test_it_finds_the_shared_weakness_that_the_mean_gradient_misses() -> None:
    """Nine draws in ten can be fooled along pixel 0; the other cannot, and pulls the mean gradient along pixel 1."""

    def split(x: Tensor, noise: Noise) -> Tensor:
        strong = torch.tensor([draw % 10 == 0 for draw in noise.draws])[:, None, None, None]
        first, second = x.chunk(2, dim=-1)
        easy = torch.cat([first, torch.full_like(second, -1.0)], dim=-1)
        hard = torch.cat([-first - 50.0, 1.0 + second], dim=-1)
        return torch.where(strong, hard, easy)

    def classify(z: Tensor) -> Tensor:
        """Margin z_0 - .55 - 100 relu(z_1): x_0 - .55 on easy draws, below -150 on the others."""
        first, second = z.flatten(1).unbind(dim=1)
        return torch.stack([torch.zeros(len(z)), first - 0.55 - 100.0 * second.relu()], dim=1)

    x = torch.full((3, 1, 1, 2), 0.5)
    defence, shape = Defence(FunctionPurifier(split), classify, 3), (1, 1, 2)
    labels, source = torch.zeros(3, dtype=torch.long), NoiseSource(0, "attack", shape)
    problem = problem_of(defence, x, labels, "l2", 0.1, source=source, start=source)
    found = diffhammer_attack(problem, replace(HAMMER, draws=10, steps=5, redraw=False))
    mean = pgd_attack_on(problem, replace(PGD_20, loss="margin", draws=10, step_size=0.5))
    assert found.accuracy.max() <= 0.1 + 1e-6 and mean.accuracy.min() >= 0.9


def pgd_attack_on(problem: Problem, pgd: PGD) -> AttackResult:
    return diffattack_attack(problem, pgd, 0.0)


class Interrupted(Exception):
    """The process ends here."""


class Memory:
    """A journal in memory that ends the process after a number of states."""

    def __init__(self) -> None:
        self.kept: State = {}
        self.left = math.inf

    def load(self) -> State:
        return {name: value.clone() for name, value in self.kept.items()}

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.kept = {name: value.detach().clone() for name, value in state().items()}
        self.left -= 1
        if self.left == 0:
            raise Interrupted

    def part(self, name: str) -> Journal:
        return NO_JOURNAL


def test_an_interrupted_attack_goes_on_to_the_same_bits(soft: Defence, images: Tensor) -> None:
    problem = problem_of(soft, images, soft.predict(images, range(7), FIXED, 0), "linf", 0.05)
    expected, journal = diffhammer_attack(problem, HAMMER), Memory()
    for _ in range(HAMMER.steps):
        journal.left = 1
        with pytest.raises(Interrupted):
            diffhammer_attack(problem, HAMMER, journal)
    journal.left = math.inf
    result = diffhammer_attack(problem, HAMMER, journal)
    for name, value in vars(expected).items():
        assert torch.equal(value, getattr(result, name)), name


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_no_budget_and_the_whole_box(soft: Defence, images: Tensor, epsilon: float) -> None:
    labels = soft.predict(images, range(7), FIXED, 0)
    result = diffhammer_attack(problem_of(soft, images, labels, "linf", epsilon), HAMMER)
    if epsilon == 0.0:
        assert torch.equal(result.adversarial, images)
    else:
        assert float(result.accuracy.max()) == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "expected steps >= 1"),
        ({"rounds": 0}, "rounds >= 1"),
        ({"loss": "hinge"}, "expected loss"),
        ({"gradient": "none"}, "expected gradient"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(HAMMER, **changes)


# --- DiffAttack


def exact(schedule: Schedule, noise: Noise) -> Denoiser:
    """A denoiser that knows the forward noise."""
    return Denoiser(lambda u, level: noise.normal(FORWARD).to(u.dtype), schedule)


def chain(diffusion: Callable[..., Purifier], denoiser: Denoiser, **changes: Any) -> DiffusionPurifier:
    made = diffusion(denoiser, **changes)
    assert isinstance(made, DiffusionPurifier)
    return made


@pytest.mark.parametrize("changes", [{"sampler": "ddim", "eta": 0.0}, {"sampler": "one_step"}], ids=str)
def test_a_reverse_process_that_retraces_the_forward_one_does_not_deviate(
    schedule: Schedule, diffusion: Callable[..., Purifier], images: Tensor, changes: dict[str, Any]
) -> None:
    noise = replace(FIXED, dtype=torch.float64)(range(7))
    x = images.double()
    purified = purify(Deviating(chain(diffusion, exact(schedule, noise), **changes)), x, noise)
    torch.testing.assert_close(purified[:, :1], x)
    assert float(purified[:, 1:].max()) < 1e-20


def deviation_of(purifier: DiffusionPurifier, x: Tensor, noise: Noise) -> Tensor:
    """Mean over steps and pixels of (u_t - u'_t)^2 of every image, step by step."""
    state, total = purifier.start(x, noise), torch.zeros(len(x), dtype=x.dtype)
    for number in range(purifier.num_steps):
        state = purifier.step(number, state, x, noise)
        last = number == purifier.num_steps - 1
        alpha_bar = 1.0 if last else purifier.table[number + 1].level.alpha_bar
        u = 2 * x - 1
        if not last:
            u = math.sqrt(alpha_bar) * u + math.sqrt(1 - alpha_bar) * noise.normal(FORWARD)
        total = total + (u - state).square().flatten(1).mean(dim=1)
    return total / purifier.num_steps


@pytest.mark.parametrize("sampler", ["ddpm", "vp_sde", "ddim"])
@pytest.mark.parametrize("mode", ["replay", "autograd"])
def test_loss_and_gradient_are_those_of_loss_plus_deviation(
    curved: Denoiser, diffusion: Callable[..., Purifier], images: Tensor, weights: Tensor, sampler: str, mode: str
) -> None:
    """Against a computation of its own that autograd differentiates whole, in float64."""
    extra = {"eta": 0.5} if sampler == "ddim" else {}
    purifier = chain(diffusion, curved, sampler=sampler, **extra)
    labels, ids, source = torch.arange(7) % 2, list(range(7)), replace(FRESH, dtype=torch.float64)
    defence = DeviatedDefence(purifier, lambda x: x.flatten(1) @ weights.double(), 7, weight=0.7)
    found = defence.loss_gradient(images.double(), labels, ids, source, 3, loss="ce", mode=mode, kept_steps=2)
    x, noise = images.double().requires_grad_(), source(ids, 3)
    logits = purify(purifier, x, noise).flatten(1) @ weights.double()
    total = log_odds(logits, labels) + 0.7 * deviation_of(purifier, x, noise)
    (slope,) = torch.autograd.grad(total.sum(), x)
    torch.testing.assert_close(found[0], total.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(found[1], slope, rtol=1e-8, atol=1e-12)
    assert torch.equal(found[2], logits.argmax(dim=1))


def test_the_deviation_of_one_step_is_that_of_a_hand(
    schedule: Schedule, diffusion: Callable[..., Purifier], images: Tensor
) -> None:
    """A denoiser that predicts no noise gives u' = u + sqrt((1 - abar) / abar) n: the mean square of that distance."""
    silent = Denoiser(lambda u, level: 0.0 * u, schedule)
    purifier = chain(diffusion, silent, sampler="one_step")
    defence = DeviatedDefence(purifier, lambda x: torch.stack([0.0 * x.flatten(1)[:, 0]] * 2, dim=1), 7, weight=2.0)
    alpha_bar, source = purifier.table[0].level.alpha_bar, FIXED
    values, _, _ = defence.loss_gradient(
        images, torch.zeros(7, dtype=torch.long), range(7), source, 0, loss="margin", mode="replay", kept_steps=0
    )
    noise = source(range(7)).normal(FORWARD).flatten(1)
    expected = 2.0 * (1 - alpha_bar) / alpha_bar * noise.square().mean(dim=1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_without_weight_it_is_projected_gradient_descent(
    curved: Denoiser, diffusion: Callable[..., Purifier], images: Tensor, weights: Tensor
) -> None:
    defence = Defence(chain(diffusion, curved), lambda x: x.flatten(1) @ weights, 4)
    labels, ids = torch.arange(7) % 2, list(range(7))
    plain = defence.loss_gradient(images, labels, ids, FRESH, 0, loss="ce", mode="replay", kept_steps=0)
    deviated = DeviatedDefence(defence.purifier, defence.classifier, 4).loss_gradient(
        images, labels, ids, FRESH, 0, loss="ce", mode="replay", kept_steps=0
    )
    for one, other in zip(plain, deviated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_more_weight_drives_the_states_further_apart(
    curved: Denoiser, diffusion: Callable[..., Purifier], images: Tensor, weights: Tensor
) -> None:
    purifier = chain(diffusion, curved)
    defence = Defence(purifier, lambda x: 0.0 * x.flatten(1) @ weights, 4)
    labels, noise = torch.zeros(7, dtype=torch.long), FIXED(range(7))
    deviations = [deviation_of(purifier, images, noise)]
    problem = problem_of(defence, images, labels, "linf", 0.1, source=FIXED)
    deviations.append(deviation_of(purifier, diffattack_attack(problem, PGD_20, 1.0).adversarial, noise))
    assert (deviations[1] > 1.05 * deviations[0]).all()


def test_only_diffusion_states_deviate(
    images: Tensor, weights: Tensor, schedule: Schedule, diffusion: Callable[..., Purifier]
) -> None:
    @dataclass(frozen=True)
    class Other:
        num_steps: int = 2

        def start(self, images: Tensor, noise: Noise) -> Tensor:
            return images

        def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
            return state

        def finish(self, state: Tensor) -> Tensor:
            return state

    defence = Defence(Other(), lambda x: x.flatten(1) @ weights, 4)
    with pytest.raises(ValueError, match="expected a purifier of kind diffusion, got Other"):
        diffattack_attack(problem_of(defence, images, torch.zeros(7, dtype=torch.long), "linf", 0.1), PGD_20, 1.0)
    defence = Defence(chain(diffusion, exact(schedule, FIXED(range(7)))), lambda x: x.flatten(1) @ weights, 4)
    with pytest.raises(ValueError, match="expected gradient replay or autograd"):
        diffattack_attack(
            problem_of(defence, images, torch.zeros(7, dtype=torch.long), "linf", 0.1),
            replace(PGD_20, gradient="bpda"), 1.0,
        )  # fmt: skip
