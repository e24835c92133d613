"""Clouds of perturbed copies of one image, as the randomness, compression and Jacobian stages need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from purification.batching import map_batches
from purification.data import Dataset
from purification.measure.randomness import Purify
from purification.purifiers import Purifier, purify
from workflow_scripts.defences import noise_source


def cloud_purify(purifier: Purifier, identity: int, dataset: Dataset, settings: Mapping[str, Any]) -> Purify:
    """Purify perturbed copies of one dataset image, at most a batch at a time; draw 0 is the fixed noise."""
    fixed, fresh = (noise_source(settings["seed"], role, dataset) for role in ("fixed", "evaluation"))

    def run(inputs: Tensor, draws: list[int]) -> Tensor:
        source = fresh if any(draws) else fixed

        def block_of(block: list[int]) -> Tensor:
            return purify(purifier, inputs[block], source([identity] * len(block), [draws[i] for i in block]))

        with torch.no_grad():
            return map_batches(block_of, range(len(inputs)), min(len(inputs), settings["batch_size"]))

    return run
