"""The shape of the project: pins in one place, a short Snakefile, constants that must agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from purification.reporting import law
from purification.reporting.tables import TABLES
from workflow_scripts import configuration

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {"pytorch": "torch"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {name.lower(): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_conda_environments_repeat_the_pins(path: Path) -> None:
    entries = [entry.split("=") for entry in yaml.safe_load(path.read_text())["dependencies"]]
    versions = {CONDA_NAMES.get(name, name): version for name, version in entries if name != "python"}
    assert versions == {name: pins()[name] for name in versions}


def test_the_snakefile_is_a_table_of_contents() -> None:
    text = (ROOT / "Snakefile").read_text()
    assert len(text.splitlines()) <= 60
    assert "torch" not in text


def test_no_rule_runs_code_of_its_own() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        assert not re.search(r"^ +(run|shadow):", path.read_text(), re.MULTILINE), path


def test_parsing_the_workflow_does_not_import_torch(tmp_path: Path) -> None:
    program = "import sys; from workflow_scripts import code_digest, configuration; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_rules_and_library_name_the_same_tables() -> None:
    text = (ROOT / "rules" / "rendering.smk").read_text()
    listed = re.search(r"TABLES = \[(.*?)\]", text, re.DOTALL)
    more = re.search(r"ANOMALY_TABLES = \[(.*?)\]", text)
    assert listed and more
    assert [name for part in (listed, more) for name in re.findall(r'"(\w+)"', part.group(1))] == list(TABLES)


def test_the_points_a_fit_needs_have_one_value() -> None:
    assert configuration.MINIMUM_POINTS == law.MINIMUM_POINTS
