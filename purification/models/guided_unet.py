"""The U-Net of guided diffusion (ADM; Dhariwal & Nichol 2021), unconditional, with its published parameter names.

Residual blocks scale and shift by the time embedding and resample themselves; attention has heads of fixed width.
A network that learns variances has twice the channels at its end; the first half is the noise estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of every group norm, eps 1e-5


class _Empty(nn.Module):
    """A place in a published list that holds no weights."""


class ResBlock(nn.Module):
    """norm-SiLU-[resample]-conv, norm, scale and shift, SiLU-conv, plus the resampled shortcut."""

    def __init__(self, channels_in: int, channels_out: int, time: int, resample: str) -> None:
        super().__init__()
        self.resample = resample
        first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.in_layers = nn.ModuleList([nn.GroupNorm(GROUPS, channels_in), _Empty(), first])
        self.emb_layers = nn.ModuleList([_Empty(), nn.Linear(time, 2 * channels_out)])
        self.out_layers = nn.ModuleList([nn.GroupNorm(GROUPS, channels_out), _Empty(), _Empty(), second])
        if channels_in != channels_out:
            self.skip_connection = nn.Conv2d(channels_in, channels_out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers[2](self._resampled(F.silu(self.in_layers[0](x))))
        x = self._resampled(x)
        scale, shift = self.emb_layers[1](time)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[3](F.silu(self.out_layers[0](h) * (1.0 + scale) + shift))
        return cast(Tensor, (self.skip_connection(x) if hasattr(self, "skip_connection") else x) + h)


class AttentionBlock(nn.Module):
    """Self-attention over pixels; the channels of `qkv` are grouped by head, then query, key, value."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        flat = x.flatten(2)
        query, key, value = self.qkv(self.norm(flat)).view(batch, self.heads, 3, -1, height * width).unbind(2)
        h = F.scaled_dot_product_attention(query.mT, key.mT, value.mT).mT.reshape(batch, channels, -1)
        return cast(Tensor, (flat + self.proj_out(h)).view(batch, channels, height, width))


class GuidedUNet(nn.Module):
    """eps(u, t): u (B, C, H, W) on [-1, 1], t a scalar noise index -> (B, C, H, W).

    config  size, channels, width, multipliers (per resolution), layers (residual blocks per resolution), attention
            (sides of the feature maps with attention), head_channels, learned_variance
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, self.channels = config["width"], config["channels"]
        self.width, time = width, 4 * width
        self.time_embed = nn.ModuleList([nn.Linear(width, time), _Empty(), nn.Linear(time, time)])
        widths = [width * multiplier for multiplier in config["multipliers"]]

        def attention(channels: int, side: int) -> list[nn.Module]:
            attend = side in config["attention"]
            return [AttentionBlock(channels, config["head_channels"])] if attend else []

        side, current = config["size"], widths[0]
        inputs = [nn.ModuleList([nn.Conv2d(self.channels, current, 3, padding=1)])]
        skips = [current]
        for number, out in enumerate(widths):
            for _ in range(config["layers"]):
                block = ResBlock(current, out, time, "same")
                inputs.append(nn.ModuleList([block, *attention(out, side)]))
                current = out
                skips.append(current)
            if number < len(widths) - 1:
                inputs.append(nn.ModuleList([ResBlock(current, current, time, "down")]))
                skips.append(current)
                side //= 2
        middle = [ResBlock(current, current, time, "same") for _ in range(2)]
        inner = AttentionBlock(current, config["head_channels"])
        outputs = []
        for number, out in reversed(list(enumerate(widths))):
            for k in range(config["layers"] + 1):
                block = ResBlock(current + skips.pop(), out, time, "same")
                up = number and k == config["layers"]
                more = [ResBlock(out, out, time, "up")] if up else []
                outputs.append(nn.ModuleList([block, *attention(out, side), *more]))
                current = out
                side *= 2 if up else 1
        self.input_blocks, self.output_blocks = nn.ModuleList(inputs), nn.ModuleList(outputs)
        self.middle_block = nn.ModuleList([middle[0], inner, middle[1]])
        last = nn.Conv2d(current, self.channels * (2 if config["learned_variance"] else 1), 3, padding=1)
        self.out = nn.ModuleList([nn.GroupNorm(GROUPS, current), _Empty(), last])

    def embed(self, index: float) -> Tensor:
        """SiLU of the time embedding of one noise index, (1, 4 * width)."""
        half, weight = self.width // 2, cast(Tensor, self.time_embed[0].weight)
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=weight.device) / half
        angles = float(index) * torch.exp(exponent)
        features = torch.cat([torch.cos(angles), torch.sin(angles)])[None].to(weight.dtype)
        return F.silu(self.time_embed[2](F.silu(self.time_embed[0](features))))

    def forward(self, u: Tensor, index: float) -> Tensor:
        time = self.embed(index)
        blocks = list(cast(Iterable[nn.ModuleList], self.input_blocks))
        x = blocks[0][0](u)
        skips = [x]
        for block in blocks[1:]:
            for part in block:
                x = part(x, time)
            skips.append(x)
        for part in self.middle_block:
            x = part(x, time)
        for block in cast(Iterable[nn.ModuleList], self.output_blocks):
            x = torch.cat([x, skips.pop()], dim=1)
            for part in block:
                x = part(x, time)
        return cast(Tensor, self.out[2](F.silu(self.out[0](x))))[:, : self.channels]
