"""Vision transformers with a class token (Dosovitskiy et al. 2021; DeiT, Touvron et al. 2021), named as timm's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of every layer norm


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(query, key, value)
        return cast(Tensor, self.proj(h.transpose(1, 2).reshape(batch, tokens, width)))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=EPS), _Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=EPS), _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.proj(x).flatten(2).transpose(1, 2))


class VisionTransformer(nn.Module):
    """Logits from the class token. DeiT-S: size 224, patch 16, width 384, depth 12, heads 6."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        if size % patch or width % heads:
            raise ValueError(
                f"expected patches that tile the image and heads that divide the width, got size {size}, patch "
                f"{patch}, width {width}, heads {heads} — correct them"
            )
        self.patch_embed = _Patches(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width, eps=EPS), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1) + self.pos_embed
        for block in cast(Iterable[nn.Module], self.blocks):
            tokens = block(tokens)
        return cast(Tensor, self.head(self.norm(tokens)[:, 0]))
