"""What is worth knowing about a user's function: networks in training mode, devices, types, the noise it draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from types import CellType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from purification.contract.trial import FAILED, NOTE, OK, Finding, Trial, double_fault, plain
from purification.noise import Noise

MODES = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # layers that differ in training


def _networks(function: Callable[..., Any]) -> Iterator[nn.Module]:
    """Networks a function is, holds in its closure or attributes, or names among its globals."""
    owner = getattr(function, "__self__", function)
    code, known = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if cell != CellType()]
    named = [known[name] for name in code.co_names if name in known] if code else []
    for value in (owner, *getattr(owner, "__dict__", {}).values(), *cells, *named):
        if isinstance(value, nn.Module):
            yield value


def evaluation(trial: Trial) -> Finding:
    """Networks are in evaluation mode; parameters that ask for gradients cost memory."""
    networks = list(_networks(trial.function.function))
    layers = [layer for network in networks for layer in network.modules()]
    training = [type(layer).__name__ for layer in layers if layer.training and isinstance(layer, MODES)]
    if training:
        bad = f"expected networks in evaluation mode, got {training[0]} in training mode — call .eval() in the factory"
        return Finding("evaluation", FAILED, bad)
    if any(parameter.requires_grad for network in networks for parameter in network.parameters()):
        return Finding("evaluation", NOTE, "parameters ask for gradients: requires_grad_(False) saves time and memory")
    return Finding("evaluation", OK, "networks are frozen" if networks else "no network in training mode found")


def float64(trial: Trial) -> Finding:
    """The audit runs in float64."""
    fault = double_fault(trial)
    if fault is None:
        return Finding("float64", OK, "runs, as the audit of gradients needs")
    return Finding("float64", NOTE, f"the audit then compares in float32, to 5 %; better cast to images.dtype: {fault}")


MOVES = (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.index, torch.ops.aten.index_put_)


class _OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations on tensors of two devices, which some operations on `meta` let pass."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim())
        if len({tensor.device for tensor in found}) > 1 and func.overloadpacket not in MOVES:
            raise RuntimeError("expected all tensors on the same device")
        return func(*args, **(kwargs or {}))


ELSEWHERE = ("same device", "expected device", "images' device", "copy out of meta", "CUDA")


def device(trial: Trial) -> Finding:
    """Made for torch's `meta` device, which has no values, it stays there: no tensor has a device of its own."""
    meta = torch.device("meta")
    images = trial.images().to(meta)
    try:
        moved = replace(trial, function=trial.make(meta))
        with torch.no_grad(), _OneDevice():  # type: ignore[no-untyped-call]
            moved.run(images, range(len(images)))
    except ValueError as error:
        text = plain(trial, error)
        if any(words in text for words in ELSEWHERE):
            bad = "expected every tensor on the `device` given, got some elsewhere — make them with device=device"
            return Finding("device", FAILED, bad)
        return Finding("device", OK, "stays on the CPU; no other was tried, as it looks at values")
    return Finding("device", OK, "stays on the one given")


@dataclass(frozen=True)
class _Recorded(Noise):
    """Noise that remembers what was drawn."""

    drawn: list[tuple[str, int]] = field(default_factory=list)

    def _fill(self, stream: str, step: int, sample: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
        self.drawn.append((stream, step))
        return super()._fill(stream, step, sample)


def noise(trial: Trial) -> Finding:
    """Found out by trying: which noise it draws, and whether the result depends on it."""
    images = trial.images()
    (noise,) = trial.noise(images, range(len(images)))
    recorded = _Recorded(**{name.name: getattr(noise, name.name) for name in fields(noise)})
    with torch.no_grad():
        one = trial.function(images, recorded)
        other = trial.run(images, range(len(images)), 1)
    if torch.equal(one, other):
        cause = "draws noise that changes nothing" if recorded.drawn else "draws no noise"
        return Finding("noise", NOTE if recorded.drawn else OK, f"{cause}: a deterministic purifier")
    (stream, step), times = Counter(recorded.drawn).most_common(1)[0]
    if times > 1:
        return Finding(
            "noise", NOTE, f"draws {stream!r}, step {step} {times} times: the same numbers — number the steps"
        )
    counts = Counter(stream for stream, _ in recorded.drawn)
    return Finding("noise", OK, "random: draws " + ", ".join(f"{stream!r} x {n}" for stream, n in counts.items()))
