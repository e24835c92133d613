"""A defence: losses with known values, and per-image results that do not depend on batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.defence import LOSSES, Defence, cross_entropy, margin
from purification.models.denoisers import Denoiser
from purification.noise import Noise, NoiseSource
from purification.purifiers import FunctionPurifier, Purifier, purify

SOURCE = NoiseSource(seed=0, role="fixed", shape=(1, 8, 8))
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 2, 1])
Numbers = Callable[..., Tensor]


@pytest.fixture
def defence(unet: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers) -> Defence:
    """Diffusion purification in front of a linear classifier."""
    weights = random_tensor(64, 4, seed=5, normal=True)
    return Defence(diffusion(unet), lambda images: images.flatten(1) @ weights, batch_size=4)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(6, 1, 8, 8)


IDS = [12, 3, 40, 5, 66, 7]
CLASSES = torch.tensor([0, 1, 2, 3, 0, 1])


def test_margin_is_the_best_other_logit_minus_the_true_one() -> None:
    assert margin(LOGITS, LABELS).tolist() == [-1.0, 2.0, 0.0]


def test_cross_entropy_is_written_out() -> None:
    expected = [
        math.log(sum(math.exp(z) for z in row)) - row[y] for row, y in zip(LOGITS.tolist(), [0, 2, 1], strict=True)
    ]
    assert cross_entropy(LOGITS, LABELS).tolist() == pytest.approx(expected, rel=1e-6)


def test_margin_is_positive_exactly_where_the_label_is_not_predicted(random_tensor: Numbers) -> None:
    logits, labels = random_tensor(500, 10, normal=True), torch.arange(500) % 10
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(dim=1) != labels)


def test_margin_leaves_the_logits_alone() -> None:
    before = LOGITS.clone()
    margin(LOGITS, LABELS)
    assert torch.equal(LOGITS, before)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("mode", ["autograd", "replay", "bpda"])
def test_loss_gradient_is_that_of_classifier_and_purifier_together(
    defence: Defence, images: Tensor, loss: str, mode: str
) -> None:
    options: dict[str, Any] = {"loss": loss, "mode": mode, "kept_steps": 1}
    values, slopes, predictions = defence.loss_gradient(images, CLASSES, IDS, SOURCE, 2, **options)
    leaf = images.clone().requires_grad_()
    purified = purify(defence.purifier, leaf, SOURCE(IDS, 2))
    expected = LOSSES[loss](defence.classifier(purified), CLASSES)
    by = purified if mode == "bpda" else leaf
    (slope,) = torch.autograd.grad(expected.sum(), by)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slopes, slope, rtol=1e-3, atol=1e-4)
    assert torch.equal(predictions, defence.predict(images, IDS, SOURCE, 2))


def test_prediction_is_the_class_of_the_purified_image(defence: Defence, images: Tensor) -> None:
    purified = defence.purify(images, IDS, SOURCE, 1)
    assert torch.equal(defence.predict(images, IDS, SOURCE, 1), defence.classifier(purified).argmax(dim=1))
    assert torch.equal(
        defence.logits(purified), torch.cat([defence.classifier(purified[:4]), defence.logits(purified[4:])])
    )


def test_results_of_an_image_ignore_its_companions_bit_for_bit(defence: Defence, images: Tensor) -> None:
    options: dict[str, Any] = {"loss": "ce", "mode": "replay", "kept_steps": 0}
    whole = defence.loss_gradient(images, CLASSES, IDS, SOURCE, 0, **options)
    purified = defence.purify(images, IDS, SOURCE, 0)
    for some in ([5, 0, 2, 4, 3, 1], [4], [1, 4]):
        ids = [IDS[i] for i in some]
        part = defence.loss_gradient(images[some], CLASSES[some], ids, SOURCE, 0, **options)
        assert all(torch.equal(a, b[some]) for a, b in zip(part, whole, strict=True))
        assert torch.equal(defence.purify(images[some], ids, SOURCE, 0), purified[some])


def test_results_hardly_depend_on_the_batch_size(defence: Defence, images: Tensor) -> None:
    expected = defence.purify(images, IDS, SOURCE, 0)
    for size in (1, 6, 50):
        torch.testing.assert_close(
            replace(defence, batch_size=size).purify(images, IDS, SOURCE, 0), expected, rtol=0, atol=1e-5
        )


def test_noise_follows_the_dataset_index_not_the_position(images: Tensor) -> None:
    noisy = Defence(FunctionPurifier(lambda x, noise: x + noise.normal("own")), lambda x: x.flatten(1), batch_size=4)
    out = noisy.purify(images, IDS, SOURCE, 3) - images
    torch.testing.assert_close(out, SOURCE(IDS, 3).normal("own"), rtol=0, atol=1e-6)


def test_a_purifier_may_differentiate_inside(images: Tensor) -> None:
    """Guided purification takes the gradient of a guidance term in every step."""

    def guided(x: Tensor, noise: Noise) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(leaf.square().sum(), leaf)
        return x - 0.1 * slope

    out = Defence(FunctionPurifier(guided), lambda x: x.flatten(1), batch_size=4).purify(images, IDS, SOURCE, 0)
    torch.testing.assert_close(out, 0.8 * images)


def test_kept_steps_depend_on_the_batch_size_and_the_memory(defence: Defence, images: Tensor) -> None:
    kept = [defence.kept_steps(images, IDS, SOURCE, memory) for memory in (0, 1e6, 1e9)]
    assert kept == sorted(kept) and kept[0] == 0 and kept[-1] == 5
    larger = replace(defence, batch_size=400)
    assert larger.kept_steps(images, IDS, SOURCE, 1e6) < kept[1]
