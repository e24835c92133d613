"""Models on disk: a folder with `config.json` and safetensors weights. Nothing pickled is ever read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from purification.models.classifiers import Classifier, ResidualNetwork
from purification.models.denoisers import Denoiser, GaussianEpsilon, network_epsilon
from purification.models.unet import UNet
from purification.schedule import Schedule

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
    weights = load_file(folder / WEIGHTS, device=str(device))
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"expected finite weights in {folder / WEIGHTS}, got NaN or infinity in {broken[0]!r}")
    return json.loads((folder / CONFIG).read_text()), weights


def load_classifier(folder: Path, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Frozen classifier in evaluation mode."""
    config, weights = _read(folder, device)
    network = ResidualNetwork(config["channels"], config["classes"], config["widths"])
    network.load_state_dict(weights, strict=True)
    return network.to(device, dtype).eval().requires_grad_(False)


def load_denoiser(folder: Path, schedule: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Denoiser:
    """Frozen denoiser: a diffusers `UNet2DModel` folder, or the Gaussian null model."""
    config, weights = _read(folder, device)
    table = Schedule(schedule["beta_start"], schedule["beta_end"], schedule["train_steps"])
    if config.get("kind") == "gaussian":
        return Denoiser(GaussianEpsilon(**{name: tensor.to(dtype) for name, tensor in weights.items()}), table)
    network = UNet.from_config(config)
    network.load_state_dict(weights, strict=True)
    return Denoiser(network_epsilon(network.to(device, dtype)), table)
