"""Where networks run, and in which precision.

Images, noise, the states of a chain and everything an attack or a measurement computes stay in the CPU's memory, in
float32: only a network's input goes to its device, and only its output comes back. Derivatives follow the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Place:
    """Device and precision of networks.

    device     "cpu", "cuda" or "cuda:<number>"
    precision  "fp32"; "tf32": products of matrices and convolutions with 10 bits of mantissa, CUDA only; "bf16":
               autocast, what a network computes of float32 inputs, weights and activations, in bfloat16 where torch
               deems it safe; float64 is left alone
    """

    device: str
    precision: str

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"expected precision to be one of {PRECISIONS}, got {self.precision!r}")
        if self.precision == "tf32" and not self.device.startswith("cuda"):
            raise ValueError(f"expected device cuda with precision tf32, got {self.device!r} — set fp32 or bf16")

    def prepare(self) -> torch.device:
        """The device, with the arithmetic of this process set as the precision says.

        Raises ValueError when torch does not find the device.
        """
        device = torch.device(self.device)
        if device.type == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if (device.index or 0) >= count:
                raise ValueError(
                    f"expected device {self.device!r}, got {count} CUDA devices that torch {torch.__version__} can use "
                    "— set device: cpu, or run where there is one"
                )
            torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        return device

    def _arithmetic(self, x: Tensor) -> AbstractContextManager[Any]:
        if self.precision != "bf16" or x.dtype != torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def network(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A network on this device as a function of tensors anywhere; the result is where and what the input is."""
        if (self.device, self.precision) == ("cpu", "fp32"):
            return function

        def run(x: Tensor, *rest: Any) -> Tensor:
            with self._arithmetic(x):
                out = function(x.to(self.device), *rest)
            return out.to(x.device, x.dtype)

        return run
