"""The forward pass of diffusers' `UNet2DModel`, without diffusers.

Purification calls the network thousands of times and differentiates through it, so the evaluation path has no
dispatch, no dropout, one time embedding per noise level instead of one per image, and a short import. Parameter names
are those of `UNet2DModel`: its state dict loads strictly, and a test compares outputs and gradients with diffusers.

Supported: DownBlock2D / AttnDownBlock2D / UpBlock2D / AttnUpBlock2D, any number of channels and layers, positional time
embedding, default scale-shift, SiLU, attention with `attention_head_dim`. `UNet.from_config` refuses anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "act_fn": "silu",
    "resnet_time_scale_shift": "default",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "time_embedding_dim": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "attn_norm_num_groups": None,
}
_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D")


def _silu_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))


class ResnetBlock(nn.Module):
    """norm-SiLU-conv, plus time bias, norm-SiLU-conv, plus shortcut."""

    def __init__(self, channels_in: int, channels_out: int, time_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.conv_shortcut: nn.Module = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(_silu_norm(self.norm1, x)) + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(_silu_norm(self.norm2, h))
        return cast(Tensor, (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h)


class Attention(nn.Module):
    """Self-attention over pixels with a residual connection."""

    def __init__(self, channels: int, head_dim: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = channels // (head_dim or channels)
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2)

        def split(t: Tensor) -> Tensor:
            return t.view(batch, -1, self.heads, channels // self.heads).transpose(1, 2)

        h = F.scaled_dot_product_attention(split(self.to_q(h)), split(self.to_k(h)), split(self.to_v(h)))
        h = self.to_out[0](h.transpose(1, 2).reshape(batch, -1, channels))
        return x + cast(Tensor, h).transpose(1, 2).view(batch, channels, height, width)


class Resample(nn.Module):
    """Strided convolution down, or nearest-neighbour 2x and convolution up."""

    def __init__(self, channels: int, *, up: bool, padding: int = 1) -> None:
        super().__init__()
        self.up, self.padding = up, padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1 if up else padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.padding == 0:
            x = F.pad(x, (0, 1, 0, 1))
        return cast(Tensor, self.conv(x))


class Block(nn.Module):
    """Resnet blocks, each followed by attention where the block has any, and a resampler at the end or none."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions) if attentions else None
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def layer(self, i: int, x: Tensor, time: Tensor) -> Tensor:
        """Resnet block i and, where there is one, its attention."""
        x = self.resnets[i](x, time)
        return cast(Tensor, self.attentions[i](x)) if self.attentions and i < len(self.attentions) else x


class TimeEmbedding(nn.Module):
    """Two linear layers with a SiLU between and after them."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels_in, channels_out)
        self.linear_2 = nn.Linear(channels_out, channels_out)

    def forward(self, features: Tensor) -> Tensor:
        return F.silu(self.linear_2(F.silu(self.linear_1(features))))


class UNet(nn.Module):
    """eps(u, t) of an unconditional DDPM network.

    u (B, C, H, W) on [-1, 1], t a scalar noise index (float allowed) -> (B, out_channels, H, W).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        widths = list(config["block_out_channels"])
        layers, groups, eps = config["layers_per_block"], config["norm_num_groups"], config["norm_eps"]
        self.frequency_channels = widths[0]
        self.flip, self.freq_shift = config["flip_sin_to_cos"], config["freq_shift"]
        time = widths[0] * 4
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time)

        def block(pairs: list[tuple[int, int]], attend: bool, attentions: int | None = None) -> Block:
            resnets = [ResnetBlock(a, b, time, groups, eps) for a, b in pairs]
            head = config["attention_head_dim"]
            attended = pairs[:attentions] if attend else []
            return Block(resnets, [Attention(b, head, groups, eps) for _, b in attended])

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, kind in enumerate(config["down_block_types"]):
            source = widths[max(i - 1, 0)]
            down = block([(source if j == 0 else widths[i], widths[i]) for j in range(layers)], "Attn" in kind)
            skips += [widths[i]] * layers
            if i < len(widths) - 1:
                down.downsamplers = nn.ModuleList([Resample(widths[i], up=False, padding=config["downsample_padding"])])
                skips.append(widths[i])
            self.down_blocks.append(down)
        self.mid_block = block([(widths[-1], widths[-1])] * 2, config["add_attention"], attentions=1)
        self.up_blocks = nn.ModuleList()
        current = widths[-1]
        for i, kind in enumerate(config["up_block_types"]):
            width = widths[-1 - i]
            pairs = []
            for _ in range(layers + 1):
                pairs.append((current + skips.pop(), width))
                current = width
            up = block(pairs, "Attn" in kind)
            if i < len(widths) - 1:
                up.upsamplers = nn.ModuleList([Resample(width, up=True)])
            self.up_blocks.append(up)
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=eps)
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> UNet:
        """Network of a diffusers `config.json`; raises ValueError on an option this forward pass does not have."""
        for key, value in _FIXED.items():
            if config.get(key, value) != value:
                raise ValueError(f"expected UNet option {key} = {value!r}, got {config[key]!r} — not supported here")
        for kind in (*config["down_block_types"], *config["up_block_types"]):
            if kind not in _BLOCKS:
                raise ValueError(f"expected UNet blocks among {_BLOCKS}, got {kind!r} — not supported here")
        defaults = {"norm_eps": 1e-5, "attention_head_dim": 8, "flip_sin_to_cos": True, "freq_shift": 0}
        return cls({**defaults, "downsample_padding": 1, "add_attention": True, **config})

    def embed(self, index: float) -> Tensor:
        """SiLU of the time embedding of one noise index, (1, 4 * width)."""
        half = self.frequency_channels // 2
        weight = self.time_embedding.linear_1.weight
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=weight.device)
        angles = float(index) * torch.exp(exponent / (half - self.freq_shift))
        parts = [torch.cos(angles), torch.sin(angles)] if self.flip else [torch.sin(angles), torch.cos(angles)]
        h = torch.cat(parts)[None].to(weight.dtype)
        return cast(Tensor, self.time_embedding(h))

    def forward(self, u: Tensor, index: float) -> Tensor:
        factor = 2 ** (len(self.down_blocks) - 1)
        if any(side % factor for side in u.shape[-2:]):
            raise ValueError(
                f"expected images whose sides are multiples of {factor}, got {tuple(u.shape[-2:])} — resize them "
                "or use fewer blocks"
            )
        time = self.embed(index)
        x = self.conv_in(u)
        skips = [x]
        for down in cast(Iterable[Block], self.down_blocks):
            for i in range(len(down.resnets)):
                x = down.layer(i, x, time)
                skips.append(x)
            if down.downsamplers:
                x = down.downsamplers[0](x)
                skips.append(x)
        for i in range(len(self.mid_block.resnets)):
            x = self.mid_block.layer(i, x, time)
        for up in cast(Iterable[Block], self.up_blocks):
            for i in range(len(up.resnets)):
                x = up.layer(i, torch.cat([x, skips.pop()], dim=1), time)
            if up.upsamplers:
                x = up.upsamplers[0](x)
        return cast(Tensor, self.conv_out(_silu_norm(self.conv_norm_out, x)))
