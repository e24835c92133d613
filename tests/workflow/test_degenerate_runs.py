"""Whole runs whose results determine nothing: tables, claims, figures and report come all the same, and say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from purification.reporting import law
from tests.workflow.conftest import ROOT, copy_project
from tests.workflow.runs import Copy

ONE_CLASS = """
import torch


def make_classifier(params, image_shape, num_classes, device):
    always = torch.nn.functional.one_hot(torch.tensor(params["label"]), num_classes)

    def classify(images):
        return 4.0 * always.to(images) + 0.0 * images.flatten(1).sum(dim=1, keepdim=True)

    return classify
"""
SENTENCE = "not determined by these points"
OF_THE_LAW = ["A12", "A13", "A14", "A15"]
HEADLINE = "ddpm_150"


def few_jobs(results: str) -> dict[str, Any]:
    """The smoke configuration with the fewest purifiers that a fit needs and the attacks that the claims need."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    attacks = ("fixed", "eot", "bpda")
    config["run"] |= {
        "sweep": ["ddpm_25", "ddpm_100", HEADLINE, "ddim_50", "one_step_200", "sde_200"],
        "controls": ["identity"],
        "attacks": {attack: [HEADLINE] for attack in attacks},
        "ladder": [*attacks, "strong"],
        "comparison": {},
        "anomaly": [],
        **{key: [HEADLINE] for key in ("distances", "randomness", "jacobian")},
    }
    config["attack_adequacy"]["variations"] = config["attack_adequacy"]["variations"][:2]
    return {**config, "results": f"results/{results}"}


def one_class(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A classifier that says one class, whatever it sees."""
    (folder / "one_class.py").write_text(ONE_CLASS)
    entry = {"kind": "python", "path": "one_class.py", "factory": "make_classifier", "params": {"label": 3}}
    return {**config, "classifier": "always", "classifiers": {**config["classifiers"], "always": entry}}


def whole_box(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A budget that reaches every image, so that no purifier keeps any robust accuracy."""
    return {**config, "threat": {"epsilon": 1.0}}


RUNS = {"one_class": one_class, "whole_box": whole_box}


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    change: Callable[[Path, dict[str, Any]], dict[str, Any]] = RUNS[request.param]
    folder = copy_project(tmp_path_factory.mktemp(request.param))
    copy = Copy(folder, request.param)
    copy.configure(change(folder, few_jobs(request.param)))
    copy.finish("results/tables")
    return copy


def table(run: Copy, name: str) -> pd.DataFrame:
    return pd.read_csv(run.results / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def test_everything_comes(run: Copy) -> None:
    assert (run.results / "checks.txt").read_text() == "every check holds\n"
    figures = {path.stem for path in (run.results / "figures").glob("*.pdf")}
    assert {"compression_robustness", "prediction", "robustness"} <= figures
    assert all((run.results / "figures" / f"{name}.png").stat().st_size > 5_000 for name in figures)
    metrics = json.loads((run.results / "tables" / "metrics.json").read_text())
    assert set(metrics["robust_accuracy"].values()) == {0.0}


def test_the_law_is_not_determined_and_says_why(run: Copy) -> None:
    fits = table(run, "fit")
    assert not fits.determined.any() and fits.note.str.startswith(SENTENCE).all()
    assert (fits.note[fits.subset == "all"] == f"{SENTENCE}: all robust accuracies are equal (0)").all()
    for name in ("points", "controls"):
        assert set(table(run, name).off_the_law) == {"not determined"}
    assert {"all robust accuracies are equal (0)"} == {
        reason.removeprefix(f"{SENTENCE}: ") for reason in table(run, "points").law
    }
    written = pd.read_parquet(run.results / "fit" / "parameters.parquet")
    assert list(written.columns) == list(law.PARAMETERS) and len(written) == len(fits)
    assert list(pd.read_parquet(run.results / "fit" / "curves.parquet").columns) == list(law.CURVES)


def test_claims_about_the_law_are_inconclusive_and_the_report_says_so(run: Copy) -> None:
    claims = table(run, "claims").set_index("claim")
    assert set(claims.verdict[OF_THE_LAW]) == {"inconclusive"}
    assert claims.note[OF_THE_LAW].str.startswith(SENTENCE).all()
    page = (run.results / "report.html").read_text()
    assert page.count(SENTENCE) > len(OF_THE_LAW) and "</html>" in page


def test_nothing_warns(run: Copy) -> None:
    for name in ("fit_compression_robustness", "render_tables", "render_report"):
        log = (run.results / "logs" / f"{name}.log").read_text()
        assert "arning" not in log and "WARNING" not in log, log
