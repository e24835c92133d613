"""Attacks as configured: draws of the attacker's own, and what each kind refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.noise import Noise
from purification.purifiers import FunctionPurifier
from workflow_scripts.attack_images import attack_images
from workflow_scripts.configuration_kinds import kind_problems
from workflow_scripts.defences import noise_source, read_adversarial

OWN: dict[str, Any] = {
    **{"kind": "own_draws", "knowledge": "none", "images": 8, "steps": 10, "step_size": 0.25, "random_start": False},
    **{"loss": "ce", "gradient": "replay", "draws": 1, "select": "last", "stop_when_broken": False},
    **{"norm": "linf", "epsilon": 0.1, "restarts": 1},
}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test", "norm": "linf", "epsilon": 0.1}


def secret(images: Tensor, noise: Noise) -> Tensor:
    """The noise decides along which direction an image can be attacked."""
    return 0.5 + (images - 0.5) * noise.normal("own")


def classify(purified: Tensor) -> Tensor:
    margin = 0.1 + 0.1 * (purified - 0.5).flatten(1).sum(dim=1)
    return torch.stack([margin, -margin], dim=1)


@pytest.mark.parametrize("kind", ["own_draws", "pgd"])
def test_images_made_against_one_draw_break_it_and_hardly_another(tmp_path: Path, kind: str) -> None:
    """On the own draw the margin is .1 - .01 sum |n|, below zero; on others .1 plus noise of standard deviation .06."""
    dataset = Dataset(
        torch.full((8, 1, 6, 6), 0.5), torch.zeros(8, dtype=torch.long), {"test": list(range(8))}, classes=2
    )
    defence, output = Defence(FunctionPurifier(secret), classify, 4), tmp_path / "x.safetensors"
    attack_images(dataset, defence, {**OWN, "kind": kind}, EVALUATION, 1e9, output=output)
    adversarial, ids = read_adversarial(output, list(range(8))), list(range(8))

    def accuracy(role: str, draw: int) -> float:
        predicted = defence.predict(adversarial, ids, noise_source(0, role, dataset), draw)
        return float((predicted == 0).double().mean())

    others = [accuracy(role, draw) for role in ("fixed", "evaluation") for draw in range(8)]
    assert sum(others) / len(others) > 0.8
    assert (accuracy("attack", 0) == 0.0) == (kind == "own_draws")


def config(**entry: Any) -> dict[str, Any]:
    """A configuration with one attack beside the base attack."""
    plain = {"kind": "pgd", "knowledge": "both", "gradient": "replay", "restarts": 1}
    return {
        "attacks": {"fixed": plain, "other": {**plain, **entry}},
        "base_attack": "fixed",
        "threat": {"norm": "linf", "epsilon": 0.1},
        "purifiers": {"ddpm_50": {"kind": "diffusion"}, "gdmp": {"kind": "guided"}},
        "run": {"attacks": {"other": ["ddpm_50"]}},
    }


@pytest.mark.parametrize(
    "entry",
    [{}, {"kind": "own_draws", "knowledge": "none"}, {"kind": "diffattack", "deviation": 1.0}, {"kind": "diffhammer"}],
    ids=str,
)
def test_kinds_that_fit_have_no_problem(entry: dict[str, Any]) -> None:
    assert list(kind_problems(config(**entry))) == []


@pytest.mark.parametrize(
    ("entry", "elsewhere", "said"),
    [
        ({"kind": "own_draws"}, {}, "attacks.other.knowledge: expected none for kind own_draws, got 'both'"),
        ({"kind": "diffattack"}, {}, "attacks.other.deviation: expected a weight with kind diffattack"),
        ({"deviation": 1.0}, {}, "attacks.other.deviation: expected a weight with kind diffattack and none without"),
        (
            {"kind": "diffattack", "deviation": 1.0, "gradient": "bpda"},
            {},
            "attacks.other.gradient: expected replay or",
        ),
        (
            {"kind": "diffattack", "deviation": 1.0},
            {"run": {"attacks": {"other": ["gdmp"]}}},
            "run.attacks.other: expected no guided or resized",
        ),
        (
            {"kind": "diffhammer"},
            {"threat": {"norm": "l1"}},
            "attacks.other.kind: expected another attack than diffhammer",
        ),
        (
            {"kind": "diffhammer", "threat": {"norm": "l1"}},
            {},
            "attacks.other.kind: expected another attack than diffhammer",
        ),
        ({"kind": "diffattack", "deviation": 1.0, "restarts": 2}, {}, "attacks.other.restarts: expected 1, and no"),
        ({"kind": "own_draws", "knowledge": "none", "targets": 2}, {}, "attacks.other.restarts: expected 1, and no"),
    ],
    ids=str,
)
def test_kinds_that_contradict_are_named(entry: dict[str, Any], elsewhere: dict[str, Any], said: str) -> None:
    (found,) = kind_problems({**config(**entry), **elsewhere})
    assert found.startswith(said)
