"""Files of adversarial images for tests that need the images alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from workflow_scripts.defences import Proposals, write_adversarial


def write_images(images: Tensor, ids: list[int], path: Path) -> None:
    """Images as an attack with the exact gradient would leave them that broke every one."""
    numbers = torch.zeros(len(images))
    write_adversarial(Proposals(images, numbers, numbers.long(), "replay"), ids, path)
