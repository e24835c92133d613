"""The control of an attack: random noise of the very size of every image's perturbation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from purification.balls import NORMS
from purification.matching import matched
from purification.threat import ThreatModel

EPSILON = {"linf": 0.1, "l2": 1.0, "l1": 3.0}
Numbers = Callable[..., Tensor]


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    """Images with many black and white pixels, where perturbations are clipped."""
    return (2.0 * random_tensor(20, 1, 8, 8) - 0.5).clamp(0.0, 1.0)


@pytest.fixture
def normal(random_tensor: Numbers) -> Tensor:
    return random_tensor(20, 1, 8, 8, seed=1, normal=True)


def attacked(images: Tensor, random_tensor: Numbers, norm: str) -> Tensor:
    """Perturbations of every size from none to the budget."""
    direction = NORMS[norm].unit(random_tensor(20, 1, 8, 8, seed=2, normal=True))
    scale = torch.linspace(0, EPSILON[norm], 20).view(-1, 1, 1, 1)
    return ThreatModel(norm, EPSILON[norm]).project(images + scale * direction, images)


@pytest.mark.parametrize("norm", sorted(EPSILON))
def test_every_image_is_perturbed_as_much_as_by_the_attack(
    images: Tensor, normal: Tensor, random_tensor: Numbers, norm: str
) -> None:
    adversarial = attacked(images, random_tensor, norm)
    control = matched(adversarial, images, normal, norm=norm, epsilon=EPSILON[norm])
    sizes = [NORMS[norm].size(x - images).float() for x in (adversarial, control)]
    torch.testing.assert_close(sizes[1], sizes[0], rtol=1e-5, atol=1e-6)
    assert float(control.min()) >= 0 and float(control.max()) <= 1
    assert torch.equal(control[0], images[0])
    ThreatModel(norm, EPSILON[norm]).check(control, images)


@pytest.mark.parametrize("norm", sorted(EPSILON))
def test_the_control_knows_nothing_of_the_direction_of_the_attack(
    images: Tensor, normal: Tensor, random_tensor: Numbers, norm: str
) -> None:
    adversarial = attacked(images, random_tensor, norm)
    control = matched(adversarial, images, normal, norm=norm, epsilon=EPSILON[norm])
    flipped = matched(2 * images - adversarial, images, normal, norm=norm, epsilon=EPSILON[norm])
    torch.testing.assert_close(control, flipped, rtol=0, atol=1e-6)
    cosine = torch.cosine_similarity((adversarial - images)[5:].flatten(1), (control - images)[5:].flatten(1))
    assert float(cosine.mean().abs()) < 0.4  # pixels at the edge of the box can go one way only


def test_at_the_whole_budget_it_is_the_random_control_itself(images: Tensor, normal: Tensor) -> None:
    threat = ThreatModel("linf", 0.1)
    control = matched(threat.project(images + 0.3, images), images, normal, norm="linf", epsilon=0.1)
    assert torch.equal(control, threat.random(normal, images))
