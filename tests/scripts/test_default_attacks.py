"""Every attack of the default configuration, shortened, through its stage, ends within its threat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel
from workflow_scripts.attack_images import attack_images
from workflow_scripts.defences import read_adversarial

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config" / "default.yaml").read_text())
SHORT = {"images": 5, "steps": 2, "queries": 4, "targets": 2, "fab_targets": 2, "draws": 2, "judges": 2}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "gradient_batch_size": 4, "subset": "test"}


def shortened(entry: dict[str, Any]) -> dict[str, Any]:
    threat = entry.get("threat", CONFIG["threat"])
    short: dict[str, Any] = {key: min(value, entry[key]) for key, value in SHORT.items() if key in entry}
    if "stages" in entry:
        short["stages"] = [shortened(CONFIG["attacks"][stage]) for stage in entry["stages"]]
    return {**{key: value for key, value in entry.items() if key != "threat"}, **short, **threat}


@pytest.mark.parametrize("name", CONFIG["attacks"])
def test_every_attack_of_the_default_configuration_runs(tmp_path: Path, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 8, 8, generator=generator)
    weights = torch.randn(64, 10, generator=generator)

    def classify(x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ weights

    dataset = Dataset(images, classify(images).argmax(dim=1), {"test": list(range(8))})
    purifier = FunctionPurifier(lambda x, noise: x + 0.01 * noise.normal("forward"))
    settings = shortened(CONFIG["attacks"][name])
    surrogate = purifier if settings.get("gradient") == "surrogate" else None
    defence = Defence(purifier, classify, 4, surrogate=surrogate)
    attack_images(dataset, defence, settings, EVALUATION, 1e9, output=tmp_path / "a.safetensors")
    out = read_adversarial(tmp_path / "a.safetensors", list(range(5))).adversarial
    ThreatModel(settings["norm"], settings["epsilon"]).check(out, images[:5])
    assert not torch.equal(out, images[:5])
