"""Published classifiers: layouts written out by hand, converted, and everything that a file can have wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification.models.loading import load_classifier, save_model
from purification.models.published import convert_classifier, published_network
from purification.tensor_files import read_tensors

CPU = torch.device("cpu")
SENTENCE = re.compile(r"expected .+, got .+ — .+")
STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
State = dict[str, Tensor]


class Names:
    """Random weights under the names of a layout, noted down in the order of the forward pass."""

    def __init__(self) -> None:
        self.state: State = {}
        self.random = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        self.state[name] = shift + scale * torch.randn(*shape, generator=self.random)
        return self.state[name]

    def conv(self, name: str, a: int, b: int, size: int) -> None:
        self.draw(f"{name}.weight", b, a, size, size, scale=(a * size * size) ** -0.5)

    def norm(self, name: str, width: int) -> None:
        self.draw(f"{name}.weight", width, scale=0.3, shift=1.0)
        self.draw(f"{name}.bias", width, scale=0.3)
        self.draw(f"{name}.running_mean", width, scale=0.3)
        self.state[f"{name}.running_var"] = self.draw(f"{name}.running_var", width).abs() + 0.5

    def linear(self, name: str, a: int, b: int) -> None:
        self.draw(f"{name}.weight", b, a, scale=a**-0.5)
        self.draw(f"{name}.bias", b, scale=0.3)


def batch_norm(x: Tensor, s: State, name: str) -> Tensor:
    mean, var, weight, bias = (
        s[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def head(x: Tensor, s: State, name: str) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def cifar_resnet(depth: int) -> tuple[State, Callable[[Tensor], Tensor]]:
    names, blocks = Names(), (depth - 2) // 6
    names.conv("conv1", 3, 16, 3)
    names.norm("bn1", 16)
    places = []
    for stage, width in enumerate((16, 32, 64), 1):
        for k in range(blocks):
            a = width // 2 if stage > 1 and k == 0 else width
            place = f"layer{stage}.{k}"
            names.conv(f"{place}.conv1", a, width, 3)
            names.norm(f"{place}.bn1", width)
            names.conv(f"{place}.conv2", width, width, 3)
            names.norm(f"{place}.bn2", width)
            places.append((place, a != width))
    names.linear("linear", 64, 10)
    s = names.state

    def forward(x: Tensor) -> Tensor:
        x = batch_norm(F.conv2d(x, s["conv1.weight"], padding=1), s, "bn1").relu()
        for place, narrow in places:
            h = F.conv2d(x, s[f"{place}.conv1.weight"], padding=1, stride=2 if narrow else 1)
            h = batch_norm(h, s, f"{place}.bn1").relu()
            h = batch_norm(F.conv2d(h, s[f"{place}.conv2.weight"], padding=1), s, f"{place}.bn2")
            if narrow:
                small = x[:, :, 0::2, 0::2]
                zeros = torch.zeros(len(x), small.shape[1] // 2, *small.shape[2:])
                x = torch.cat([zeros, small, zeros], dim=1)
            x = (x + h).relu()
        return head(x.flatten(2).mean(dim=2), s, "linear")

    return s, forward


def wide_resnet(depth: int, factor: int) -> tuple[State, Callable[[Tensor], Tensor]]:
    names = Names()
    names.conv("conv1", 3, 16, 3)
    places, a = [], 16
    for stage, width in enumerate((16 * factor, 32 * factor, 64 * factor), 1):
        for k in range((depth - 4) // 6):
            place = f"block{stage}.layer.{k}"
            names.norm(f"{place}.bn1", a)
            names.conv(f"{place}.conv1", a, width, 3)
            names.norm(f"{place}.bn2", width)
            names.conv(f"{place}.conv2", width, width, 3)
            if a != width:
                names.conv(f"{place}.convShortcut", a, width, 1)
            places.append((place, a != width, 2 if stage > 1 and k == 0 else 1))
            a = width
    names.norm("bn1", a)
    names.linear("fc", a, 10)
    s = names.state

    def forward(x: Tensor) -> Tensor:
        x = F.conv2d(x, s["conv1.weight"], padding=1)
        for place, changes, stride in places:
            o = batch_norm(x, s, f"{place}.bn1").relu()
            h = batch_norm(F.conv2d(o, s[f"{place}.conv1.weight"], padding=1, stride=stride), s, f"{place}.bn2").relu()
            h = F.conv2d(h, s[f"{place}.conv2.weight"], padding=1)
            x = (F.conv2d(o, s[f"{place}.convShortcut.weight"], stride=stride) if changes else x) + h
        x = batch_norm(x, s, "bn1").relu()
        return head(F.avg_pool2d(x, 8).flatten(1), s, "fc")

    return s, forward


def imagenet_resnet(width: int) -> tuple[State, Callable[[Tensor], Tensor]]:
    names = Names()
    names.conv("conv1", 3, 64, 7)
    names.norm("bn1", 64)
    places, a = [], 64
    for stage, count in enumerate((3, 4, 6, 3), 1):
        planes = 32 * 2**stage
        inner, out = planes * width, planes * 4
        for k in range(count):
            place = f"layer{stage}.{k}"
            for number, (c, d, size) in enumerate(((a, inner, 1), (inner, inner, 3), (inner, out, 1)), 1):
                names.conv(f"{place}.conv{number}", c, d, size)
                names.norm(f"{place}.bn{number}", d)
            if k == 0:
                names.conv(f"{place}.downsample.0", a, out, 1)
                names.norm(f"{place}.downsample.1", out)
            places.append((place, k == 0, 2 if stage > 1 and k == 0 else 1))
            a = out
    names.linear("fc", a, 10)
    s = names.state

    def forward(x: Tensor) -> Tensor:
        x = batch_norm(F.conv2d(x, s["conv1.weight"], stride=2, padding=3), s, "bn1").relu()
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for place, changes, stride in places:
            h = batch_norm(F.conv2d(x, s[f"{place}.conv1.weight"]), s, f"{place}.bn1").relu()
            h = F.conv2d(h, s[f"{place}.conv2.weight"], stride=stride, padding=1)
            h = batch_norm(h, s, f"{place}.bn2").relu()
            h = batch_norm(F.conv2d(h, s[f"{place}.conv3.weight"]), s, f"{place}.bn3")
            if changes:
                x = batch_norm(
                    F.conv2d(x, s[f"{place}.downsample.0.weight"], stride=stride), s, f"{place}.downsample.1"
                )
            x = (x + h).relu()
        return head(x.flatten(2).mean(dim=2), s, "fc")

    return s, forward


def vision_transformer(size: int, patch: int, width: int, depth: int, heads: int) -> tuple[State, Any]:
    names = Names()
    tokens = (size // patch) ** 2 + 1
    names.draw("cls_token", 1, 1, width)
    names.draw("pos_embed", 1, tokens, width)
    names.conv("patch_embed.proj", 3, width, patch)
    names.draw("patch_embed.proj.bias", width)
    for k in range(depth):
        for norm in ("norm1", "norm2"):
            names.draw(f"blocks.{k}.{norm}.weight", width, scale=0.3, shift=1)
            names.draw(f"blocks.{k}.{norm}.bias", width)
        sizes = {"attn.qkv": (width, 3 * width), "attn.proj": (width, width)}
        sizes |= {"mlp.fc1": (width, 4 * width), "mlp.fc2": (4 * width, width)}
        for name, (a, b) in sizes.items():
            names.linear(f"blocks.{k}.{name}", a, b)
    names.draw("norm.weight", width, scale=0.3, shift=1)
    names.draw("norm.bias", width)
    names.linear("head", width, 10)
    s = names.state

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]
        )

    def forward(x: Tensor) -> Tensor:
        b, n = len(x), size // patch
        patches = x.view(b, 3, n, patch, n, patch).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, -1)
        x = patches @ s["patch_embed.proj.weight"].flatten(1).T + s["patch_embed.proj.bias"]
        x = torch.cat([s["cls_token"].expand(b, 1, width), x], 1) + s["pos_embed"]
        for k in range(depth):
            qkv = head(layer_norm(x, f"blocks.{k}.norm1"), s, f"blocks.{k}.attn.qkv")
            outs = []
            for h in range(heads):
                d = width // heads
                q, key, v = (qkv[..., part * width + h * d : part * width + (h + 1) * d] for part in range(3))
                outs.append(torch.softmax(q @ key.mT / d**0.5, -1) @ v)
            x = x + head(torch.cat(outs, -1), s, f"blocks.{k}.attn.proj")
            h = head(layer_norm(x, f"blocks.{k}.norm2"), s, f"blocks.{k}.mlp.fc1")
            h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
            x = x + head(h, s, f"blocks.{k}.mlp.fc2")
        return head(layer_norm(x, "norm")[:, 0], s, "head")

    return s, forward


TRANSFORMER = {"size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}
# settings, the reference, how its file wraps the state dict, size of the images
LAYOUTS: dict[str, tuple[dict[str, Any], Any, Callable[[State], Any], int]] = {
    "ResNet-20": (
        {"kind": "cifar_resnet", "depth": 20},
        lambda: cifar_resnet(20),
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "best_prec1": 91.7},
        32,
    ),
    "ResNet-32": ({"kind": "cifar_resnet", "depth": 32}, lambda: cifar_resnet(32), lambda s: s, 32),
    "WRN-16-2": (
        {"kind": "wide_resnet", "depth": 16, "width": 2},
        lambda: wide_resnet(16, 2),
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        32,
    ),
    "ResNet-50": (
        {"kind": "imagenet_resnet", "depth": 50, "width": 1},
        lambda: imagenet_resnet(1),
        lambda s: {**s, "bn1.num_batches_tracked": torch.tensor(7)},
        64,
    ),
    "WRN-50-2": (
        {"kind": "imagenet_resnet", "depth": 50, "width": 2},
        lambda: imagenet_resnet(2),
        lambda s: s,
        64,
    ),
    "DeiT": (
        {"kind": "vision_transformer", **TRANSFORMER},
        lambda: vision_transformer(*TRANSFORMER.values()),
        lambda s: {"model": s},
        32,
    ),
}


def settings_of(layout: str, path: Path) -> dict[str, Any]:
    return {**LAYOUTS[layout][0], "path": str(path), "classes": 10, **STATISTICS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_converted_network_gives_the_logits_of_its_layout(layout: str, tmp_path: Path) -> None:
    _, make, wrap, size = LAYOUTS[layout]
    state, forward = make()
    torch.save(wrap(state), tmp_path / "weights.th")
    save_model(tmp_path, *convert_classifier(settings_of(layout, tmp_path / "weights.th")))
    classifier = load_classifier(tmp_path, CPU, torch.float32)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(STATISTICS[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected, got = forward((images - mean) / std), classifier(images)
    assert float(expected.std()) > 0.05
    assert float((got - expected).norm() / expected.norm()) < 1e-5
    assert "path" not in json.loads((tmp_path / "config.json").read_text())


def test_a_wide_resnet_has_the_size_of_the_published_one() -> None:
    network = published_network({"kind": "wide_resnet", "depth": 28, "width": 10, "classes": 10, **STATISTICS})
    assert sum(parameter.numel() for parameter in network.parameters()) == 36_479_194
    counts = {20: 269_722, 56: 853_018, 110: 1_727_962}
    for depth, count in counts.items():
        network = published_network({"kind": "cifar_resnet", "depth": depth, "classes": 10, **STATISTICS})
        assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_torchvision_and_timm_sizes_are_the_published_ones() -> None:
    """25,557,032, 68,883,240 and 22,050,664 parameters: ResNet-50, Wide ResNet-50-2, DeiT-S."""
    deit = {"kind": "vision_transformer", "size": 224, "patch": 16, "width": 384, "depth": 12, "heads": 6}
    resnet = {"kind": "imagenet_resnet", "depth": 50}
    wanted = [({**resnet, "width": 1}, 25_557_032), ({**resnet, "width": 2}, 68_883_240), (deit, 22_050_664)]
    for settings, count in wanted:
        network = published_network({**settings, "classes": 1000, **STATISTICS})
        assert sum(parameter.numel() for parameter in network.parameters()) == count


class Opaque:
    """Something that torch.load would have to execute."""


def _without(state: State) -> Any:
    return {k: v for k, v in state.items() if k != "linear.bias"}


def _changed(name: str, value: Tensor) -> Callable[[State], Any]:
    return lambda state: {**state, name: value}


# what is saved, and the sentence
BAD: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing key": (_without, r"expected weights 'linear.bias' in .*, got a file without"),
    "extra key": (
        _changed("fc.bias", torch.zeros(3)),
        r"expected no weights 'fc.bias' in .*, got a file that has them",
    ),
    "wrong shape": (
        _changed("linear.bias", torch.zeros(100)),
        r"expected weights 'linear.bias' of shape \(10,\) in .*, got \(100,\)",
    ),
    "NaN": (_changed("linear.bias", torch.full((10,), float("nan"))), r"expected finite weights in .*'linear.bias'"),
    "code": (lambda state: {"model": Opaque()}, r"expected plain tensors in .*, got a file that needs more to be read"),
    "whole model": (lambda state: nn.Linear(2, 2), r"expected plain tensors in .*state dict: torch.save\("),
    "two candidates": (lambda state: {"model": state, "net": state}, r"expected one state dict in .*got model, net"),
    "no state": (lambda state: [1, 2], r"expected a state dict in .*, got a list"),
    "empty": (lambda state: {}, r"expected one state dict in .*, got nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_of_another_network_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    wrap, sentence = BAD[case]
    path = tmp_path / "weights.th"
    torch.save(wrap(cifar_resnet(20)[0]), path)
    with pytest.raises(ValueError) as error:
        convert_classifier(settings_of("ResNet-20", path))
    assert re.match(sentence, str(error.value)), error.value
    assert SENTENCE.fullmatch(str(error.value)), error.value


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "expected weights in .*, got a web page"),
        (b"", "expected weights in .*, got an empty file"),
        (None, "expected a file of weights, got none at"),
        (b"PK\x03\x04 cut", "expected (weights|plain tensors) in .*, got"),
        (b"\x80\x02junk", "expected (weights|plain tensors) in .*, got"),
    ],
)
def test_what_is_no_file_of_weights_is_said(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.th"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        convert_classifier(settings_of("ResNet-20", path))
    assert SENTENCE.fullmatch(str(error.value)), error.value


def test_a_truncated_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.th"
    torch.save(cifar_resnet(20)[0], path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"expected weights in .*, got a damaged file") as error:
        convert_classifier(settings_of("ResNet-20", path))
    assert SENTENCE.fullmatch(str(error.value)), error.value


def test_a_branch_can_be_named(tmp_path: Path) -> None:
    state, _ = cifar_resnet(20)
    other = {name: value + 1 for name, value in state.items()}
    path = tmp_path / "weights.th"
    torch.save({"model": other, "ema": {"model": state}}, path)
    settings = settings_of("ResNet-20", path)
    assert torch.equal(
        convert_classifier({**settings, "branch": "ema"})[1]["network.linear.bias"], state["linear.bias"]
    )
    with pytest.raises(ValueError, match=r"expected a branch 'emma' in .*, got model, ema"):
        convert_classifier({**settings, "branch": "emma"})


def test_without_transformers_a_hugging_face_classifier_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    settings = {"kind": "huggingface", "path": str(tmp_path), "classes": 10, **STATISTICS}
    if "transformers" not in sys.modules:
        with pytest.raises(ValueError, match=r"expected the package transformers .*, got none — pip install"):
            convert_classifier(settings)


def test_a_hugging_face_folder_is_filled_into_the_model_of_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for transformers that has its two calls: a linear model whose class names are in `config`."""

    class Model(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.classifier = nn.Linear(3, config.num_labels)

        def forward(self, images: Tensor) -> Any:
            return SimpleNamespace(logits=self.classifier(images.mean(dim=(2, 3))))

    fake = SimpleNamespace(
        AutoConfig=SimpleNamespace(for_model=lambda kind, **settings: SimpleNamespace(kind=kind, **settings)),
        AutoModelForImageClassification=SimpleNamespace(from_config=Model),
    )
    monkeypatch.setitem(sys.modules, "transformers", fake)
    source = Model(SimpleNamespace(num_labels=10))
    folder, ours = tmp_path / "hub", tmp_path / "ours"
    folder.mkdir()
    ours.mkdir()
    save_model(folder, {"model_type": "linear", "num_labels": 10}, source.state_dict())
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "model.safetensors")
    settings = {"kind": "huggingface", "path": str(folder), "classes": 10, **STATISTICS}
    save_model(ours, *convert_classifier(settings))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(STATISTICS[key])[:, None, None] for key in ("mean", "std"))
    expected = source((images - mean) / std).logits
    assert torch.allclose(load_classifier(ours, CPU, torch.float32)(images), expected, atol=1e-6)
    assert "network.model.classifier.weight" in read_tensors(ours / "diffusion_pytorch_model.safetensors")
