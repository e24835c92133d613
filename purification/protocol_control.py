"""Control experiment: evaluation protocols on a defence whose robust accuracy is known exactly.

The defence is right with probability p on any input, whatever the perturbation, and its gradient is useless; its robust
accuracy is p. A protocol that reports something else reports itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from purification import flawed_protocols as flawed
from purification import statistics
from purification.attacks import PGD, AutoAttack, Problem, auto_attack, pgd_attack
from purification.defence import Defence
from purification.journal import NO_JOURNAL
from purification.knowledge import shared_noise
from purification.noise import FORWARD, Noise, NoiseSource
from purification.purifiers import FunctionPurifier
from purification.statistics import Array, Estimate
from purification.threat import ThreatModel

CLASSES, SHAPE = 10, (1, 4, 4)


@dataclass(frozen=True)
class Control:
    """Sizes of the experiment.

    probability   p, of being right on any input
    images        n
    steps, draws  of the attacks; draws averaged per step where the noise is not known
    fresh         draws that judge
    worst_of, votes, pool   N of Wor_N, K of MV_K, and draws of the pool
    iterates      numbers of iterates at which "stop at the first success" is asked
    candidates    adversarial images per image that a flawed selection chooses from
    """

    seed: int
    probability: float
    images: int
    epsilon: float
    steps: int
    draws: int
    fresh: int
    worst_of: int
    votes: int
    pool: int
    iterates: tuple[int, ...]
    candidates: int


@dataclass(frozen=True)
class Reported:
    """What one protocol reports, and what is true of its estimand."""

    protocol: str
    flawed: bool
    estimand: str
    truth: float
    reported: Estimate


def fake_defence(probability: float, batch_size: int) -> tuple[Defence, Tensor]:
    """The defence, and the images (CLASSES, C, H, W) of its classes: a bright pixel says which class an image is of.

    The purifier writes a uniform number into the last pixel; the classifier is right where it is below a threshold. A
    faint linear part gives attacks a gradient to follow, which has nothing to do with being right.
    """
    threshold = 2.0 * probability - 1.0
    slopes = torch.linspace(-1, 1, CLASSES * 16).view(16, CLASSES).sin()

    def purify(images: Tensor, noise: Noise) -> Tensor:
        chance = noise.uniform(FORWARD).flatten(1)[:, -1:]
        return torch.cat([images.flatten(1)[:, :-1], chance], dim=1).view_as(images)

    def classify(images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        true = pixels[:, :CLASSES].argmax(dim=1)
        said = torch.where(pixels[:, -1] < threshold, true, (true + 1) % CLASSES)
        return 4.0 * torch.eye(CLASSES)[said] + 0.01 * pixels[:, :-1] @ slopes[:-1]

    images = torch.full((CLASSES, 16), 0.5)
    images[:, :CLASSES] = 0.1 + 0.8 * torch.eye(CLASSES)
    return Defence(FunctionPurifier(purify), classify, batch_size), images.view(CLASSES, *SHAPE)


@dataclass(frozen=True)
class Bench:
    """The defence with its images, and an attack that runs on them."""

    control: Control
    defence: Defence
    images: Tensor
    labels: Tensor
    ids: list[int]

    def noise(self, role: str, knowledge: str) -> NoiseSource:
        return shared_noise(NoiseSource(self.control.seed, role, SHAPE), knowledge=knowledge, pool=self.control.pool)

    def attacked(self, knowledge: str, steps: int, **changes: Any) -> Tensor:
        """Adversarial images of PGD with this knowledge, EOT where it leaves something to average over."""
        c, known = self.control, knowledge == "both"
        settings = PGD(
            steps=steps, step_size=2.5 / c.steps, random_start=False, loss="ce", gradient="replay",
            draws=1 if known else c.draws, redraw=not known, select="last", stop_when_broken=False,
            restarts=1,
        )  # fmt: skip
        return pgd_attack(self._problem(knowledge), replace(settings, **changes), NO_JOURNAL).adversarial

    def auto_attacked(self) -> Tensor:
        """Adversarial images of AutoAttack's `rand`, chosen on judging draws."""
        c = self.control
        settings = AutoAttack(
            version="rand", steps=c.steps, restarts=1, rho=0.75, momentum=0.75, gradient="replay",
            draws=c.draws, redraw=True,
        )  # fmt: skip
        return auto_attack(self._problem("none"), settings).adversarial

    def _problem(self, knowledge: str) -> Problem:
        return Problem(
            self.defence, self.images, self.labels, self.ids, threat=ThreatModel("linf", self.control.epsilon),
            source=self.noise("attack", knowledge), start=self.noise("start", "none"),
            judge=self.noise("judge", knowledge), judges=self.control.draws, memory=1e9,
        )  # fmt: skip

    def predictions(self, images: Tensor, knowledge: str, draws: int, role: str = "evaluation") -> Array:
        """(n, draws) labels under this knowledge."""
        source = self.noise(role, knowledge)
        return np.stack([self.defence.predict(images, self.ids, source, d).numpy() for d in range(draws)], axis=1)

    def mean(self, values: Array) -> Estimate:
        return statistics.rate(values)


def bench(control: Control) -> Bench:
    defence, classes = fake_defence(control.probability, min(control.images, 500))
    labels = torch.arange(control.images) % CLASSES
    return Bench(control, defence, classes[labels], labels, list(range(control.images)))


def offered(on: Bench) -> list[Reported]:
    """The protocols of this project: images chosen on the attack's draws are judged on others, or on what is known."""
    c, labels = on.control, on.labels.numpy()
    found = []
    made = {
        "PGD + EOT": on.attacked("none", c.steps),
        "AutoAttack rand": on.auto_attacked(),
        "PGD, noise known": on.attacked("both", c.steps),
    }
    for name, images in made.items():
        found += _on_fresh_draws(on, name, on.predictions(images, "none", c.fresh))
    for knowledge, draws in (("forward", 1), ("semi", c.pool), ("both", 1)):
        changes = {"select": "best", "stop_when_broken": True} if knowledge == "both" else {}
        seen = on.predictions(on.attacked(knowledge, c.steps, **changes), knowledge, draws)
        right = (seen == labels[:, None]).mean(axis=1)
        estimate = on.mean(right) if draws > 1 else statistics.wilson(int(right.sum()), len(right))
        estimand = "fixed" if knowledge == "both" else knowledge
        found.append(Reported(f"PGD, knowledge {knowledge}", False, estimand, c.probability, estimate))
    return found


def _on_fresh_draws(on: Bench, name: str, seen: Array) -> list[Reported]:
    c, labels = on.control, on.labels.numpy()
    right, p, vote = seen == labels[:, None], c.probability, {"subsets": 20, "seed": c.seed}
    estimates = {
        "avg": (p, statistics.average_robustness(right)),
        "wor_1": (p, statistics.worst_of(right, 1)),
        "mv_1": (p, statistics.majority_vote(seen, labels, 1, **vote)),
        f"wor_{c.worst_of}": (p**c.worst_of, statistics.worst_of(right, c.worst_of)),
        f"mv_{c.votes}": (_majority(c.votes, p), statistics.majority_vote(seen, labels, c.votes, **vote)),
    }
    return [
        Reported(f"{name}, fresh draws", False, estimand, truth, on.mean(values))
        for estimand, (truth, values) in estimates.items()
    ]


def flawed_ones(on: Bench) -> list[Reported]:
    """What published protocols report of the same defence; their images are no worse than the clean ones."""
    c, p = on.control, on.control.probability
    source, most = on.noise("flawed", "none"), max(c.iterates)
    candidates = [on.images, *(on.attacked("none", c.steps, loss=loss) for loss in ("ce", "margin"))][: c.candidates]
    path = _iterates(on, most)
    arguments = (on.labels, on.ids, source)
    single = flawed.flawed_single_draw_selection(on.defence, candidates, *arguments)
    lowest = flawed.flawed_minimum_of_estimates(on.defence, candidates, *arguments, draws=c.fresh)
    found = [
        Reported("single-draw selection, as AutoAttack rand", True, "one draw", p, _rate(single)),
        Reported("minimum of noisy estimates, as ADDT's fixed AutoAttack", True, "avg", p, on.mean(lowest.numpy())),
    ]
    for count in c.iterates:
        stopped = flawed.flawed_stop_at_first_success(on.defence, path[:count], *arguments, votes=1)
        found.append(Reported(f"stop at the first success, {count} iterates", True, "one draw", p, _rate(stopped)))
    majority = flawed.flawed_stop_at_first_success(on.defence, path, *arguments, votes=10)
    name = f"the same with the majority of 10 draws, {most} iterates"
    return [*found, Reported(name, True, "mv_10", _majority(10, p), _rate(majority))]


def predicted(control: Control) -> dict[str, float]:
    """What the flawed protocols must report of this defence, by the binomial distribution."""
    p, m, d = control.probability, control.candidates, control.fresh
    at_least = [float(binom.sf(k - 1, d, p)) ** m for k in range(d + 1)]
    names = {f"stop at the first success, {count} iterates": p**count for count in control.iterates}
    most = max(control.iterates)
    return {
        "single-draw selection, as AutoAttack rand": p**m,
        "minimum of noisy estimates, as ADDT's fixed AutoAttack": sum(at_least[1:]) / d,
        **names,
        f"the same with the majority of 10 draws, {most} iterates": _majority(10, p) ** most,
    }


def _majority(votes: int, p: float) -> float:
    return sum(comb(votes, k) * p**k * (1 - p) ** (votes - k) for k in range(votes // 2 + 1, votes + 1))


def _iterates(on: Bench, count: int) -> Sequence[Tensor]:
    """The images of `count` steps of one-draw PGD."""
    threat, source, x, path = ThreatModel("linf", on.control.epsilon), on.noise("attack", "none"), on.images, []
    for step in range(count):
        slope = on.defence.loss_gradient(
            x, on.labels, on.ids, source, step, loss="ce", mode="replay", kept_steps=0
        )[1]  # fmt: skip
        x = threat.ascend(x, slope, 2.5 / on.control.steps * on.control.epsilon, on.images)
        path.append(x)
    return path


def _rate(survivors: Tensor) -> Estimate:
    return statistics.wilson(int(survivors.sum()), len(survivors))
