"""Published denoisers: layouts written out by hand from their papers, converted, compared; and what can be wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from purification.models.loading import load_denoiser, save_model
from purification.models.published_denoisers import convert_denoiser
from purification.schedule import Level

CPU = torch.device("cpu")
SENTENCE = re.compile(r"expected .+, got .+ — .+")
SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "train_steps": 1000}
State = dict[str, Tensor]
SMALL = {"size": 16, "multipliers": [1, 2], "layers": 1, "attention": [8], "schedule": SCHEDULE}
GUIDED: dict[str, Any] = {
    "kind": "guided_diffusion",
    "width": 32,
    "head_channels": 16,
    "learned_variance": True,
    **SMALL,
}
SCORE: dict[str, Any] = {"kind": "score_sde", "width": 16, **SMALL}


class Weights(dict[str, Tensor]):
    """Random weights, made when a forward pass first asks for their name."""

    def __init__(self) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(0)

    def get_or_draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self:
            fan = math.prod(shape[1:]) or 1
            value = torch.randn(shape, generator=self.random) * (fan**-0.5 if len(shape) > 1 else 0.3)
            self[name] = value + (1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)
        return self[name]

    def conv(self, x: Tensor, name: str, out: int, size: int) -> Tensor:
        weight = self.get_or_draw(f"{name}.weight", (out, x.shape[1], size, size))
        return F.conv2d(x, weight, self.get_or_draw(f"{name}.bias", (out,)), padding=size // 2)

    def linear(self, x: Tensor, name: str, out: int) -> Tensor:
        weight = self.get_or_draw(f"{name}.weight", (out, x.shape[-1]))
        return x @ weight.T + self.get_or_draw(f"{name}.bias", (out,))

    def norm(self, x: Tensor, name: str, groups: int, eps: float) -> Tensor:
        flat = x.reshape(len(x), groups, -1).double()
        flat = (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        weight = self.get_or_draw(f"{name}.weight", (x.shape[1],))
        bias = self.get_or_draw(f"{name}.bias", (x.shape[1],))
        shape = (1, -1, *[1] * (x.ndim - 2))
        return flat.reshape(x.shape).float() * weight.view(shape) + bias.view(shape)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def pooled(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


RESAMPLED: dict[str, Callable[[Tensor], Tensor]] = {"down": pooled, "up": repeated, "same": lambda x: x}


def guided(u: Tensor, t: float, w: Weights, settings: dict[str, Any], outputs: int) -> Tensor:
    """ADM with residual resampling and scale-shift norm (Dhariwal & Nichol 2021, appendix), in its published layout."""
    width = settings["width"]
    angles = [t * 10000 ** (-k / (width // 2)) for k in range(width // 2)]
    features = torch.tensor([[*map(math.cos, angles), *map(math.sin, angles)]])
    time = w.linear(silu(w.linear(features, "time_embed.0", 4 * width)), "time_embed.2", 4 * width)

    def block(x: Tensor, name: str, out: int, resample: str = "same") -> Tensor:
        h = RESAMPLED[resample](silu(w.norm(x, f"{name}.in_layers.0", 32, 1e-5)))
        h = w.conv(h, f"{name}.in_layers.2", out, 3)
        scale, shift = w.linear(silu(time), f"{name}.emb_layers.1", 2 * out)[:, :, None, None].split(out, 1)
        h = w.norm(h, f"{name}.out_layers.0", 32, 1e-5) * (1 + scale) + shift
        h = w.conv(silu(h), f"{name}.out_layers.3", out, 3)
        x = RESAMPLED[resample](x)
        return h + (x if x.shape[1] == out else w.conv(x, f"{name}.skip_connection", out, 1))

    def attention(x: Tensor, name: str) -> Tensor:
        channels, heads = x.shape[1], x.shape[1] // settings["head_channels"]
        flat = w.norm(x.flatten(2), f"{name}.norm", 32, 1e-5)
        weight = w.get_or_draw(f"{name}.qkv.weight", (3 * channels, channels, 1))[:, :, 0]
        qkv = weight @ flat + w.get_or_draw(f"{name}.qkv.bias", (3 * channels,))[:, None]
        outs = []
        for part in qkv.chunk(heads, 1):  # every head has its own query, key, value
            q, k, v = part.chunk(3, 1)
            outs.append(v @ torch.softmax(q.mT @ k / q.shape[1] ** 0.5, -1).mT)
        weight = w.get_or_draw(f"{name}.proj_out.weight", (channels, channels, 1))[:, :, 0]
        out = weight @ torch.cat(outs, 1) + w.get_or_draw(f"{name}.proj_out.bias", (channels,))[:, None]
        return x + out.view_as(x)

    widths = [width * m for m in settings["multipliers"]]
    x = w.conv(u, "input_blocks.0.0", widths[0], 3)
    stack, number = [x], 1
    for level, out in enumerate(widths):
        for _ in range(settings["layers"]):
            x = block(x, f"input_blocks.{number}.0", out)
            x = attention(x, f"input_blocks.{number}.1") if x.shape[-1] in settings["attention"] else x
            stack.append(x)
            number += 1
        if level + 1 < len(widths):
            x = block(x, f"input_blocks.{number}.0", out, "down")
            stack.append(x)
            number += 1
    x = block(x, "middle_block.0", widths[-1])
    x = block(attention(x, "middle_block.1"), "middle_block.2", widths[-1])
    number = 0
    for level in range(len(widths) - 1, -1, -1):
        for k in range(settings["layers"] + 1):
            x = block(torch.cat([x, stack.pop()], 1), f"output_blocks.{number}.0", widths[level])
            attend = x.shape[-1] in settings["attention"]
            x = attention(x, f"output_blocks.{number}.1") if attend else x
            if level and k == settings["layers"]:
                x = block(x, f"output_blocks.{number}.{2 if attend else 1}", widths[level], "up")
            number += 1
    return w.conv(silu(w.norm(x, "out.0", 32, 1e-5)), "out.2", outputs, 3)


def score(u: Tensor, label: float, w: Weights, settings: dict[str, Any]) -> Tensor:
    """DDPM++ of Song et al. 2021 (BigGAN blocks, sums over sqrt 2, positional embedding), modules numbered in turn."""
    width, counter = settings["width"], iter(range(10**6))

    def name() -> str:
        return f"all_modules.{next(counter)}"

    half = width // 2
    angles = [label * math.exp(-math.log(10000) * k / (half - 1)) for k in range(half)]
    features = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]])
    time = w.linear(features, name(), 4 * width)
    time = w.linear(silu(time), name(), 4 * width)

    def norm(x: Tensor, place: str) -> Tensor:
        return w.norm(x, place, min(x.shape[1] // 4, 32), 1e-6)

    def block(x: Tensor, out: int, resample: str = "same") -> Tensor:
        place = name()
        h = RESAMPLED[resample](silu(norm(x, f"{place}.GroupNorm_0")))
        h = w.conv(h, f"{place}.Conv_0", out, 3) + w.linear(silu(time), f"{place}.Dense_0", out)[:, :, None, None]
        h = w.conv(silu(norm(h, f"{place}.GroupNorm_1")), f"{place}.Conv_1", out, 3)
        changed = x.shape[1] != out or resample != "same"
        x = RESAMPLED[resample](x)
        return ((w.conv(x, f"{place}.Conv_2", out, 1) if changed else x) + h) / 2**0.5

    def attention(x: Tensor) -> Tensor:
        place, channels = name(), x.shape[1]
        h = norm(x, f"{place}.GroupNorm_0")

        def nin(y: Tensor, part: str) -> Tensor:
            matrix = w.get_or_draw(f"{place}.{part}.W", (channels, channels))
            bias = w.get_or_draw(f"{place}.{part}.b", (channels,))
            return torch.einsum("bchw,cd->bdhw", y, matrix) + bias[:, None, None]

        q, k, v = (nin(h, part) for part in ("NIN_0", "NIN_1", "NIN_2"))
        scores = torch.einsum("bchw,bcij->bhwij", q, k) * channels**-0.5
        scores = torch.softmax(scores.flatten(3), -1).view_as(scores)
        return (x + nin(torch.einsum("bhwij,bcij->bchw", scores, v), "NIN_3")) / 2**0.5

    widths = [width * m for m in settings["multipliers"]]
    stack = [w.conv(u, name(), width, 3)]
    for level, out in enumerate(widths):
        for _ in range(settings["layers"]):
            h = block(stack[-1], out)
            stack.append(attention(h) if h.shape[-1] in settings["attention"] else h)
        if level + 1 < len(widths):
            stack.append(block(stack[-1], out, "down"))
    x = block(attention(block(stack[-1], widths[-1])), widths[-1])
    for level in range(len(widths) - 1, -1, -1):
        for _ in range(settings["layers"] + 1):
            x = block(torch.cat([x, stack.pop()], 1), widths[level])
        x = attention(x) if x.shape[-1] in settings["attention"] else x
        x = block(x, widths[level], "up") if level else x
    x = silu(norm(x, name()))
    return w.conv(x, name(), 3, 3)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def converted(folder: Path, settings: dict[str, Any]) -> Any:
    folder.mkdir(exist_ok=True)
    save_model(folder, *convert_denoiser(settings, 3))
    return load_denoiser(folder, settings["schedule"], CPU, torch.float32).epsilon


def agree(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape and float(expected.std()) > 0.05
    assert float((got - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("multipliers", [[1, 2], [1, 1, 2]])
@pytest.mark.parametrize("index", [0.0, 149.0, 999.0])
def test_guided_diffusion_gives_the_first_half_of_its_layout(
    index: float, multipliers: list[int], tmp_path: Path, images: Tensor
) -> None:
    weights, settings = Weights(), {**GUIDED, "multipliers": multipliers, "layers": 2, "attention": [8, 4]}
    expected = guided(images, index, weights, settings, 6)[:, :3]
    torch.save(dict(weights), tmp_path / "256.pt")
    epsilon = converted(tmp_path / "ours", {**settings, "path": str(tmp_path / "256.pt")})
    agree(epsilon(images, Level(index, 0.5)), expected)


@pytest.mark.parametrize("multipliers", [[1, 2], [1, 2, 2]])
@pytest.mark.parametrize("index", [0.0, 99.0, 999.0])
def test_score_sde_gives_its_layout_with_averaged_weights(
    index: float, multipliers: list[int], tmp_path: Path, images: Tensor
) -> None:
    weights, settings = Weights(), {**SCORE, "multipliers": multipliers, "layers": 2}
    label = 999 * (index + 1) / 1000
    expected = score(images, label, weights, settings)
    # the checkpoint lists averages in the order of the parameters, which is that of the modules
    names = sorted(weights, key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")])
    model = {f"module.{name}": torch.zeros_like(weights[name]) for name in names}
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": [weights[name] for name in names]}
    checkpoint = {"optimizer": {}, "model": {"module.sigmas": torch.ones(1000), **model}, "ema": ema, "step": 7}
    torch.save(checkpoint, tmp_path / "checkpoint_8.pth")
    epsilon = converted(tmp_path / "ours", {**settings, "path": str(tmp_path / "checkpoint_8.pth")})
    agree(epsilon(images, Level(index, 0.5)), expected)


DIFFUSERS: dict[str, Any] = {
    **{
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
    },
    **{"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]},
    **{
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("layout", ["safetensors", "bin with old names", "branch"])
def test_diffusers_folders_give_the_outputs_of_diffusers(
    layout: str, tmp_path: Path, images: Tensor, randomised: Callable[[nn.Module], nn.Module]
) -> None:
    network = randomised(UNet2DModel(**DIFFUSERS, sample_size=16)).eval()
    place = tmp_path / "hub" / ("unet_ema" if layout == "branch" else "")
    network.save_pretrained(place)  # type: ignore[operator]
    if layout == "bin with old names":
        state = network.state_dict()
        for new, old in OLD.items():
            state = {name.replace(f".{new}.", f".{old}."): value for name, value in state.items()}
        (place / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(state, place / "diffusion_pytorch_model.bin")
    scheduler = {"beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000, "beta_schedule": "linear"}
    (place / "scheduler_config.json").write_text(json.dumps(scheduler))
    settings = {"kind": "diffusers", "path": str(tmp_path / "hub"), "schedule": SCHEDULE}
    settings |= {"branch": "unet_ema"} if layout == "branch" else {}
    epsilon = converted(tmp_path / "ours", settings)
    with torch.no_grad():
        agree(epsilon(images, Level(42.0, 0.5)), network(images, 42).sample)
    again = UNet2DModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.conv_out.weight, network.conv_out.weight)  # type: ignore[union-attr]


def test_published_sizes_have_the_published_numbers_of_parameters() -> None:
    """552.8 M for ADM 256x256 unconditional, 107 M for DDPM++ deep; built without memory."""
    from purification.models.guided_unet import GuidedUNet
    from purification.models.score_unet import ScoreUNet

    adm = {"size": 256, "channels": 3, "width": 256, "multipliers": [1, 1, 2, 2, 4, 4], "layers": 2}
    adm |= {"attention": [32, 16, 8], "head_channels": 64, "learned_variance": True}
    deep = {"size": 32, "channels": 3, "width": 128, "multipliers": [1, 2, 2, 2], "layers": 8, "attention": [16]}
    with torch.device("meta"):
        counts = [GuidedUNet(adm), ScoreUNet({**deep, "train_steps": 1000})]
    assert [sum(p.numel() for p in network.parameters()) for network in counts] == [552_814_086, 106_632_579]


def _guided_file(change: Callable[[State], Any]) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        weights = Weights()
        guided(torch.zeros(1, 3, 16, 16), 0.0, weights, GUIDED, 6)
        torch.save(change(dict(weights)), folder / "w.pt")
        return {**GUIDED, "path": str(folder / "w.pt")}

    return make


def _score_file(content: Any) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        torch.save(content, folder / "w.pth")
        return {**SCORE, "path": str(folder / "w.pth")}

    return make


def _folder(config: Any, scheduler: dict[str, Any] | None = None) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        UNet2DModel(**DIFFUSERS, sample_size=16).save_pretrained(folder)
        text = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**text, **config}) if isinstance(config, dict) else config)
        if scheduler:
            (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
        return {"kind": "diffusers", "path": str(folder), "schedule": SCHEDULE}

    return make


ONE = {"all_modules.0.weight": torch.zeros(1)}
BAD: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "no learned variance": (
        _guided_file(lambda s: {**s, "out.2.weight": s["out.2.weight"][:3]}),
        r"expected weights 'out.2.weight' of shape \(6, 32, 3, 3\)",
    ),
    "class-conditional": (
        _guided_file(lambda s: {**s, "label_emb.weight": torch.zeros(1000, 128)}),
        "expected no weights 'label_emb.weight'",
    ),
    "missing": (
        _guided_file(lambda s: {k: v for k, v in s.items() if "middle" not in k}),
        "expected weights 'middle_b",
    ),
    "without average": (_score_file({"model": ONE}), "expected `model` and `ema` in .*, got model — fetch"),
    "fewer averages": (
        _score_file({"model": ONE, "ema": {"shadow_params": []}}),
        "expected an average of each of the 1 weights in .*, got 0 averages",
    ),
    "another average": (
        _score_file({"model": ONE, "ema": {"shadow_params": [torch.zeros(1)]}}),
        "expected weights 'all_modules.0.bias' and",
    ),
    "other class": (_folder({"_class_name": "UNet2DConditionModel"}), "expected a UNet2DModel in .*, got UNet2DCond"),
    "option without a forward pass": (_folder({"act_fn": "gelu"}), "expected UNet option act_fn = 'silu', got 'gelu'"),
    "other channels": (_folder({"in_channels": 1}), "expected a network of 3 channels in .*, got 1 in and 3 out"),
    "no JSON": (_folder("<html>"), "expected a diffusers configuration at .*, got an error"),
    "other schedule": (_folder({}, {"beta_end": 0.012}), "expected beta_end = 0.02 in .*, got 0.012 — correct"),
    "other prediction": (
        _folder({}, {"prediction_type": "v_prediction"}),
        "expected prediction_type = epsilon in .*, got v_prediction",
    ),
    "other layout": (
        lambda folder: {**_folder({})(folder), "layout": {"layers_per_block": 2}},
        "expected layers_per_block = 2 in .*config.json, got 1 — correct the entry's `layout`",
    ),
    "no folder": (
        lambda folder: {"kind": "diffusers", "path": str(folder / "none"), "schedule": SCHEDULE},
        "expected a diffusers configuration at .*, got an error",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_published_denoiser_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    make, sentence = BAD[case]
    with pytest.raises(ValueError) as error:
        convert_denoiser(make(tmp_path), 3)
    assert re.match(sentence, str(error.value)), error.value
    assert SENTENCE.fullmatch(str(error.value)), error.value
