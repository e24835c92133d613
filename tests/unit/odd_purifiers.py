"""Purifiers of Python files that hide from attacks, and honest ones that look odd: `params: {name: <key>}`.

HIDING look robust to an attack that follows their gradient and are not; HONEST are as robust as they look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

Purify = Callable[[Tensor, Any], Tensor]


def _box(x: Tensor) -> Tensor:
    """Mean of the nine pixels around each."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _soft_levels(x: Tensor, slope: float) -> Tensor:
    """Ten steep sigmoids in place of a staircase."""
    thresholds = (torch.arange(10, dtype=x.dtype) + 0.363) / 10
    return torch.sigmoid(slope * (x[..., None] - thresholds)).sum(dim=-1) / 10


def _levels(x: Tensor) -> Tensor:
    return (10 * x + 0.137).round() / 10


def steep_levels(x: Tensor, noise: Any) -> Tensor:
    return _soft_levels(x, 5000.0)


def leaking_levels(x: Tensor, noise: Any) -> Tensor:
    return _soft_levels(x, 400.0) - 0.05 * x


def steep_tanh(x: Tensor, noise: Any) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(60 * (x - 0.5))


def steeper_tanh(x: Tensor, noise: Any) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(400 * (x - 0.5))


def ripple(x: Tensor, noise: Any) -> Tensor:
    """Smooth at a quarter of the budget, and turning back within it."""
    return x + 0.04 * torch.sin(100 * x)


def rounding_at_twice_the_size(x: Tensor, noise: Any) -> Tensor:
    larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return F.avg_pool2d(_levels(larger), 2) - 0.05 * x


def rounding_detached(x: Tensor, noise: Any) -> Tensor:
    return _levels(x.detach()) - 0.05 * x


def rounding(x: Tensor, noise: Any) -> Tensor:
    return _levels(x)


def rounding_of_some_pixels(x: Tensor, noise: Any) -> Tensor:
    rounded = torch.arange(x[0].numel()).view(x[0].shape) % 9 < 4
    return torch.where(rounded, _levels(x), x)


def blurred_while_recorded(x: Tensor, noise: Any) -> Tensor:
    return _box(x) + 0.3 * noise.normal("forward") if torch.is_grad_enabled() else x


def blurred_when_differentiated(x: Tensor, noise: Any) -> Tensor:
    return _box(x) + 0.3 * noise.normal("forward") if x.requires_grad else x


def other_noise_while_recorded(x: Tensor, noise: Any) -> Tensor:
    return x + 0.2 * noise.normal("recorded" if torch.is_grad_enabled() else "evaluated")


def contrast_by_relu(x: Tensor, noise: Any) -> Tensor:
    return 1 - F.relu(1 - F.relu(3 * x - 1))


def contrast_by_where(x: Tensor, noise: Any) -> Tensor:
    low = torch.where(3 * x - 1 > 0, 3 * x - 1, torch.zeros_like(x))
    return torch.where(low < 1, low, torch.ones_like(low))


def contrast_by_clamp(x: Tensor, noise: Any) -> Tensor:
    return (3 * x - 1).clamp(0, 1)


def rounding_in_float32(x: Tensor, noise: Any) -> Tensor:
    return _levels(x) - 0.05 * x if x.dtype == torch.float32 else 0.95 * x


def mostly_detached(x: Tensor, noise: Any) -> Tensor:
    kept = torch.arange(x[0].numel()).view(x[0].shape) % 5 == 0
    return torch.where(kept, x, x.detach())


def reversed_by_a_hook(x: Tensor, noise: Any) -> Tensor:
    result = 1.0 * x
    if result.requires_grad:
        result.register_hook(lambda slope: -slope)
    return result


class _RandomSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.sin(1e4 * x) * slope.abs()


def wrong_backward(x: Tensor, noise: Any) -> Tensor:
    result: Tensor = _RandomSlope.apply(x)
    return result


def fast_sine(x: Tensor, noise: Any) -> Tensor:
    return x + 0.01 * torch.sin(3000 * x)


def hashed_noise(x: Tensor, noise: Any) -> Tensor:
    """Noise that a fractional part makes of every pixel's own value."""
    return x + 0.05 * torch.frac(torch.sin(1e4 * x.detach()) * 43758.5) - 0.05 * x


def sixteen_bit_gradient(x: Tensor, noise: Any) -> Tensor:
    """Scaled so that half precision rounds the slope of every pixel to nothing."""
    return ((x * 2.0**-12).half() * 2.0**12).to(x.dtype) + 0 * x


def rounding_at_odd_sizes(x: Tensor, noise: Any) -> Tensor:
    """Batches of an even number of images are rounded, others are not."""
    return x if len(x) % 2 else _levels(x.detach()) - 0.05 * x


def batch_statistics(x: Tensor, noise: Any) -> Tensor:
    centred = x - x.mean(dim=0, keepdim=True)
    return 0.5 + 0.2 * centred / (x.std(dim=0, keepdim=True, unbiased=False) + 0.05)


def neighbours_mixed(x: Tensor, noise: Any) -> Tensor:
    return 0.7 * x + 0.3 * x.roll(1, dims=0)


def stochastic_levels(x: Tensor, noise: Any) -> Tensor:
    """Rounding with a threshold of its own for every pixel, which the frozen noise freezes."""
    return (10 * x + 0.5 * noise.uniform("forward")).round() / 10 - 0.05 * x


def ranks(x: Tensor, noise: Any) -> Tensor:
    """Every pixel's rank within its image, eight levels of it, and a leak."""
    flat = x.detach().flatten(1)
    ordered = flat.argsort(dim=1).argsort(dim=1).view_as(x)
    return (8 * ordered / x[0].numel()).floor() / 8 - 0.05 * x


class _Counter:
    """Noise and a blur for its first calls, nothing after them."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, noise: Any) -> Tensor:
        self.calls += 1
        return x if self.calls > 40 else _box(x) + 0.3 * noise.normal("forward")


class _GlobalNoise:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor, noise: Any) -> Tensor:
        return x + 0.2 * torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


class _Memory:
    """An image near one that came before gives what that one gave, but for 5 % of its own."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor, noise: Any) -> Tensor:
        return torch.stack([0.95 * self._kept(image.detach()) + 0.05 * image for image in x])

    def _kept(self, image: Tensor) -> Tensor:
        for known in self.seen:
            if float((known - image).abs().max()) < 0.21:
                return known.to(image.dtype)
        self.seen.append(image)
        return image


HIDING: dict[str, Callable[[], Purify]] = {
    **{
        each.__name__: lambda each=each: each
        for each in (
            steep_levels,
            leaking_levels,
            steep_tanh,
            steeper_tanh,
            ripple,
            rounding_at_twice_the_size,
            rounding_detached,
            rounding,
            rounding_of_some_pixels,
            blurred_while_recorded,
            blurred_when_differentiated,
            other_noise_while_recorded,
            contrast_by_relu,
            contrast_by_where,
            contrast_by_clamp,
            rounding_in_float32,
            mostly_detached,
            reversed_by_a_hook,
            wrong_backward,
            fast_sine,
            hashed_noise,
            sixteen_bit_gradient,
            rounding_at_odd_sizes,
            batch_statistics,
            neighbours_mixed,
            stochastic_levels,
            ranks,
        )
    },
    "call_counter": _Counter,
    "global_noise": _GlobalNoise,
    "memory": _Memory,
}


# --- honest ones


def identity(x: Tensor, noise: Any) -> Tensor:
    return x


def constant(x: Tensor, noise: Any) -> Tensor:
    return 0 * x + 0.5


def almost_constant(x: Tensor, noise: Any) -> Tensor:
    return 0.5 + 1e-3 * (x - 0.5)


def contraction(x: Tensor, noise: Any) -> Tensor:
    return 0.5 + 0.2 * (x - 0.5)


def gentle_tanh(x: Tensor, noise: Any) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(4 * (x - 0.5))


def brightening(x: Tensor, noise: Any) -> Tensor:
    """Steep near black, where most pixels are."""
    return (x.clamp_min(0) + 0.01).sqrt()


def clipping(x: Tensor, noise: Any) -> Tensor:
    return x.clamp(0, 1)


def negative(x: Tensor, noise: Any) -> Tensor:
    return 1 - x


def blur(x: Tensor, noise: Any) -> Tensor:
    return _box(x)


def own_contrast(x: Tensor, noise: Any) -> Tensor:
    """Every image brought to the same mean and spread."""
    flat = x.flatten(1)
    mean, spread = flat.mean(dim=1), flat.std(dim=1)
    return 0.4 + 0.3 * (x - mean.view(-1, 1, 1, 1)) / (spread.view(-1, 1, 1, 1) + 0.05)


def sixteen_bits(x: Tensor, noise: Any) -> Tensor:
    return x.half().to(x.dtype)


def brain_floats(x: Tensor, noise: Any) -> Tensor:
    return x.bfloat16().to(x.dtype)


def float32_only(x: Tensor, noise: Any) -> Tensor:
    if x.dtype != torch.float32:
        raise ValueError("expected float32")
    return 0.5 + 0.5 * torch.tanh(3 * (x - 0.5))


def noisy(x: Tensor, noise: Any) -> Tensor:
    return x + 0.1 * noise.normal("forward")


def declared_levels(x: Tensor, noise: Any) -> Tensor:
    """Rounding whose gradient is that of the identity: honest where the entry says `derivative: approximate`."""
    return x + (_levels(x) - x).detach()


def levels_without_derivative(x: Tensor, noise: Any) -> Tensor:
    return _levels(x.detach())


class _Nearest:
    """The nearest of some training images, and 2 % of the image."""

    def __init__(self) -> None:
        data = load_digits()
        self.known = torch.tensor(data.images[800:1600] / 16.0, dtype=torch.float32)

    def __call__(self, x: Tensor, noise: Any) -> Tensor:
        known = self.known.to(x)[:, None]
        distances = torch.cdist(x.flatten(1), known.flatten(1))
        return 0.98 * known[distances.argmin(dim=1)] + 0.02 * x


HONEST: dict[str, Callable[[], Purify]] = {
    **{
        each.__name__: lambda each=each: each
        for each in (
            identity,
            constant,
            almost_constant,
            contraction,
            gentle_tanh,
            brightening,
            clipping,
            negative,
            blur,
            own_contrast,
            sixteen_bits,
            brain_floats,
            float32_only,
            noisy,
            declared_levels,
            levels_without_derivative,
        )
    },
    "nearest_image": _Nearest,
}
DECLARED = ("declared_levels",)  # their entries say derivative: approximate
BUDGETS = {"steep_tanh": 0.3, "steeper_tanh": 0.3, "ripple": 0.05}  # budgets at which these hide


def make_purifier(*, params: dict[str, Any], image_shape: tuple[int, int, int], device: torch.device) -> Purify:
    return {**HIDING, **HONEST}[params["name"]]()
