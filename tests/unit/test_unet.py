"""The forward pass of the U-Net against diffusers' `UNet2DModel`, with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from purification.models.unet import UNet

SMALL: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "add_attention": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "without attention": SMALL,
    "defaults, attention in the middle": {key: value for key, value in SMALL.items() if key != "add_attention"},
    # the options of google/ddpm-cifar10-32 (Ho et al. 2020), narrower
    "as google/ddpm-cifar10-32": {
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": [16, 32, 32, 32],
        "center_input_sample": False,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 8,
        "out_channels": 3,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "several heads, learned variance": {
        **SMALL,
        "attention_head_dim": 4,
        "add_attention": True,
        "out_channels": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
    },
}
Numbers = Callable[..., Tensor]
Randomised = Callable[..., nn.Module]


def pair(config: dict[str, Any], randomised: Randomised) -> tuple[UNet, UNet2DModel]:
    """Our network and diffusers' with the same random weights."""
    reference = randomised(UNet2DModel(**config, sample_size=16)).eval()
    ours = UNet.from_config(dict(reference.config)).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference  # type: ignore[return-value]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("index", [0, 99, 999])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_outputs_and_input_gradients_are_those_of_diffusers(
    config: dict[str, Any],
    index: int,
    dtype: torch.dtype,
    tolerance: float,
    randomised: Randomised,
    random_tensor: Numbers,
) -> None:
    ours, reference = (network.to(dtype) for network in pair(config, randomised))
    u = random_tensor(2, config["in_channels"], 16, 16, normal=True, dtype=dtype)
    weights = random_tensor(2, config["out_channels"], 16, 16, seed=1, normal=True, dtype=dtype)
    outputs, gradients = [], []
    for run in (lambda x: ours(x, float(index)), lambda x: reference(x, index).sample):
        leaf = u.clone().requires_grad_()
        out = run(leaf)
        outputs.append(out.detach())
        gradients.append(torch.autograd.grad((out * weights).sum(), leaf)[0])
    assert outputs[0].shape == (2, config["out_channels"], 16, 16)
    assert relative(*outputs) < tolerance
    assert relative(*gradients) < tolerance
    assert float(outputs[0].std()) > 0.1 and float(gradients[0].std()) > 0.01


def test_the_configuration_defaults_are_those_of_diffusers(randomised: Randomised, random_tensor: Numbers) -> None:
    reference = randomised(UNet2DModel(**SMALL)).eval()
    ours = UNet.from_config(SMALL).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    u = random_tensor(1, 1, 16, 16, normal=True)
    with torch.no_grad():
        assert relative(ours(u, 7.0), reference(u, 7).sample) < 2e-6


@pytest.mark.parametrize("spoil", ["missing", "unexpected"])
def test_state_dicts_load_strictly(spoil: str, randomised: Randomised) -> None:
    weights = dict(pair(SMALL, randomised)[1].state_dict())
    if spoil == "missing":
        weights.pop("conv_in.weight")
    else:
        weights["extra.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=f"(?i){spoil} key"):
        UNet.from_config(SMALL).load_state_dict(weights, strict=True)


@pytest.mark.parametrize("name", ["SMALL", "as google/ddpm-cifar10-32"])
def test_parameters_carry_the_names_of_diffusers(name: str) -> None:
    config = SMALL if name == "SMALL" else CONFIGS[name]
    ours, reference = UNet.from_config(config), UNet2DModel(**config)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in reference.state_dict().items()}


@pytest.mark.parametrize("index", [0.0, 49.5, 99.0])
def test_time_embedding_is_the_sinusoid_written_out(index: float, randomised: Randomised) -> None:
    ours, _ = pair(SMALL, randomised)
    frequencies = [math.exp(-math.log(10000) * k / 4) for k in range(4)]
    sinusoid = [math.cos(index * f) for f in frequencies] + [math.sin(index * f) for f in frequencies]
    linear = ours.time_embedding
    hidden = torch.nn.functional.silu(linear.linear_1(torch.tensor([sinusoid])))
    expected = torch.nn.functional.silu(linear.linear_2(hidden))
    torch.testing.assert_close(ours.embed(index), expected, rtol=1e-5, atol=1e-6)


def test_a_float_index_lies_between_its_neighbours(randomised: Randomised, random_tensor: Numbers) -> None:
    ours, reference = pair(SMALL, randomised)
    u = random_tensor(1, 1, 16, 16, normal=True)
    with torch.no_grad():
        between = ours(u, 49.5)
        assert relative(between, reference(u, torch.tensor([49.5])).sample) < 2e-6
        assert relative(between, ours(u, 49.0)) > 1e-4


def test_float64_weights_give_the_float32_answer(randomised: Randomised, random_tensor: Numbers) -> None:
    ours, _ = pair(CONFIGS["as google/ddpm-cifar10-32"], randomised)
    u = random_tensor(1, 3, 16, 16, normal=True)
    with torch.no_grad():
        single = ours(u, 99.0)
        double = ours.double()(u.double(), 99.0)
    assert double.dtype == torch.float64
    assert relative(single.double(), double) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"center_input_sample": True},
        {"time_embedding_type": "fourier"},
        {"act_fn": "gelu"},
        {"resnet_time_scale_shift": "scale_shift"},
        {"downsample_type": "resnet"},
        {"upsample_type": "resnet"},
        {"mid_block_scale_factor": 2},
        {"class_embed_type": "timestep"},
        {"num_class_embeds": 10},
        {"attn_norm_num_groups": 4},
        {"down_block_types": ["ResnetDownsampleBlock2D"] * 3},
        {"up_block_types": ["SkipUpBlock2D"] * 3},
        {"mid_block_type": None},
        {"time_embedding_dim": 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_options_without_a_forward_pass_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected UNet .* not supported here"):
        UNet.from_config({**SMALL, **change})
