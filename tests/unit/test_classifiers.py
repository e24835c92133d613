"""The classifier: normalisation inside, one image at a time, and the forward pass written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification.models.classifiers import ResidualNetwork

Numbers = Callable[..., Tensor]
Randomised = Callable[..., nn.Module]


@pytest.fixture
def network(randomised: Randomised) -> ResidualNetwork:
    network = cast(ResidualNetwork, randomised(ResidualNetwork(3, 5, [4, 8]))).eval()
    network.mean.copy_(torch.tensor([0.2, 0.5, 0.7]))
    network.std.copy_(torch.tensor([0.1, 0.2, 0.4]))
    return network


def test_normalisation_is_inside(network: ResidualNetwork, random_tensor: Numbers, randomised: Randomised) -> None:
    images = random_tensor(2, 3, 8, 8)
    mean, std = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.4])
    bare = cast(ResidualNetwork, randomised(ResidualNetwork(3, 5, [4, 8]))).eval()
    outside = bare((images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    torch.testing.assert_close(network(images), outside, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(network(images), bare(images), atol=1e-2)


def test_without_statistics_the_image_is_taken_as_it_is() -> None:
    network = ResidualNetwork(3, 5, [4])
    assert torch.equal(network.mean, torch.zeros(3)) and torch.equal(network.std, torch.ones(3))
    assert {"mean", "std"} <= set(network.state_dict())


def test_the_forward_pass_is_the_residual_network_written_out(network: ResidualNetwork, random_tensor: Numbers) -> None:
    images = random_tensor(2, 3, 8, 8)
    state = network.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, w, b = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        scaled = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return w[:, None, None] * scaled + b[:, None, None]

    x = (images - network.mean[:, None, None]) / network.std[:, None, None]
    x = F.conv2d(x, state["stem.weight"], padding=1).relu()
    for i, stride in enumerate((1, 2)):
        h = norm(F.conv2d(x, state[f"blocks.{i}.conv1.weight"], stride=stride, padding=1), f"blocks.{i}.norm1").relu()
        h = norm(F.conv2d(h, state[f"blocks.{i}.conv2.weight"], padding=1), f"blocks.{i}.norm2")
        x = (h + F.conv2d(x, state[f"blocks.{i}.shortcut.weight"], stride=stride)).relu()
    assert x.shape[-2:] == (4, 4)
    expected = x.mean(dim=(2, 3)) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_logits_of_an_image_ignore_its_companions(network: ResidualNetwork, random_tensor: Numbers) -> None:
    images = random_tensor(4, 3, 8, 8)
    whole = network(images)
    assert torch.equal(network(images[[2, 0, 3, 1]]), whole[[2, 0, 3, 1]])
    torch.testing.assert_close(network(images[1:2]), whole[1:2], rtol=1e-5, atol=1e-5)
