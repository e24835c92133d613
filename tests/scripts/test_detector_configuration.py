"""Detectors of a configuration: what is refused in a sentence, and the entry of the documentation."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflow_scripts.configuration import problems
from workflow_scripts.input_files import detector_files

ROOT = Path(__file__).parents[2]


def configuration() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
    config["run"]["anomaly"] = ["zeros"]
    return config


def test_the_detector_of_the_default_configuration_can_run() -> None:
    assert problems(configuration()) == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "level": ({"level": 1000}, "anomaly.zeros.level: expected less than 1000"),
    "scales": ({"scales": [1, 3]}, "anomaly.zeros.scales: expected divisors of the image size 16, got 3"),
    "window": ({"window": 4}, "anomaly.zeros.window: expected an odd number, got 4"),
    "steps": ({"purifier": {"steps": 101}}, "anomaly.zeros.purifier.steps: expected at most t_star = 100"),
    "warm-up": ({"training": {"warmup": 601}}, "anomaly.zeros.training.warmup: expected at most steps = 600"),
    "normal": ({"data": {"normal": [11]}}, "anomaly.zeros.data.normal: expected labels below 10, got 11"),
    "all normal": ({"data": {"normal": list(range(10))}}, "anomaly.zeros.data.normal: expected fewer than all 10"),
    "network": ({"network": {"norm_num_groups": 16}}, "anomaly.zeros.network.norm_num_groups: expected a divisor"),
    "certificate": (
        {"certification": {"level": 1000}}, "anomaly.zeros.certification.level: expected less than 1000",
    ),
    "restarts": (
        {"attacks": {"l2_eot": {"restarts": 2}}}, "anomaly.zeros.attacks.l2_eot.random_start: expected a random start",
    ),
    "unknown key": ({"levels": 3}, "anomaly.zeros.levels: expected a known key"),
    "unknown defect": ({"data": {"defects": ["hole"]}}, "anomaly.zeros.data.defects[0]: expected one of scratch"),
}  # fmt: skip


def merged(entry: Any, changes: Any) -> Any:
    if not isinstance(changes, dict):
        return changes
    return {**entry, **{key: merged(entry.get(key), value) for key, value in changes.items()}}


@pytest.mark.parametrize("case", WRONG)
def test_a_contradiction_is_said_in_a_sentence(case: str) -> None:
    changes, sentence = WRONG[case]
    config = configuration()
    config["anomaly"]["zeros"] = merged(config["anomaly"]["zeros"], changes)
    found = problems(config)
    assert len(found) == 1 and found[0].startswith(sentence) and " — " in found[0], found


def test_an_unknown_detector_is_refused() -> None:
    config = configuration()
    config["run"]["anomaly"] = ["zero"]
    assert problems(config) == ["run.anomaly: expected a known name, got 'zero' — did you mean 'zeros'?"]


def test_the_entry_of_the_documentation_lacks_nothing_but_its_pictures(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "defences.md").read_text()
    shown = re.search(r"```yaml\n(anomaly:.*?)```", text, re.DOTALL)
    assert shown
    entry = yaml.safe_load(shown.group(1))["anomaly"]["grid"]
    config = copy.deepcopy(configuration())
    config["anomaly"]["grid"], config["run"]["anomaly"] = entry, ["grid"]
    assert [found.split(":")[0] for found in problems(config)] == ["anomaly.grid.data.path"]
    entry["data"]["path"] = str(tmp_path)
    assert problems(config) == []
    for name in ("train/good/0.png", "test/bent/0.png", "ground_truth/bent/0_mask.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert [Path(path).relative_to(tmp_path).parts[0] for path in detector_files(entry["data"])] == [
        "ground_truth", "test", "train",
    ]  # fmt: skip
