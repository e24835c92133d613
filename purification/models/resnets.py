"""Published residual classifiers, with the parameter names of the layouts that their weights are published in."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)


class _Plain(nn.Module):
    """Two 3x3 convolutions; where the width changes, the shortcut keeps every second pixel and pads with zeros."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, channels_out - channels_in
        self.conv1, self.bn1 = _conv(channels_in, channels_out, 3, stride), nn.BatchNorm2d(channels_out)
        self.conv2, self.bn2 = _conv(channels_out, channels_out, 3), nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        half = self.added // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half)) if self.added else x
        return F.relu(h + shortcut)


class CifarResNet(nn.Module):
    """CIFAR ResNet of depth 6 n + 2 with parameter-free shortcuts (He et al. 2016, section 4.2, option A)."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"expected a depth of 6 n + 2 (20, 32, 44, 56, 110), got {depth} — correct `depth`")
        self.conv1, self.bn1 = _conv(3, 16, 3), nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(channels_in: int, width: int, stride: int, blocks: int) -> nn.Sequential:
        first = _Plain(channels_in, width, stride)
        return nn.Sequential(first, *(_Plain(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return cast(Tensor, self.linear(h.mean(dim=(2, 3))))


class _Wide(nn.Module):
    """Norm and ReLU before each convolution; where the width changes they precede the shortcut, too."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels_in), _conv(channels_in, channels_out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels_out), _conv(channels_out, channels_out, 3)
        if channels_in != channels_out:
            self.convShortcut = _conv(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        h = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return cast(Tensor, h + (self.convShortcut(active) if hasattr(self, "convShortcut") else x))


class _Stage(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer(x))


class WideResNet(nn.Module):
    """WRN-depth-width (Zagoruyko & Komodakis 2016), named as RobustBench's "Standard" networks."""

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"expected a depth of 6 n + 4 (28, 34, 70), got {depth} — correct `depth`")
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = _conv(3, 16, 3)
        stages = [
            _Stage([_Wide(a, b, stride), *(_Wide(b, b, 1) for _ in range((depth - 4) // 6 - 1))])
            for a, b, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
        ]
        self.block1, self.block2, self.block3 = stages
        self.bn1, self.fc = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        return cast(Tensor, self.fc(F.relu(self.bn1(h)).mean(dim=(2, 3))))


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, channels_out, 1), nn.BatchNorm2d(channels_out)
        if channels_in != channels_out or stride != 1:
            self.downsample = nn.Sequential(_conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(h)) + (self.downsample(x) if hasattr(self, "downsample") else x))


class ImageNetResNet(nn.Module):
    """ResNet-50 with the stride in the 3x3 convolution, named as torchvision's; `width` 2 is Wide ResNet-50-2.

    blocks  bottlenecks per stage: (3, 4, 6, 3) is depth 50
    """

    def __init__(self, blocks: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        current, stages = 64, []
        for number, count in enumerate(blocks):
            base = 64 * 2**number
            layers = []
            for k in range(count):
                layers.append(_Bottleneck(current, base * width, 4 * base, 2 if number and not k else 1))
                current = 4 * base
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(current, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return cast(Tensor, self.fc(h.mean(dim=(2, 3))))
