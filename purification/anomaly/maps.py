"""Multiscale error maps between images and their reconstructions, on [-1, 1] images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ErrorMap:
    """Squared error at several scales, averaged, then smoothed (AdvRAD, Cao et al. 2024, arXiv 2408.04839).

    Err_f = mean over channels of (down_f(u0) - down_f(u~))^2, Err_ms = filter(mean over f of up_f(Err_f))

    factors  downsampling factors by block means; 1 is full size. Maps come back to it bilinearly
    window   side of the mean filter, odd; borders are repeated, so that the weights of every window sum to 1
    """

    factors: tuple[int, ...]
    window: int

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"expected an odd window >= 1, got {self.window} — add 1")
        if not self.factors or min(self.factors) < 1:
            raise ValueError(f"expected factors >= 1, got {list(self.factors)} — [1] is full size alone")

    def __call__(self, seen: Tensor, rebuilt: Tensor) -> Tensor:
        """Map (B, H, W) of images (B, C, H, W) and reconstructions (B, m, C, H, W), averaged over the m of them."""
        batch, shots, channels, height, width = rebuilt.shape
        if any(height % factor or width % factor for factor in self.factors):
            raise ValueError(
                f"expected factors that divide {height} x {width}, got {list(self.factors)} — change the scales"
            )
        difference = (seen[:, None] - rebuilt).reshape(batch * shots, channels, height, width)
        parts = [self._at(difference, factor) for factor in self.factors]
        mean = torch.stack(parts).mean(dim=0)
        padded = F.pad(mean, (self.window // 2,) * 4, mode="replicate")
        smooth = F.avg_pool2d(padded, self.window, stride=1)
        return smooth.view(batch, shots, height, width).mean(dim=1)

    @staticmethod
    def _at(difference: Tensor, factor: int) -> Tensor:
        """(n, 1, H, W) error at one scale, at full size."""
        error = F.avg_pool2d(difference, factor).square().mean(dim=1, keepdim=True)
        size = difference.shape[-2:]
        return F.interpolate(error, size=size, mode="bilinear", align_corners=False)
