"""No job executes project code that its hash does not cover."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.workflow.conftest import Project
from workflow_scripts.code_digest import Project as Code


def settings_of(params: dict[str, Any]) -> list[Any]:
    """Settings that the rules pass to the hash of a job."""
    if "figure" in params:
        return [{"figure": params["figure"]}]
    return [
        params[key] for key in ("purifier", "purifiers", "attacks", "settings", "noise", "evaluation") if key in params
    ]


def covers(reached: Mapping[tuple[str, ...], str], item: tuple[str, ...]) -> bool:
    """A function or method is reached, or is part of a class that is reached as a whole."""
    owner, method = item[:2], item[-1]
    whole = method.startswith("__") or f"def {method}(" in reached.get(owner, "")
    return item in reached or (len(item) > 2 and owner in reached and whole)


def test_what_jobs_execute_is_covered_by_their_hash(finished: Project) -> None:
    code = Code(finished.folder, ("purification", "workflow_scripts"))
    records = [json.loads(path.read_text()) for path in (finished.folder / "executed").glob("*.json")]
    assert len(records) > 60
    verbs = {record["rule"].partition("_")[0] for record in records}
    assert verbs >= {"prepare", "train", "attack", "purify", "measure", "compute", "fit", "render"}
    for record in records:
        rule = "render_figures" if "figure" in record["params"] else record["rule"]
        stage = f"workflow_scripts.{rule}"
        settings = settings_of(record["params"])
        assert record["params"]["code"] == code.digest(stage, settings), rule
        reached = code.reached(stage, settings)
        executed = [(module, *name.split(".")) for module, name in record["executed"]]
        defined = [item for item in executed if item[1] in code.modules[item[0]].definitions]
        assert defined, rule
        assert [item for item in defined if not covers(reached, item)] == [], rule
