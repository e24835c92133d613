"""What DVC compares: metrics, plots, and experiments that change a parameter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.utils.serialize import modify_yaml

from tests.workflow.clones import SETTINGS, Clone
from tests.workflow.conftest import ROOT


def robust_accuracy(clone: Clone) -> float:
    """Of the headline, from its row of the table of points."""
    points = pd.read_csv(clone.results("tables/points.csv")).set_index("purifier")
    return float(points.robust["ddpm_150"])


def test_metrics_and_plots_compare_versions(reader: Clone, tmp_path: Path) -> None:
    """Claims and robust accuracies as metrics, the compression-robustness points as a plot."""
    clone = reader.copy(tmp_path / "project")
    (shown,) = json.loads(clone.run("dvc", "metrics", "show", "--json"))[""]["data"].values()
    metrics = shown["data"]
    assert set(metrics["claims"]) <= set(metrics["verdicts"]) == {f"A{i}" for i in range(18)}
    robust = robust_accuracy(clone)
    assert metrics["robust_accuracy"]["ddpm_150"] == pytest.approx(robust)
    path = clone.results("tables/metrics.json")
    path.write_text(json.dumps(metrics | {"robust_accuracy": {**metrics["robust_accuracy"], "ddpm_150": 0.6}}))
    (change,) = json.loads(clone.run("dvc", "metrics", "diff", "--json")).values()
    assert change == {"robust_accuracy.ddpm_150": {"old": robust, "new": 0.6, "diff": pytest.approx(0.6 - robust)}}
    for command in (("show",), ("diff", "HEAD")):
        clone.run("dvc", "plots", *command, "--out", "plots")
        page = (clone.folder / "plots" / "index.html").read_text()
        assert "Robust accuracy with known noise" in page and "ddpm_25" in page
    assert "tables" in clone.run("dvc", "dag")


def test_an_experiment_changes_one_parameter_and_is_listed_with_its_metrics(author: Clone, tmp_path: Path) -> None:
    clone = author.copy(tmp_path / "project")
    clone.run("dvc", "exp", "run", "-S", f"{SETTINGS}:memory_bytes=1.0e+6", "--name", "little")
    listed = clone.run("dvc", "exp", "show", "--csv").splitlines()
    header = listed[0].split(",")
    rows = {row[header.index("Experiment")]: row for row in (line.split(",") for line in listed[1:])}
    memory = header.index("memory_bytes")
    assert rows["little"][memory] == "1000000.0"
    assert "2000000000.0" in {row[memory] for row in rows.values()}
    assert float(rows["little"][header.index("robust_accuracy.ddpm_150")]) == pytest.approx(robust_accuracy(clone))


def test_one_parameter_is_set_in_the_commented_configuration(tmp_path: Path) -> None:
    """`-S` keeps anchors, comments and every other value of the real configuration."""
    path = Path(shutil.copy(ROOT / SETTINGS, tmp_path))
    with modify_yaml(str(path)) as settings:
        settings["threat"]["epsilon"] = 0.05
    before, after = (yaml.safe_load(text) for text in ((ROOT / SETTINGS).read_text(), path.read_text()))
    assert after == before | {"threat": before["threat"] | {"epsilon": 0.05}}
    assert "# the only seed" in path.read_text()


def test_a_purifier_that_dvc_would_not_see_is_refused(author: Clone, tmp_path: Path) -> None:
    clone = author.copy(tmp_path / "project")
    pipeline = clone.folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("      - linear.py\n", ""))
    clone.configure({"memory_bytes": 1.0e6})
    assert "expected linear.py among the deps of dvc.yaml" in clone.refused("dvc", "repro")
