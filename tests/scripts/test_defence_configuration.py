"""Entries of guided and trained defences that cannot run are refused in sentences; those that can are accepted."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from purification import guidance
from workflow_scripts import configuration_entries
from workflow_scripts.configuration import problems

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
SENTENCE = re.compile(r"[^:]+: expected .+, got .+ — .+")
GUIDANCE = {"guide": "image", "distance": "mse", "reference": "noised", "scale": 2000.0, "assumed": 0.1}
GUIDED = {**DEFAULT["purifiers"]["ddpm_25"], "kind": "guided", "rounds": 2, "guidance": GUIDANCE}


def purifier(base: dict[str, Any], *without: str, **changes: Any) -> dict[str, Any]:
    entry = {key: value for key, value in {**base, **changes}.items() if key not in without}
    return {"purifiers": {"mine": entry}}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "guidance without rounds": (purifier(GUIDED, "rounds"), "purifiers.mine.rounds: expected"),
    "rounds of a plain purifier": (
        purifier(GUIDED, "guidance", kind="diffusion"),
        "purifiers.mine.rounds: expected no such key",
    ),
    "guided ODE": (
        purifier(DEFAULT["purifiers"]["ode_25"], kind="guided", rounds=1, guidance=GUIDANCE),
        "purifiers.mine.sampler: expected 'ddpm'",
    ),
    "unknown guidance": (
        purifier(GUIDED, guidance={**GUIDANCE, "distance": "l2"}),
        "purifiers.mine.guidance.distance: expected one of mse, ssim",
    ),
    "spacing of an ODE": (
        purifier(DEFAULT["purifiers"]["ode_25"], spacing="leading"),
        "purifiers.mine.spacing: expected no such key",
    ),
    "noise beyond the schedule": (
        purifier(DEFAULT["purifiers"]["ddpm_25"], noise_index=1000),
        "purifiers.mine.noise_index: expected less than 1000",
    ),
    "SSIM of small images": (
        {**purifier(GUIDED, guidance={**GUIDANCE, "distance": "ssim"}), "datasets": {"digits": {"size": 8}}},
        "purifiers.mine.guidance.distance: expected mse for images smaller than 11x11",
    ),
}
GOOD = {
    "guided": purifier(GUIDED),
    "ssim": purifier(GUIDED, guidance={**GUIDANCE, "distance": "ssim"}),
    "ADBM's indices": purifier(DEFAULT["purifiers"]["ddim_100"], noise_index=100),
    "ADDT's indices": purifier(DEFAULT["purifiers"]["ddim_100"], t_star=101, steps=11, spacing="leading"),
}


def merged(changes: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(DEFAULT)
    update_config(config, copy.deepcopy(changes))
    return config


@pytest.mark.parametrize("case", CASES)
def test_a_defence_that_cannot_run_is_refused_in_a_sentence(case: str) -> None:
    changes, sentence = CASES[case]
    found = problems(merged(changes))
    assert any(line.startswith(sentence) for line in found), found
    assert all(SENTENCE.fullmatch(line) for line in found), found


@pytest.mark.parametrize("case", GOOD)
def test_a_defence_that_can_run_is_accepted(case: str) -> None:
    assert problems(merged(GOOD[case])) == []


def test_the_window_of_ssim_has_one_value() -> None:
    assert configuration_entries.WINDOW == guidance.WINDOW
