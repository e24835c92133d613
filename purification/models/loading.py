"""Models on disk: a folder with `config.json` and safetensors weights. Nothing pickled is ever read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from purification.models.classifiers import Classifier, ResidualNetwork
from purification.models.denoisers import (
    Denoiser,
    Epsilon,
    GaussianEpsilon,
    StationaryEpsilon,
    network_epsilon,
    preconditioned_epsilon,
)
from purification.models.edm_unet import EdmUNet
from purification.models.guided_unet import GuidedUNet
from purification.models.published import published_network
from purification.models.score_unet import ScoreUNet
from purification.models.unet import UNet
from purification.schedule import Schedule
from purification.tensor_files import read_tensors

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name: `UNet2DModel.from_pretrained` reads our folders


def save_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write config and weights of a model into an existing folder."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)


def _read(folder: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"expected a model with {name} in {folder}, found none — correct the path or train it")
    weights = read_tensors(folder / WEIGHTS, device=device)
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"expected finite weights in {folder / WEIGHTS}, got NaN or infinity in {broken[0]!r}")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(
            f"expected JSON in {folder / CONFIG}, got an error ({error}) — delete it and run again"
        ) from error
    return config, weights


def _fill(network: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load weights strictly; raises ValueError that names the file when they belong to another network."""
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(
            f"expected the weights of the network of {CONFIG} in {folder / WEIGHTS}, got others ({first[0].strip()}) — "
            "delete the folder and run again"
        ) from error


def _residual(settings: Mapping[str, Any]) -> nn.Module:
    return ResidualNetwork(settings["channels"], settings["classes"], settings["widths"])


PUBLISHED: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "cifar_resnet": published_network,
    "wide_resnet": published_network,
    "imagenet_resnet": published_network,
    "vision_transformer": published_network,
    "huggingface": published_network,
}


def load_classifier(folder: Path, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Frozen classifier in evaluation mode, trained by the workflow or published."""
    settings, weights = _read(folder, device)
    if settings["kind"] == "residual":  # also guides, whose kind is in no job's settings
        network = _residual(settings)
    elif settings["kind"] in PUBLISHED:
        network = PUBLISHED[settings["kind"]](settings)
    else:
        raise ValueError(f"expected a classifier in {folder}, got {settings['kind']!r} — delete it and run again")
    _fill(network, weights, folder)
    return network.to(device, dtype).eval().requires_grad_(False)


ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": UNet.from_config,
    "guided_diffusion": GuidedUNet,
    "score_sde": ScoreUNet,
    "edm": EdmUNet,
}
PREDICTORS: dict[str, Callable[[nn.Module], Epsilon]] = {
    "unet": network_epsilon,
    "guided_diffusion": network_epsilon,
    "score_sde": network_epsilon,
    "edm": preconditioned_epsilon,
}


class Sampled(nn.Module):
    """A network in diffusers' way to call it: network(u, position).sample."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, u: Tensor, positions: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.network(u, positions))


def load_trainable(folder: Path) -> tuple[dict[str, Any], Sampled]:
    """Configuration and network of a converted denoiser, in float32 with gradients."""
    config, weights = _read(folder, torch.device("cpu"))
    network = ARCHITECTURES[config["kind"]](config)
    _fill(network, weights, folder)
    return config, Sampled(network)


def load_denoiser(folder: Path, schedule: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Denoiser:
    """Frozen denoiser: a diffusers `UNet2DModel` folder, a converted network, or the Gaussian null model."""
    config, weights = _read(folder, device)
    table = Schedule(schedule["beta_start"], schedule["beta_end"], schedule["train_steps"])
    if config.get("kind") == "gaussian":
        read_tensors(folder / WEIGHTS, [field.name for field in fields(GaussianEpsilon)])
        return Denoiser(GaussianEpsilon(**{name: tensor.to(dtype) for name, tensor in weights.items()}), table)
    if config.get("kind") == "stationary":
        read_tensors(folder / WEIGHTS, [field.name for field in fields(StationaryEpsilon)])
        return Denoiser(StationaryEpsilon(**{name: tensor.to(dtype) for name, tensor in weights.items()}), table)
    architecture = config.get("kind", "unet")
    network = ARCHITECTURES[architecture](config)
    _fill(network, weights, folder)
    return Denoiser(PREDICTORS[architecture](network.to(device, dtype)), table)
