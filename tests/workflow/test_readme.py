"""The purifier that the README shows is what it says it is: complete, accepted and differentiable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from purification.gradients import gradient
from purification.noise import NoiseSource
from purification.purifiers import make_purifier
from tests.workflow.conftest import ROOT, Project
from workflow_scripts.check_user_code import main

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"```(python|yaml)\n(.*?)```", README, re.DOTALL))


def test_the_readmes_purifier_is_planned_in_every_measurement_it_asks_for(project: Project) -> None:
    (project.folder / "my_purifiers.py").write_text(BLOCKS["python"])
    (project.folder / "my.yaml").write_text(BLOCKS["yaml"])
    planned = Project(project.folder, Path("my.yaml")).snakemake("-n", "--", "results/tables")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    for kind in ("purified", "compression", "randomness", "jacobian"):
        assert f"results/mine/{kind}/mine.parquet" in planned.stdout + planned.stderr


def test_the_readmes_purifier_purifies_and_differentiates(tmp_path: Path) -> None:
    path = tmp_path / "my_purifiers.py"
    path.write_text(BLOCKS["python"])
    entry = {"kind": "python", "path": path, "factory": "make_purifier", "params": {"sigma": 0.1}}
    purifier = make_purifier(entry, None, (1, 8, 8), torch.device("cpu"))
    images, noise = torch.full((2, 1, 8, 8), 0.5), NoiseSource(0, "fixed", (1, 8, 8))([0, 1])
    out = gradient(purifier, images, noise, lambda x: x.flatten(1).sum(dim=1), mode="replay", kept_steps=0)
    assert out.purified.shape == images.shape
    assert out.purified.std() > 0
    assert out.values.sum() == out.purified.sum()
    assert torch.allclose(out.gradient.sum(), torch.tensor(2 * 64.0), rtol=1e-5)


def test_the_readmes_check_says_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_purifiers.py").write_text(BLOCKS["python"])
    (shown,) = re.findall(r"\$ make check FILE=(\S+) PARAMS='(.*?)'\n(.*?)```", README, re.DOTALL)
    assert main([shown[0], "--params", shown[1]]) == 0
    rounding = re.compile(r"\de-\d+")
    said = rounding.sub("", capsys.readouterr().out).splitlines()
    assert [line for line in rounding.sub("", shown[2]).splitlines() if line not in said] == ["  ..."]
