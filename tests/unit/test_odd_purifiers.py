"""Purifiers that hide from the attack are marked, or what is reported of them is true; honest ones stay unmarked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import odd_purifiers
import pytest
import torch
from evaluations import Evaluation, Laboratory
from odd_purifiers import BUDGETS, DECLARED, HIDING, HONEST
from torch import Tensor, nn
from trained_networks import SHAPE, digit_classifier, digits

from purification.data import Dataset
from purification.purifiers import FunctionPurifier, Purifier, ResizedPurifier, make_purifier

IMAGES = 100
BUDGET = 0.1
NEAR = 0.02  # of the truth
CPU = torch.device("cpu")
Make = Callable[[], Purifier]


def odd(name: str) -> Purifier:
    """A purifier of the file, made as the workflow makes one of kind python."""
    entry = {"kind": "python", "path": odd_purifiers.__file__, "factory": "make_purifier", "params": {"name": name}}
    return make_purifier(entry, None, SHAPE, CPU)


def undefended() -> Purifier:
    return make_purifier({"kind": "identity"}, None, SHAPE, CPU)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    images, labels = digits()
    dataset = Dataset(images, labels, {"test": list(range(IMAGES))})
    return Laboratory(dataset, digit_classifier(), tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def transferred(laboratory: Laboratory) -> Callable[[float], Path]:
    """Budget -> images of the transferred attack on the undefended classifier."""
    made: dict[float, Path] = {}

    def images(epsilon: float) -> Path:
        if epsilon not in made:
            found = laboratory.attacked(undefended, "transfer", epsilon)
            made[epsilon] = found.rename(found.with_name(f"transfer_{epsilon}.safetensors"))
        return made[epsilon]

    return images


def evaluated(laboratory: Laboratory, transferred: Callable[[float], Path], name: str) -> Evaluation:
    epsilon = BUDGETS.get(name, BUDGET)
    return laboratory.evaluate(partial(odd, name), transferred(epsilon), epsilon, approximate=name in DECLARED)


def is_told(laboratory: Laboratory, make: Make, found: Evaluation, epsilon: float) -> bool:
    """Whether an evaluation is marked, or reports the truth."""
    if found.verdict.why:
        return True
    return float(found.known.worst.mean()) - laboratory.strongest(make, found.known, epsilon) <= NEAR


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_is_marked_or_known(laboratory: Laboratory, transferred: Callable[[float], Path], name: str) -> None:
    found = evaluated(laboratory, transferred, name)
    assert is_told(laboratory, partial(odd, name), found, BUDGETS.get(name, BUDGET)), found.known.worst.mean()


@pytest.mark.parametrize("name", [name for name in HONEST if name != "nearest_image"])
def test_what_is_honest_is_not_marked(laboratory: Laboratory, transferred: Callable[[float], Path], name: str) -> None:
    assert evaluated(laboratory, transferred, name).verdict.why == ()


def test_the_nearest_image_is_marked_for_its_beaten_base_attack_alone(
    laboratory: Laboratory, transferred: Callable[[float], Path]
) -> None:
    """Its gradient is right; other images of its training set are nearer in directions that it does not show."""
    found = evaluated(laboratory, transferred, "nearest_image")
    assert all(reason.startswith("other attacks break") for reason in found.verdict.why)


REASONS = {
    "neighbours_mixed": "its result depends on the other images of the batch",
    "batch_statistics": "its result depends on the other images of the batch",
    "global_noise": "the same image and noise give different results",
    "memory": "the same image and noise give different results",
    "blurred_while_recorded": "it is another function while gradients are recorded",
    "blurred_when_differentiated": "it is another function while gradients are recorded",
    "other_noise_while_recorded": "it is another function while gradients are recorded",
    "reversed_by_a_hook": "the gradient is not the derivative of what runs",
    "wrong_backward": "the gradient is not the derivative of what runs",
    "mostly_detached": "the gradient is not the derivative of what runs",
    "hashed_noise": "the gradient is not the derivative of what runs",
    "rounding_detached": "the gradient does not foresee what a quarter of the budget changes",
    "fast_sine": "the gradient does not foresee what a quarter of the budget changes",
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_the_right_one(laboratory: Laboratory, transferred: Callable[[float], Path], name: str) -> None:
    assert REASONS[name] in evaluated(laboratory, transferred, name).verdict.why


def test_what_cannot_be_measured_is_said_and_not_marked(
    laboratory: Laboratory, transferred: Callable[[float], Path]
) -> None:
    single = evaluated(laboratory, transferred, "float32_only").verdict
    (reason,) = single.unmeasured
    assert single.why == () and "finite differences were taken in float32" in reason
    none = evaluated(laboratory, transferred, "levels_without_derivative")
    (reason,) = none.verdict.unmeasured
    assert none.verdict.why == () and reason.startswith("nothing about a gradient")


def test_the_same_steps_undeclared_are_marked(laboratory: Laboratory, transferred: Callable[[float], Path]) -> None:
    make = partial(odd, "declared_levels")
    found = laboratory.evaluate(make, transferred(BUDGET), BUDGET, approximate=False)
    assert found.verdict.why == ("the gradient is not the derivative of what runs",)


@pytest.mark.parametrize("scale", [10.0, 100.0, 1000.0])
def test_large_logits_hide_nothing(laboratory: Laboratory, scale: float) -> None:
    """Every decision is the same, and so is what is known of them, or it is marked."""
    small, large = (replace(laboratory, classifier=Scaled(laboratory.classifier, each)) for each in (1.0, scale))
    found = {}
    for name, lab in {"small": small, "large": large}.items():
        transfer = lab.attacked(undefended, "transfer", BUDGET)
        found[name] = lab.evaluate(undefended, transfer, BUDGET)
    difference = found["large"].known.worst.mean() - found["small"].known.worst.mean()
    assert found["large"].verdict.why or difference <= NEAR


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return self.scale * logits


class Before(nn.Module):
    """A classifier that does something to its images first."""

    def __init__(self, function: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.function, self.network = function, network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.function(images))
        return logits


def permuted(images: Tensor, order: Tensor) -> Tensor:
    return images.flatten(1)[:, order].view_as(images)


ORDER = torch.randperm(64, generator=torch.Generator().manual_seed(0))
# Neither the identity's derivative nor images made against the undefended classifier say anything about these.
APART: dict[str, tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], Tensor], bool]] = {
    "levels inside the classifier": (lambda x: odd_purifiers.leaking_levels(x, None), lambda x: x, True),
    "levels of permuted pixels": (
        lambda x: permuted(x, ORDER.argsort()),
        lambda x: odd_purifiers.leaking_levels(permuted(x, ORDER), None),
        True,
    ),
    "permuted pixels": (lambda x: permuted(x, ORDER.argsort()), lambda x: permuted(x, ORDER), False),
}


@pytest.mark.parametrize("name", APART)
def test_what_hides_from_bpda_and_transfer_too_is_found_by_queries(laboratory: Laboratory, name: str) -> None:
    inside, function, hides = APART[name]
    network = Before(inside, laboratory.classifier) if inside else laboratory.classifier
    apart = replace(laboratory, classifier=network)
    transfer = apart.attacked(undefended, "transfer", BUDGET)
    found = apart.evaluate(lambda: FunctionPurifier(lambda x, noise: function(x)), transfer, BUDGET)
    assert bool(found.verdict.why) == hides, found.verdict


def test_a_mask_inside_a_resized_purifier_is_marked(
    laboratory: Laboratory, transferred: Callable[[float], Path]
) -> None:
    def make() -> Purifier:
        inner = FunctionPurifier(odd_purifiers.rounding_detached)
        return ResizedPurifier(inner, 12, SHAPE[1:])

    found = laboratory.evaluate(make, transferred(BUDGET), BUDGET)
    assert is_told(laboratory, make, found, BUDGET) and found.verdict.why
