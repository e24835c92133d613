"""Published classifiers: from an entry of the configuration and a file of weights to a folder of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from purification.models.resnets import CifarResNet, ImageNetResNet, WideResNet
from purification.models.vision_transformer import VisionTransformer
from purification.models.weight_files import matched, read_state

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Normalised(nn.Module):
    """images in [0, 1] -> network((images - mean) / std)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network((images - self.mean[:, None, None]) / self.std[:, None, None]))


def _cifar_resnet(settings: Mapping[str, Any]) -> nn.Module:
    return CifarResNet(settings["depth"], settings["classes"])


def _wide_resnet(settings: Mapping[str, Any]) -> nn.Module:
    return WideResNet(settings["depth"], settings["width"], settings["classes"])


def _imagenet_resnet(settings: Mapping[str, Any]) -> nn.Module:
    return ImageNetResNet(BLOCKS[settings["depth"]], settings["width"], settings["classes"])


def _vision_transformer(settings: Mapping[str, Any]) -> nn.Module:
    names = ("size", "patch", "width", "depth", "heads", "classes")
    return VisionTransformer(*(settings[name] for name in names))


def _huggingface(settings: Mapping[str, Any]) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise ValueError(
            "expected the package transformers for a classifier of kind huggingface, got none — pip install "
            "transformers, or use a kind that needs no package"
        ) from error
    inner = dict(settings["transformers"])
    config = AutoConfig.for_model(inner.pop("model_type"), **inner)
    return _Logits(AutoModelForImageClassification.from_config(config))


class _Logits(nn.Module):
    """A Hugging Face model without its output object; parameters keep the names of its file."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.model(images).logits)


NETWORKS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "cifar_resnet": _cifar_resnet,
    "wide_resnet": _wide_resnet,
    "imagenet_resnet": _imagenet_resnet,
    "vision_transformer": _vision_transformer,
    "huggingface": _huggingface,
}


def published_network(settings: Mapping[str, Any]) -> Normalised:
    """Network of an entry, with its normalisation inside and its initial weights."""
    return Normalised(NETWORKS[settings["kind"]](settings), settings["mean"], settings["std"])


def describe_classifier(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Architecture of a published classifier, without its weights; a Hugging Face folder must be there."""
    config = {key: value for key, value in settings.items() if key not in ("path", "branch")}
    if settings["kind"] == "huggingface":
        config["transformers"] = huggingface_config(Path(settings["path"]))
    return config


def convert_classifier(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a published classifier in our own format; `settings["path"]` is its file.

    Raises ValueError unless the file has exactly the weights of the network that the settings describe.
    """
    path, config = Path(settings["path"]), describe_classifier(settings)
    if settings["kind"] == "huggingface":
        path /= "model.safetensors"
    network = published_network(config)
    inner = network.network
    wanted = (inner.model if isinstance(inner, _Logits) else inner).state_dict()
    advice = "correct the entry's kind and sizes, or fetch the file of this network"
    state = matched(read_state(path, settings.get("branch")), wanted, path, advice)
    inside = "network.model." if isinstance(inner, _Logits) else "network."
    weights = {f"{inside}{name}": value for name, value in state.items()}
    return config, {"mean": network.mean, "std": network.std, **weights}


def huggingface_config(folder: Path) -> dict[str, Any]:
    """Content of the `config.json` of a Hugging Face folder."""
    import json

    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"expected a Hugging Face folder at {folder}, got an error ({said}) — fetch it") from error
    if "model_type" not in config:
        raise ValueError(f"expected `model_type` in {folder / 'config.json'}, got none — fetch the folder again")
    return config
