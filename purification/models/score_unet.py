"""DDPM++ of score-based SDEs (Song et al. 2021), continuous VP, with its published parameter names `all_modules.k`.

Residual blocks in BigGAN's style: they resample themselves by the mean of 2x2 pixels or by repeating each, and sums
with a shortcut are divided by sqrt(2). The network predicts the noise; its time label is 999 t, t = (index + 1) / T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of every group norm
LABEL = 999.0  # time label at t = 1


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=EPS)


class BigGanBlock(nn.Module):
    """norm-SiLU-[resample]-conv, plus time, norm-SiLU-conv, plus shortcut, over sqrt(2)."""

    def __init__(self, channels_in: int, channels_out: int, time: int, resample: str) -> None:
        super().__init__()
        self.resample = resample
        self.GroupNorm_0 = _norm(channels_in)
        self.Conv_0 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.Dense_0 = nn.Linear(time, channels_out)
        self.GroupNorm_1 = _norm(channels_out)
        self.Conv_1 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out or resample != "same":
            self.Conv_2 = nn.Conv2d(channels_in, channels_out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.Conv_0(self._resampled(F.silu(self.GroupNorm_0(x)))) + self.Dense_0(time)[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        x = self._resampled(x)
        return cast(Tensor, ((self.Conv_2(x) if hasattr(self, "Conv_2") else x) + h) / math.sqrt(2.0))


class _Nin(nn.Module):
    """A linear map of the channels, stored as (in, out)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(channels, channels))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens @ self.W + self.b


class AttentionBlock(nn.Module):
    """Self-attention over pixels with one head, plus the input, over sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (_Nin(channels) for _ in range(4))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.GroupNorm_0(x).flatten(2).mT
        h = F.scaled_dot_product_attention(self.NIN_0(h)[:, None], self.NIN_1(h)[:, None], self.NIN_2(h)[:, None])
        h = self.NIN_3(h[:, 0]).mT.reshape(x.shape)
        return cast(Tensor, (x + h) / math.sqrt(2.0))


class ScoreUNet(nn.Module):
    """eps(u, t): u (B, C, H, W) on [-1, 1], t a scalar noise index -> (B, C, H, W).

    config  size, channels, width, multipliers (per resolution), layers (residual blocks per resolution), attention
            (sides of the feature maps with attention), train_steps (T, which turns an index into a time)
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, channels, self.train_steps = config["width"], config["channels"], config["train_steps"]
        self.width, time = width, 4 * width
        modules: list[nn.Module] = [nn.Linear(width, time), nn.Linear(time, time)]
        modules.append(nn.Conv2d(channels, width, 3, padding=1))
        widths = [width * multiplier for multiplier in config["multipliers"]]
        plan: list[str] = []  # what the forward pass does with each module after the first three

        def add(module: nn.Module, action: str) -> None:
            modules.append(module)
            plan.append(action)

        side, current, skips = config["size"], width, [width]
        for number, out in enumerate(widths):
            for _ in range(config["layers"]):
                attend = side in config["attention"]
                add(BigGanBlock(current, out, time, "same"), "apply" if attend else "keep")
                if attend:
                    add(AttentionBlock(out), "keep")
                current = out
                skips.append(current)
            if number < len(widths) - 1:
                add(BigGanBlock(current, current, time, "down"), "keep")
                skips.append(current)
                side //= 2
        for module in (BigGanBlock(current, current, time, "same"), AttentionBlock(current)):
            add(module, "apply")
        add(BigGanBlock(current, current, time, "same"), "apply")
        for number, out in reversed(list(enumerate(widths))):
            for _ in range(config["layers"] + 1):
                add(BigGanBlock(current + skips.pop(), out, time, "same"), "join")
                current = out
            if side in config["attention"]:
                add(AttentionBlock(current), "apply")
            if number:
                add(BigGanBlock(current, current, time, "up"), "apply")
                side *= 2
        modules += [_norm(current), nn.Conv2d(current, channels, 3, padding=1)]
        self.all_modules, self.plan = nn.ModuleList(modules), tuple(plan)

    def embed(self, labels: Tensor) -> Tensor:
        """SiLU of the embedding of time labels (B,) float32, (B, 4 * width)."""
        half, weight = self.width // 2, cast(Tensor, self.all_modules[0].weight)
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=weight.device) / (half - 1)
        angles = labels[:, None] * torch.exp(exponent)
        features = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1).to(weight.dtype)
        return F.silu(self.all_modules[1](F.silu(self.all_modules[0](features))))

    def forward(self, u: Tensor, index: float) -> Tensor:
        return self.labelled(u, torch.tensor([LABEL * (float(index) + 1.0) / self.train_steps], device=u.device))

    def labelled(self, u: Tensor, labels: Tensor) -> Tensor:
        """The same at time labels (B,) or (1,), float32."""
        time, modules = self.embed(labels), list(self.all_modules)
        x = modules[2](u)
        skips = [x]
        for module, action in zip(modules[3:-2], self.plan, strict=True):
            x = module(torch.cat([x, skips.pop()], dim=1) if action == "join" else x, time)
            if action == "keep":
                skips.append(x)
        return cast(Tensor, modules[-1](F.silu(modules[-2](x))))
