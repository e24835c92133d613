"""Devices and precisions: what moves, what is refused, and that networks create nothing elsewhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from purification.gradients import gradient
from purification.models.classifiers import ResidualNetwork
from purification.models.denoisers import Denoiser, GaussianEpsilon, StationaryEpsilon, network_epsilon
from purification.models.guided_unet import GuidedUNet
from purification.models.placing import Place
from purification.models.published import published_network
from purification.models.score_unet import ScoreUNet
from purification.models.unet import UNet
from purification.noise import NoiseSource
from purification.purifiers import make_purifier, purify
from purification.schedule import Schedule
from tests.unit.conftest import DIFFUSION, SMALL_UNET

META = torch.device("meta")
SMALL = {"size": 16, "channels": 1, "multipliers": [1, 2], "layers": 1, "attention": [8]}
GUIDED: dict[str, Any] = {
    "kind": "guided_diffusion",
    "width": 32,
    "head_channels": 16,
    "learned_variance": True,
    **SMALL,
}
SCORE: dict[str, Any] = {"kind": "score_sde", "width": 16, **SMALL}
VIT: dict[str, Any] = {"kind": "vision_transformer", "size": 16, "patch": 4, "width": 8, "depth": 1, "heads": 2}
STATISTICS: dict[str, Any] = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "classes": 10}
SCHEDULE = Schedule(1e-4, 2e-2, 1000)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(network_epsilon(UNet.from_config(SMALL_UNET)), SCHEDULE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_only_the_input_and_the_output_of_a_network_change_the_device() -> None:
    """The device meta stands for any other: the network sees its input there, and the caller nothing."""
    seen: list[torch.device] = []

    def network(x: Tensor, scale: float) -> Tensor:
        seen.append(x.device)
        return torch.full(x.shape, scale, dtype=torch.bfloat16)

    out = Place("meta", "fp32").network(network)(torch.ones(2, 3), 0.5)
    assert seen == [META]
    assert out.device.type == "cpu" and out.dtype == torch.float32 and out.tolist() == [[0.5] * 3] * 2
    assert Place("cpu", "fp32").network(network) is network


@pytest.mark.parametrize(("device", "found"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, found: int) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: found > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    with pytest.raises(ValueError, match=rf"expected device '{device}', got {found} CUDA devices .* — set device: cpu"):
        Place(device, "fp32").prepare()


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_only_tf32_allows_tf32(precision: str, tf32: bool) -> None:
    """In a process of its own, since the setting is the process's; CUDA's settings can be read without a device."""
    program = (
        "import sys, torch; from purification.models.placing import Place\n"
        "torch.cuda.is_available = lambda: True; torch.cuda.device_count = lambda: 1\n"
        "torch.backends.cuda.matmul.allow_tf32 = sys.argv[1] != 'tf32'\n"
        "print(Place('cuda', sys.argv[1]).prepare())\n"
        "print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)\n"
    )
    command = [sys.executable, "-c", program, precision]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cuda", str(tf32), str(tf32)]


def test_a_precision_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="expected device cuda with precision tf32, got 'cpu'"):
        Place("cpu", "tf32")
    with pytest.raises(ValueError, match="expected precision to be one of"):
        Place("cpu", "fp16")


def test_bf16_is_near_fp32_and_its_gradient_is_that_of_what_runs(denoiser: Denoiser, images: Tensor) -> None:
    noise = NoiseSource(0, "fixed", (1, 16, 16))(range(3))
    rough = replace(denoiser, epsilon=Place("cpu", "bf16").network(denoiser.epsilon))
    exact, lower = (make_purifier(DIFFUSION, each, (1, 16, 16), torch.device("cpu")) for each in (denoiser, rough))
    expected, found = purify(exact, images, noise), purify(lower, images, noise)
    assert found.dtype == torch.float32
    assert 1e-5 < float((found - expected).abs().max()) < 2e-2  # bfloat16 has 8 bits of mantissa

    def objective(x: Tensor) -> Tensor:
        return (x * x.detach().roll(1, -1)).flatten(1).sum(dim=1)

    modes = (("autograd", 0), ("replay", 0), ("replay", 2))
    slopes = [gradient(lower, images, noise, objective, mode=m, kept_steps=k).gradient for m, k in modes]
    assert torch.equal(slopes[0], slopes[1]) and torch.equal(slopes[0], slopes[2])
    plain = gradient(exact, images, noise, objective, mode="autograd", kept_steps=0).gradient
    assert not torch.equal(slopes[0], plain)
    assert float(torch.cosine_similarity(slopes[0].flatten(1), plain.flatten(1)).min()) > 0.99
    double = images.double()
    assert torch.equal(Place("cpu", "bf16").network(lambda x: x @ x.mT)(double), double @ double.mT)


@pytest.mark.parametrize("kind", ["unet", "adm", "score", "vit", "gaussian", "stationary", "residual"])
def test_networks_create_nothing_on_another_device(kind: str) -> None:
    """On the device meta, where torch refuses to mix devices; forward and backward."""
    made: dict[str, Any] = {
        "unet": lambda: network_epsilon(UNet.from_config(SMALL_UNET).to(META)),
        "adm": lambda: network_epsilon(GuidedUNet(GUIDED).to(META)),
        "score": lambda: network_epsilon(ScoreUNet({**SCORE, "train_steps": 1000}).to(META)),
        "vit": lambda: (
            lambda x, level: published_network({**VIT, **STATISTICS}).eval().to(META)(x.expand(-1, 3, -1, -1))
        ),
        "gaussian": lambda: GaussianEpsilon(
            torch.zeros(1, 16, 16, device=META), torch.zeros(256, 256, device=META), torch.zeros(256, device=META)
        ),
        "stationary": lambda: StationaryEpsilon(
            torch.zeros(1, 1, 1, device=META),
            *(torch.zeros(16, 16, 1, 1, device=META) for _ in range(2)),
            torch.zeros(16, 16, 1, device=META),
        ),
        "residual": lambda: lambda x, level: ResidualNetwork(1, 10, [4, 8]).eval().to(META)(x),
    }
    x = torch.zeros(2, 1, 16, 16, device=META, requires_grad=True)
    out = made[kind]()(x, SCHEDULE.level(50))
    assert out.is_meta
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope.is_meta and slope.shape == x.shape


@pytest.mark.parametrize("held", [(), ("forward",)])
def test_noise_is_drawn_on_the_cpu_and_moved(held: tuple[str, ...]) -> None:
    """The same numbers whatever torch's seed and default device; on another device the same shape and type."""
    source = NoiseSource(3, "attack", (1, 4, 4), held=held)
    expected = source([5, 7], 2).normal("forward", 1)
    torch.manual_seed(9)
    with META:
        assert torch.equal(source([5, 7], 2).normal("forward", 1), expected)
    assert torch.equal(source([7], 2).on("cpu").normal("forward", 1), expected[1:])
    moved = source([5, 7], 2).on(META)
    for stream in ("forward", "reverse"):
        assert moved.normal(stream).is_meta and moved.uniform(stream).shape == expected.shape
    assert np.isfinite(expected.numpy()).all()
