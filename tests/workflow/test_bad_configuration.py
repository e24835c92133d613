"""A configuration that cannot run is refused before anything runs, in a sentence that names the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workflow.conftest import Project

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"epsilons": 0.1}, "epsilons"),
    "unknown purifier": ({"run": {"headline": "ddpm_201"}}, "did you mean 'ddpm_200'"),
    "unknown attack": ({"base_attack": "fixedd"}, "did you mean 'fixed'"),
    "unknown dataset": ({"dataset": "digit"}, "did you mean 'digits'"),
    "negative budget": ({"threat": {"epsilon": -0.1}}, "-0.1 is less than the minimum"),
    "wrong type": ({"seed": "zero"}, "'zero' is not of type 'integer'"),
    "unknown sampler": ({"purifiers": {"ddpm_25": {"sampler": "dpm"}}}, "'dpm' is not one of"),
    "too large t_star": (
        {"purifiers": {"ddpm_25": {"t_star": 1001}}},
        "ddpm_25.t_star: expected at most 1000",
    ),
    "more steps than t_star": ({"purifiers": {"ddpm_25": {"steps": 26}}}, "purifiers.ddpm_25.steps: expected at most"),
    "eta of a ddpm": ({"purifiers": {"ddpm_25": {"eta": 0.5}}}, "eta"),
    "missing file": (
        {"purifiers": {"mine": {"kind": "python", "path": "nowhere.py", "factory": "f", "params": {}}}},
        "found none at nowhere.py",
    ),
    "missing classifier": (
        {"classifiers": {"mine": {"kind": "python", "path": "nowhere.py", "factory": "f", "params": {}}}},
        "classifiers.mine.path: expected a Python file, found none at nowhere.py",
    ),
    "no Python": (
        {"purifiers": {"mine": {"kind": "python", "path": "README.md", "factory": "f", "params": {}}}},
        "purifiers.mine.path: expected Python in README.md, got a mistake in line",
    ),
    "missing factory": (
        {"purifiers": {"mine": {"kind": "python", "path": "linear.py", "factory": "f", "params": {}}}},
        "purifiers.mine.factory: expected a function of linear.py, found no 'f' there",
    ),
    "both kinds of classifier": ({"classifiers": {"residual": {"path": "linear.py"}}}, "path"),
    "duplicate purifier": ({"run": {"controls": ["identity", "identity"]}}, "non-unique"),
    "empty sweep": ({"run": {"sweep": []}}, "[] is too short"),
    "no undefended classifier": ({"run": {"controls": ["blur"]}}, "expected 'identity' among them"),
    "lucky stop": ({"attacks": {"eot": {"stop_when_broken": True}}}, "reports chance as success"),
    "base attack without knowledge": ({"base_attack": "eot"}, "attacks.eot.knowledge: expected both"),
    "more images than there are": ({"evaluation": {"images": 5000}}, "evaluation.images: expected at most 400"),
    "more votes than draws": ({"evaluation": {"votes": 99}}, "evaluation.votes: expected at most draws"),
    "no subset to fit": ({"fit": {"subsets": {"all": 0, "t* <= 100": 0}}}, "fit.subsets: expected one with at least 6"),
    "claims without their attack": ({"run": {"attacks": {"eot": []}}}, "A11 and A16 need it"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_that_cannot_run_is_refused(project: Project, case: str) -> None:
    config, sentence = CASES[case]
    done = project.snakemake("-n", "--", "results/tables", config=config)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr, (done.stdout + done.stderr)[-2000:]
