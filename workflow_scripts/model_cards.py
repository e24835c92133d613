"""What a training leaves beside its weights: a record of facts as JSON, and a card that says them to a reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from workflow_scripts.job import write_text

CARD = """# {name}

A network of this project, made by {how}. It belongs to one configuration and one
dataset; it is evidence about a method, not a defence to deploy. docs/methods.md and docs/defences.md of the project say
what the method is and where it differs from its source.

| | |
|---|---|
| parameters | {parameters} |
| training images | {images}, sha256 of images and labels `{data_sha256}` |
| seed | {seed} |
| steps | {steps} of {batch_size} images |
| loss | {first_loss:.4f} in the first step, {last_loss:.4f} in the last |
| passes of a batch | {passes} |

The loss of every step is in `losses.parquet` and drawn in the figure `training`, all facts are in `training.json`. Time
and memory: the benchmark of the job.

## Settings

```json
{settings}
```
"""


def data_hash(images: Tensor, labels: Tensor) -> str:
    """sha256 of the bytes of training images and labels, in order."""
    total = hashlib.sha256(images.contiguous().numpy().tobytes())
    total.update(labels.contiguous().numpy().tobytes())
    return total.hexdigest()


def training_record(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], seed: int, losses: Sequence[float], parameters: int,
    passes: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Facts of one training, the same whenever it is repeated: no times, no places."""
    return {
        "settings": dict(settings),
        "seed": seed,
        "images": len(images),
        "data_sha256": data_hash(images, labels),
        "parameters": parameters,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "passes": dict(passes),
    }


def write_card(name: str, how: str, facts: Mapping[str, Any], *, record: Path, card: Path) -> None:
    """The record as JSON and the card as Markdown; `how` names the training in words."""
    settings = facts["settings"]
    training = settings.get("training", settings)
    shown = {
        "settings": json.dumps(settings, indent=2, sort_keys=True),
        "passes": ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in facts["passes"].items()),
        "steps": training["steps"],
        "batch_size": training["batch_size"],
    }
    write_text(CARD.format(**{**facts, **shown}, name=name, how=how), card)
    write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", record)
