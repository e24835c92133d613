"""Cost of a pass of a published network, and a stand-in that counts the passes of a unit of work.

A pass of such a network takes seconds to minutes and a unit hundreds of passes. The stand-in costs nothing; every pass
that it sees adds the seconds that one pass of the real network took to the processor time of what runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from purification.models.denoisers import Epsilon
from purification.models.loading import ARCHITECTURES, PREDICTORS
from purification.models.published_denoisers import describe_denoiser
from purification.schedule import Level

SMALLER = 4  # the side at which backward passes and float64 are compared with a forward pass is so many times smaller
LEAST = 32  # pixels, the smallest such side
MIDDLE = Level(100.0, 0.9)  # no level costs more than another


@dataclass(frozen=True)
class Passes:
    """Of one image.

    forward, backward  seconds of a pass
    weights, kept      bytes of the weights, and of what a forward pass keeps for its backward pass
    operations         floating-point operations of a forward pass, counted (a multiplication and an addition are two)
    """

    forward: float
    backward: float
    weights: float
    kept: float
    operations: float

    def sentence(self, name: str) -> str:
        """What a pass costs here; on another device hours change as the seconds of these two passes do."""
        return (
            f"{name}, one image: forward pass {self.forward:.3g} s ({self.operations / 1e9:.4g} GFLOP), backward pass "
            f"{self.backward:.3g} s, {self.weights / 1e9:.2g} GB of weights, {self.kept / 1e9:.2g} GB kept for it"
        )


@dataclass
class Tally:
    """Passes that stand-ins have seen, as seconds and as the largest number of bytes."""

    seconds: float = 0.0
    memory: float = 0.0


TALLY = Tally()  # of this process


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, passes: Passes) -> Tensor:
        ctx.passes = passes
        TALLY.seconds += passes.backward * len(slope)
        return 0.5 * slope

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        TALLY.seconds += ctx.passes.backward * len(slope)  # ASSUME: the derivative of a backward pass costs another
        return 0.5 * slope, None


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, passes: Passes) -> Tensor:
        ctx.passes = passes
        TALLY.seconds += passes.forward * len(u)
        TALLY.memory = max(TALLY.memory, passes.weights + passes.kept * len(u))
        return 0.5 * u

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Backward.apply(slope, ctx.passes)), None  # type: ignore[no-untyped-call]


def counting(passes: Passes) -> Epsilon:
    """A noise predictor that costs nothing and tallies what the real one would cost."""

    def epsilon(u: Tensor, level: Level) -> Tensor:
        return cast(Tensor, _Forward.apply(u, passes))  # type: ignore[no-untyped-call]

    return epsilon


def untrained(entry: Mapping[str, Any], channels: int, dtype: torch.dtype) -> Epsilon:
    """The network of a published denoiser with random weights; its files need not be there."""
    network = _on_no_device(entry, channels).to(dtype).to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        tensor.uniform_(-0.02, 0.02, generator=random)
    return PREDICTORS[describe_denoiser(entry, channels).get("kind", "unet")](network)


def _seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def _kept(epsilon: Epsilon, u: Tensor) -> int:
    """Bytes a forward pass keeps for the derivative at its input."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.requires_grad or not tensor.is_leaf:  # not the frozen weights
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        epsilon(u.requires_grad_(), MIDDLE)
    return sum(saved.values())


def _pair(epsilon: Epsilon, u: Tensor) -> tuple[float, float]:
    """Seconds of a forward pass, and of a backward one after it."""

    def both() -> None:
        leaf = u.detach().requires_grad_()
        torch.autograd.grad(epsilon(leaf, MIDDLE).sum(), leaf)

    with torch.no_grad():
        forward = _seconds(lambda: epsilon(u, MIDDLE), 2)
    return forward, max(_seconds(both, 2) - forward, 0.0)


def measure_passes(entry: Mapping[str, Any], shape: tuple[int, int, int], side: int) -> dict[torch.dtype, Passes]:
    """Passes of one image (channels, side, side) in float32 and float64, on one thread.

    A forward pass in float32 is measured at full size; what a backward pass and float64 cost beside it, and what is
    kept, at a smaller one, since both need memory that grows with the image. Kept bytes grow with the number of pixels.
    """
    torch.set_num_threads(1)
    small = max(min(side, LEAST), side // SMALLER)
    found: dict[torch.dtype, Passes] = {}
    for dtype in (torch.float32, torch.float64):
        epsilon, size = untrained(entry, shape[0], dtype), torch.finfo(dtype).bits // 8
        u = _image(shape, small).to(dtype)
        forward, backward = _pair(epsilon, u)
        kept = _kept(epsilon, u) * (side / small) ** 2
        if dtype == torch.float32:
            with torch.no_grad():
                whole = forward if side == small else _seconds(partial(epsilon, _image(shape, side), MIDDLE), 1)
            growth = whole / forward
        weights = size * sum(value.numel() for value in _on_no_device(entry, shape[0]).state_dict().values())
        found[dtype] = Passes(growth * forward, growth * backward, weights, kept, _operations(entry, shape[0], side))
    return found


def _image(shape: tuple[int, int, int], side: int) -> Tensor:
    return torch.zeros(1, shape[0], side, side)


def _on_no_device(entry: Mapping[str, Any], channels: int) -> nn.Module:
    config = describe_denoiser(entry, channels)
    with torch.device("meta"):
        return ARCHITECTURES[config.get("kind", "unet")](config)


def _operations(entry: Mapping[str, Any], channels: int, side: int) -> float:
    """Floating-point operations of a forward pass of one image, counted without computing."""
    epsilon = PREDICTORS[describe_denoiser(entry, channels).get("kind", "unet")](_on_no_device(entry, channels))
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        epsilon(torch.zeros(1, channels, side, side), MIDDLE)
    return float(counter.get_total_flops())
