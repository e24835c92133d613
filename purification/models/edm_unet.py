"""DDPM++ in EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364), a noise predictor on any VP schedule.

A state u = sqrt(abar) u_0 + sqrt(1 - abar) eps is y = u / sqrt(abar) = u_0 + sigma eps, sigma^2 = (1 - abar) / abar.
EDM's denoiser D(y; sigma) = c_skip y + c_out F(c_in y; c_noise) (its eq. 7), s its sigma_data:

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2), c_in = 1 / sqrt(sigma^2 + s^2),
    c_noise = ln(sigma) / 4 (its table 1).

The noise is (y - D) / sigma = sigma y / (sigma^2 + s^2) - s F / sqrt(sigma^2 + s^2), which has no difference of close
numbers. F is the DDPM++ of `score_unet` with other names; its time label is c_noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from purification.models.score_unet import ScoreUNet

BLOCK = {"norm0": "GroupNorm_0", "conv0": "Conv_0", "affine": "Dense_0", "norm1": "GroupNorm_1", "conv1": "Conv_1"}
SKIP = {"skip": "Conv_2"}  # of a block that resamples or changes the number of channels
PARTS = ("weight", "bias")
QKV, OUT = ("NIN_0", "NIN_1", "NIN_2"), "NIN_3"
FILTER = ".resample_filter"


class EdmUNet(nn.Module):
    """eps(u, sigma): u (B, C, H, W) on [-1, 1], sigma > 0 a number or (B,) -> (B, C, H, W).

    config  as of `ScoreUNet` without train_steps, and sigma_data
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.sigma_data = config["sigma_data"]
        self.network = ScoreUNet({**config, "train_steps": 1})

    def forward(self, u: Tensor, sigma: float | Tensor) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=torch.float64, device=u.device).reshape(-1)
        square = (levels.square() + self.sigma_data**2).view(-1, 1, 1, 1)
        scale = (1.0 + levels.square()).sqrt().view(-1, 1, 1, 1)  # of y against u
        predicted = self.network.labelled((scale / square.sqrt()).to(u) * u, (levels.log() / 4.0).float())
        kept = levels.view(-1, 1, 1, 1) * scale / square
        out: Tensor = kept.to(u) * u - (self.sigma_data / square.sqrt()).to(u) * predicted
        return out


def _blocks(config: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(name in the release, whether attention follows) of the residual blocks, in the order of `ScoreUNet`."""
    layers, sides = config["layers"], [config["size"] >> k for k in range(len(config["multipliers"]))]
    found: list[tuple[str, bool]] = []
    for k, side in enumerate(sides):
        found += [(f"enc.{side}x{side}_down", False)] if k else []
        found += [(f"enc.{side}x{side}_block{i}", side in config["attention"]) for i in range(layers)]
    found += [(f"dec.{side}x{side}_in0", True), (f"dec.{side}x{side}_in1", False)]
    for k, side in reversed(list(enumerate(sides))):
        found += [(f"dec.{side}x{side}_up", False)] if k < len(sides) - 1 else []
        last = side in config["attention"]
        found += [(f"dec.{side}x{side}_block{i}", last and i == layers) for i in range(layers + 1)]
    return found


def _plain(config: Mapping[str, Any], own: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, str]]:
    """Modules of the release that only change their names -> ours, and the blocks with attention -> ours."""
    side = config["size"]
    names = {"map_layer0": "0", "map_layer1": "1", f"enc.{side}x{side}_conv": "2"}
    attentions, number = {}, 3
    for block, attended in _blocks(config):
        parts = {**BLOCK, **(SKIP if f"network.all_modules.{number}.Conv_2.weight" in own else {})}
        names |= {f"{block}.{theirs}": f"{number}.{ours}" for theirs, ours in parts.items()}
        number += 1
        if attended:
            names[f"{block}.norm2"] = f"{number}.GroupNorm_0"
            attentions[block] = str(number)
            number += 1
    names |= {f"dec.{side}x{side}_aux_norm": str(number), f"dec.{side}x{side}_aux_conv": str(number + 1)}
    return names, attentions


def released_layout(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of the release's weights of this network, as tensors on no device."""
    with torch.device("meta"):
        own = EdmUNet(config).state_dict()
    names, attentions = _plain(config, own)
    layout = {f"{old}.{part}": own[f"network.all_modules.{new}.{part}"] for old, new in names.items() for part in PARTS}
    for block, number in attentions.items():
        size = len(own[f"network.all_modules.{number}.{OUT}.b"])
        for name, rows in (("qkv", 3 * size), ("proj", size)):
            layout |= {f"{block}.{name}.weight": torch.empty(rows, size, 1, 1, device="meta")}
            layout |= {f"{block}.{name}.bias": torch.empty(rows, device="meta")}
    return layout


def from_released(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of the release, which have exactly the layout's names, as those of `EdmUNet`.

    Rows 3 c, 3 c + 1 and 3 c + 2 of `qkv` are channel c of query, key and value.
    """
    with torch.device("meta"):
        names, attentions = _plain(config, EdmUNet(config).state_dict())
    found = {f"{new}.{part}": state[f"{old}.{part}"] for old, new in names.items() for part in PARTS}
    for block, number in attentions.items():
        for k, name in enumerate(QKV):
            found[f"{number}.{name}.W"] = state[f"{block}.qkv.weight"][k::3, :, 0, 0].T
            found[f"{number}.{name}.b"] = state[f"{block}.qkv.bias"][k::3]
        found[f"{number}.{OUT}.W"] = state[f"{block}.proj.weight"][:, :, 0, 0].T
        found[f"{number}.{OUT}.b"] = state[f"{block}.proj.bias"]
    return {f"network.all_modules.{name}": value.contiguous() for name, value in found.items()}
