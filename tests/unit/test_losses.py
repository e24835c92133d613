"""Losses of attacks: known values, exact gradients, and the same attack whatever multiple the logits are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_cases import AUTO_PGD, BASE, FIXED, IDENTITY, Numbers, Setting
from torch import Tensor
from trained_networks import SHAPE, digit_classifier, digits

from purification.balls import normalised
from purification.defence import (
    LOSSES,
    TARGETED_LOSSES,
    Defence,
    cross_entropy,
    log_odds,
    loss_of,
    margin,
    scaled_log_odds,
)

SCALES = (1.0, 10.0, 100.0, 1000.0)
COUNT = 60
BUDGETS = {"linf": 0.1, "l2": 0.7, "l1": 2.5}
SOURCE = replace(FIXED, shape=SHAPE)


def wrong_logits(count: int, classes: int, seed: int, random_tensor: Numbers) -> tuple[Tensor, Tensor]:
    """Logits (count, classes) in float64 and labels."""
    logits = 3.0 * random_tensor(count, classes, seed=seed, normal=True, dtype=torch.float64)
    return logits, torch.arange(count) % classes


# --- values and gradients


def test_the_log_odds_are_those_of_being_wrong(random_tensor: Numbers) -> None:
    logits, labels = wrong_logits(40, 7, 0, random_tensor)
    right = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(log_odds(logits, labels), torch.log((1 - right) / right))


def test_the_log_odds_grow_with_the_cross_entropy(random_tensor: Numbers) -> None:
    logits, labels = wrong_logits(40, 7, 1, random_tensor)
    expected = torch.nn.functional.softplus(log_odds(logits, labels))
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def slope_of(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
    return slope


def test_the_gradient_of_the_log_odds_points_where_that_of_the_cross_entropy_does(random_tensor: Numbers) -> None:
    """In float64, where the cross-entropy's own gradient does not underflow; it is 1 - p_y times as long."""
    logits, labels = wrong_logits(40, 7, 2, random_tensor)
    wrong = 1 - logits.softmax(dim=1).gather(1, labels[:, None])
    torch.testing.assert_close(wrong * slope_of(log_odds, logits, labels), slope_of(cross_entropy, logits, labels))


def test_the_gradient_of_the_log_odds_does_not_vanish_where_the_cross_entropy_s_does() -> None:
    logits, labels = torch.tensor([[300.0, 100.0, 0.0]]), torch.tensor([0])
    assert not slope_of(cross_entropy, logits, labels).any()
    torch.testing.assert_close(slope_of(log_odds, logits, labels), torch.tensor([[-1.0, 1.0, 0.0]]))


@pytest.mark.parametrize("loss", [log_odds, scaled_log_odds])
def test_with_two_classes_both_are_the_margin(loss: Callable[[Tensor, Tensor], Tensor], random_tensor: Numbers) -> None:
    logits, labels = wrong_logits(20, 2, 3, random_tensor)
    torch.testing.assert_close(loss(logits, labels), margin(logits, labels))


def test_the_scaled_log_odds_are_those_of_the_logits_over_a_quarter_of_their_gap(random_tensor: Numbers) -> None:
    logits, labels = wrong_logits(40, 7, 4, random_tensor)
    ranked = logits.sort(dim=1, descending=True).values
    gap = 0.25 * (ranked[:, 0] - ranked[:, 1])
    expected = gap * log_odds(logits / gap[:, None], labels)
    torch.testing.assert_close(scaled_log_odds(logits, labels), expected)
    fixed = slope_of(lambda z, y: gap * log_odds(z / gap[:, None], y), logits, labels)
    torch.testing.assert_close(slope_of(scaled_log_odds, logits, labels), fixed)


@pytest.mark.parametrize("logits", [[[1.0, 1.0, 1.0]], [[2.0, 2.0, -3.0]], [[0.0, 0.0, 0.0]]], ids=str)
def test_equal_logits_give_the_margin_and_a_finite_gradient(logits: list[list[float]]) -> None:
    tensor, labels = torch.tensor(logits), torch.tensor([0])
    torch.testing.assert_close(scaled_log_odds(tensor, labels), margin(tensor, labels))
    assert torch.isfinite(slope_of(scaled_log_odds, tensor, labels)).all()


@pytest.mark.parametrize("loss", [*LOSSES, *TARGETED_LOSSES])
def test_gradients_are_those_of_finite_differences(loss: str, random_tensor: Numbers) -> None:
    """Of the scaled log-odds with the scale held, as its gradient takes it."""
    logits, labels = wrong_logits(10, 6, 5, random_tensor)
    targets = (labels + 2) % 6 if loss in TARGETED_LOSSES else None

    def value(z: Tensor) -> Tensor:
        if loss == "scaled_ce":
            ranked = logits.sort(dim=1, descending=True).values
            gap = 0.25 * (ranked[:, 0] - ranked[:, 1])
            return gap * log_odds(z / gap[:, None], labels)
        return loss_of(loss, z, labels, targets)

    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (leaf,))


# --- the scale of the logits


def scaled(scale: float) -> Setting:
    """The undefended classifier with all logits multiplied: every decision is the same."""
    images, labels = digits()
    network = digit_classifier()
    defence = Defence(IDENTITY, lambda x: scale * network(x), COUNT)
    return Setting(defence, images[:COUNT], labels[:COUNT], list(range(COUNT)))


def broken(scale: float, settings: Any, norm: str) -> Tensor:
    """Whether each image is misclassified after the attack."""
    case = scaled(scale)
    changes = {"source": SOURCE, "start": replace(SOURCE, role="start"), "judge": SOURCE}
    out = case.attacked(settings, norm, BUDGETS[norm], **changes).adversarial
    return case.defence.predict(out, case.ids, SOURCE, 0) != case.labels


@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("loss", ["scaled_ce", "margin", "dlr"])
def test_the_same_images_break_at_every_scale_of_the_logits(loss: str, norm: str) -> None:
    pgd = replace(BASE, loss=loss, stop_when_broken=True)
    first = broken(1.0, pgd, norm)
    assert 0.1 < float(first.double().mean()) < 0.95
    for scale in (*SCALES[1:], 1e6, 1e25):
        assert torch.equal(broken(scale, pgd, norm), first)


@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("attack", ["pgd", "apgd"])
def test_cross_entropy_breaks_as_many_at_every_scale_of_the_logits(attack: str, norm: str) -> None:
    """Its temperature is that of the logits, so that larger ones have another direction, but none that is zero."""
    settings = replace(BASE, stop_when_broken=True) if attack == "pgd" else AUTO_PGD
    share = [float(broken(scale, settings, norm).double().mean()) for scale in (*SCALES, 1e6, 1e25)]
    assert min(share) > 0.1
    assert max(share) - min(share) <= 0.1


def test_lengths_of_huge_and_of_tiny_gradients_are_one() -> None:
    """Their squares overflow and vanish in float32."""
    vectors = torch.tensor([[3e30, -4e30], [3e-30, -4e-30], [3.0, -4.0], [0.0, 0.0]])
    expected = torch.tensor([[0.6, -0.8], [0.6, -0.8], [0.6, -0.8], [0.0, 0.0]])
    torch.testing.assert_close(normalised(vectors, 2), expected)
    torch.testing.assert_close(normalised(vectors, 1).abs().sum(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
