"""The mean over draws: that of the cross-entropy where it can be computed, and no zero where it cannot."""

from __future__ import annotations

import pytest
import torch
from attack_cases import Numbers
from torch import Tensor

from purification.attacks.averaging import Averages, add_draw, forget_draws, log_cross_entropy, no_draws
from purification.defence import cross_entropy, log_odds, margin

DRAWS, IMAGES, CLASSES = 5, 6, 4
SHAPE = (1, 3, 3)


def problem(random_tensor: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, C, H, W), and one linear classifier per draw (draws, pixels, classes), in float64; labels."""
    images = random_tensor(IMAGES, *SHAPE, dtype=torch.float64)
    weights = 3 * random_tensor(DRAWS, 9, CLASSES, seed=1, normal=True, dtype=torch.float64)
    return images, weights, torch.arange(IMAGES) % CLASSES


def averaged(images: Tensor, weights: Tensor, labels: Tensor, loss: str, scale: float = 1.0) -> Averages:
    """What an attack averages over the draws."""
    function = {"ce": log_odds, "margin": margin}[loss]
    at = Averages(**{name: value.to(images.dtype) for name, value in no_draws(images).items()})
    for draw in range(len(weights)):
        leaf = images.clone().requires_grad_()
        values = function(scale * leaf.flatten(1) @ weights[draw], labels)
        (slopes,) = torch.autograd.grad(values.sum(), leaf)
        add_draw(at, torch.arange(len(images)), loss, values.detach(), slopes, len(weights))
    return at


def test_the_gradient_is_that_of_the_mean_cross_entropy(random_tensor: Numbers) -> None:
    """Up to a positive factor per image; the loss is its logarithm."""
    images, weights, labels = problem(random_tensor)
    at = averaged(images, weights, labels, "ce")
    leaf = images.clone().requires_grad_()
    mean = torch.stack([cross_entropy(leaf.flatten(1) @ w, labels) for w in weights]).mean(dim=0)
    (slopes,) = torch.autograd.grad(mean.sum(), leaf)
    cosine = torch.cosine_similarity(at.slopes.flatten(1), slopes.flatten(1))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-12)
    torch.testing.assert_close(at.losses, mean.detach().log())


def test_the_mean_is_that_of_the_gradients_for_other_losses(random_tensor: Numbers) -> None:
    images, weights, labels = problem(random_tensor)
    at = averaged(images, weights, labels, "margin")
    parts = [averaged(images, weights[[draw]], labels, "margin") for draw in range(DRAWS)]
    torch.testing.assert_close(at.slopes, torch.stack([part.slopes for part in parts]).mean(dim=0))
    torch.testing.assert_close(at.losses, torch.stack([part.losses for part in parts]).mean(dim=0))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [3, 4, 1, 0, 2]], ids=str)
def test_the_order_of_the_draws_means_nothing(random_tensor: Numbers, order: list[int]) -> None:
    images, weights, labels = problem(random_tensor)
    one, other = (averaged(images, w, labels, "ce") for w in (weights, weights[order]))
    torch.testing.assert_close(one.slopes, other.slopes)
    torch.testing.assert_close(one.losses, other.losses)


def test_of_one_draw_it_is_the_gradient_of_the_log_odds(random_tensor: Numbers) -> None:
    images, weights, labels = problem(random_tensor)
    at = averaged(images, weights[:1], labels, "ce")
    leaf = images.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(log_odds(leaf.flatten(1) @ weights[0], labels).sum(), leaf)
    assert torch.equal(at.slopes, slopes)


@pytest.mark.parametrize("scale", [100.0, 1e4, 1e30])
def test_where_every_draw_is_certain_the_least_certain_one_leads(random_tensor: Numbers, scale: float) -> None:
    """In float32 the gradient of the cross-entropy is zero there."""
    images, weights, _ = problem(random_tensor)
    images, weights = images.float(), weights.float()
    labels = (images.flatten(1) @ weights.mean(dim=0)).argmax(dim=1)
    weights = weights.mean(dim=0) + 0.05 * weights
    right = torch.stack([margin(images.flatten(1) @ w, labels) for w in weights])
    assert float(right.max()) < -1e-3
    at = averaged(images, weights, labels, "ce", scale)
    assert torch.isfinite(at.losses).all() and torch.isfinite(at.slopes).all()
    leaf = images.clone().requires_grad_()
    best = right.argmax(dim=0)
    logits = torch.stack([scale * leaf[i].flatten() @ weights[best[i]] for i in range(IMAGES)])
    (slopes,) = torch.autograd.grad(log_odds(logits, labels).sum(), leaf)
    unit = slopes.flatten(1) / slopes.flatten(1).abs().amax(dim=1, keepdim=True)
    found = at.slopes.flatten(1) / at.slopes.flatten(1).abs().amax(dim=1, keepdim=True)
    cosine = torch.cosine_similarity(found, unit)
    assert float(cosine.min()) > (0.7 if scale == 100.0 else 0.999)


def test_forgetting_leaves_nothing_of_the_last_evaluation(random_tensor: Numbers) -> None:
    images, weights, labels = problem(random_tensor)
    at = averaged(images, weights, labels, "ce")
    forget_draws(at)
    for name, value in no_draws(images).items():
        assert torch.equal(vars(at)[name], value.to(images.dtype)), name


def test_the_logarithm_of_the_cross_entropy_has_no_lowest_value() -> None:
    values = torch.tensor([-1e6, -200.0, -15.1, -14.9, 0.0, 3.0, 500.0])
    expected = [-1e6, -200.0, -15.1, -14.9, -0.36651, 1.11468, 6.21461]
    assert log_cross_entropy(values).tolist() == pytest.approx(expected, rel=1e-4)
    assert log_cross_entropy(values).diff().min() > 0
