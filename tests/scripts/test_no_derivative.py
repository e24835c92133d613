"""A purifier without a derivative leaves rows that say so wherever one is asked for, and the tables come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL
from purification.purifiers import FunctionPurifier
from purification.reporting.rows import NOT_MEASURED, Rows
from workflow_scripts.attacking import run_attack
from workflow_scripts.compute_jacobian import compute_jacobian
from workflow_scripts.configuration import merged
from workflow_scripts.measure_attack_adequacy import measure_gradient_noise

SHAPE = (1, 8, 8)
IMAGES = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
SHARED = {"seed": 0, "subset": "test", "batch_size": 4, "gradient_batch_size": 4, "epsilon": 0.1, "norm": "linf"}
CONFIG = merged([])
SHORT = {"images": 4, "steps": 2, "step_size": 0.5, "queries": 3, "targets": 2, "draws": 2, "judges": 2, "restarts": 1}


def classify(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHTS.to(x.dtype)


LEVELS = FunctionPurifier(lambda x, noise: (10 * x.detach()).round() / 10)
DEFENCE = Defence(LEVELS, classify, 4, surrogate=LEVELS)


@pytest.fixture
def data() -> Dataset:
    labels = DEFENCE.logits(IMAGES).argmax(dim=1)
    return Dataset(IMAGES, labels, {"test": [0, 1, 2, 3]})


def test_a_jacobian_that_does_not_exist_is_a_row_with_the_reason(data: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "levels.parquet"
    twins = {"trained": LEVELS, "null": FunctionPurifier(lambda x, noise: 0.5 * x)}
    options = {"images": 2, "spectrum": "full", "directions": 2, "probes": 2, "iterations": 2, "small_scale": 0.1}
    compute_jacobian(data, twins, {**SHARED, **options}, 1e9, output=output)
    frame = pd.read_parquet(output).set_index("model")
    missing, known = frame.loc["trained"], frame.loc["null"]
    assert missing.not_measured.str.contains("without a derivative").all() and missing.trace.isna().all()
    assert (known.not_measured == "").all() and known.trace.notna().all()
    rows = Rows.read({"jacobian": [str(output)]}, {})
    assert set(rows.frames["jacobian"].model) == {"null"} and NOT_MEASURED not in rows.frames["jacobian"]
    (reason,) = rows.frames[NOT_MEASURED].to_dict("records")
    assert (reason["purifier"], reason["kind"]) == ("levels", "jacobian")


def test_a_gradient_without_noise_to_measure_is_a_row_with_the_reason(data: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "levels.parquet"
    options = {"images": 2, "draws": [1, 2], "reference": 2, "loss": "ce"}
    measure_gradient_noise(data, DEFENCE, options, SHARED, output=output)
    frame = pd.read_parquet(output)
    assert frame.draws.tolist() == [1, 1, 2, 2] and frame.cosine.isna().all()
    assert frame.not_measured.str.contains("without a derivative").all()
    assert Rows.read({"gradient_noise": [str(output)]}, {}).frames["gradient_noise"].empty


def short(entry: dict[str, Any]) -> dict[str, Any]:
    """An attack of the default configuration, shortened."""
    changed = {key: SHORT.get(key, value) for key, value in entry.items()}
    if entry["knowledge"] == "both" and "draws" in entry:
        changed["draws"] = 1
    if "stages" in entry:
        changed["stages"] = [short(CONFIG["attacks"][name]) for name in entry["stages"]]
    return {**changed, "norm": "linf", "epsilon": 0.1}


@pytest.mark.parametrize("name", [name for name, entry in CONFIG["attacks"].items() if entry["kind"] != "diffattack"])
def test_every_attack_of_the_default_configuration_runs_without_a_derivative(data: Dataset, name: str) -> None:
    settings = short(CONFIG["attacks"][name])
    found, gradient = run_attack(data, DEFENCE, IMAGES, data.labels, [0, 1, 2, 3], settings, SHARED, 1e9, NO_JOURNAL)
    assert found.adversarial.shape == IMAGES.shape
    assert gradient == "none" or "bpda" in gradient
