"""An independent implementation of AutoAttack (its authors' code, packaged as pyautoattack) on the same defences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from attack_cases import IDENTITY, STANDARD, Setting
from pyautoattack import AutoAttack as Reference
from torch import Tensor
from trained_networks import SHAPE, digit_classifier, digit_denoiser, digits

from purification.attacks import AutoAttack
from purification.defence import Defence
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier, Purifier, make_purifier, purify
from purification.threat import ThreatModel

FIXED = NoiseSource(seed=0, role="fixed", shape=SHAPE)
BUDGETS = {"linf": 0.1, "l2": 0.6, "l1": 2.0}
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def _diffusion(**settings: Any) -> Purifier:
    fixed = {"kind": "diffusion", "forward_noise": True, "clip": "none", "clamp_output": False}
    return make_purifier({**fixed, **settings}, digit_denoiser(), SHAPE, torch.device("cpu"))


def _tanh() -> Purifier:
    return FunctionPurifier(lambda x, noise: torch.tanh(2 * (x - 0.5 + 0.15 * noise.normal("forward"))) * 0.5 + 0.5)


PURIFIERS: dict[str, Callable[[], Purifier]] = {
    "none": lambda: IDENTITY,
    "noise": _tanh,
    "one step": lambda: _diffusion(sampler="one_step", t_star=150),
    "ddpm": lambda: _diffusion(sampler="ddpm", variance="fixed_small", t_star=150, steps=3),
}


def case_of(purifier: str, count: int) -> Setting:
    """The first test images; all have the noise of image 0, so that both implementations see one function."""
    images, labels = digits()
    defence = Defence(PURIFIERS[purifier](), digit_classifier(), count)
    return Setting(defence, images[:count], labels[:count], [0] * count)


def model(case: Setting) -> Callable[[Tensor], Tensor]:
    return lambda x: case.defence.classifier(purify(case.defence.purifier, x, FIXED([0] * len(x), 0)))


def standing(case: Setting, adversarial: Tensor) -> Tensor:
    """Whether each image is still classified rightly."""
    with torch.no_grad():
        right: Tensor = model(case)(adversarial).argmax(dim=1) == case.labels
    return right


def published(norm: str, steps: int, queries: int) -> AutoAttack:
    """AutoAttack's settings of `standard` for a norm, with other numbers of steps and queries."""
    sparse = norm == "l1"
    return replace(
        STANDARD, steps=steps, queries=queries, rescale=False, fab_targets=9, restarts=5 if sparse else 1,
        targets=5 if sparse else 9, radii=(3.0, 2.0, 1.0) if sparse else (1.0,),
    )  # fmt: skip


def ours(case: Setting, settings: Any, norm: str) -> Tensor:
    """What is left standing by an attack of this project."""
    noise = {"source": FIXED, "start": replace(FIXED, role="start"), "judge": FIXED, "memory": 1e9}
    out = case.attacked(settings, norm, BUDGETS[norm], **noise).adversarial
    ThreatModel(norm, BUDGETS[norm]).check(out, case.images)
    return standing(case, out)


def _shorten(attack: Any, steps: int) -> None:
    """Fewer iterations of its Auto-PGD, whose checkpoints are computed when it is made."""
    attack.n_iter = attack.n_iter_orig = steps
    attack.n_iter_2, attack.n_iter_min, attack.size_decr = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))


def theirs(
    case: Setting, norm: str, steps: int, queries: int, attacks: Sequence[str] = (), restarts: int | None = None
) -> Tensor:
    """What is left standing by `standard` of the reference, or by some attacks without larger balls."""
    chosen: dict[str, Any] = {"version": "custom", "attacks": list(attacks)} if attacks else {"version": "standard"}
    with torch.random.fork_rng():
        reference = Reference(model(case), eps=BUDGETS[norm], norm=NAMES[norm], seed=0, **chosen)
        _shorten(reference.apgd, steps)
        _shorten(reference.apgd_targeted, steps)
        reference.fab.n_iter, reference.square.n_queries = steps, queries
        if restarts is not None:
            reference.apgd.n_restarts = restarts
        adversarial, _ = reference.run_standard_evaluation(case.images, case.labels, batch_size=len(case.images))
    return standing(case, adversarial)


def share(values: Tensor) -> float:
    return float(values.double().mean())
