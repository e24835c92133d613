"""The bench of `make protocols`, small: stages evaluate, verdicts mark, tables and figure are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from purification.known_truth.catalogue import Entry
from purification.known_truth.groups import GROUPS
from purification.reporting.known_truth import OURS, verdicts
from workflow_scripts.compare_protocols import compare_protocols, read_config, sample_coverage, tables_of, write_tables

CHOSEN = {
    "randomised": ["noise .3", "DDPM chain"],
    "faulty": ["derivative at other states"],
    "honest": ["constant", "rotation"],
    "masking": ["rounded copy, with a leak", "another map while grad is enabled", "derivative of the wrong sign"],
}
FEW: dict[str, dict[str, Entry]] = {
    group: {name: GROUPS[group][name] for name in names} for group, names in CHOSEN.items()
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The bench's own configuration with fewer images, draws and steps."""
    config = read_config()
    config["audit"] = {**config["audit"], "images": 10}
    known = config["known_truth"]
    known["images"] = 30
    known["published"] = {**known["published"], "steps": 4, "step_size": 0.5, "draws": 2, "iterates": 6}
    known["hammer"] = {**known["hammer"], "steps": 3, "draws": 3}
    known["coverage"] = {**known["coverage"], "defences": ["noise .3"], "samples": 5, "images": 20}
    return config


@pytest.fixture(scope="module")
def rows(config: dict[str, Any]) -> pd.DataFrame:
    return compare_protocols(FEW, config)


def test_what_masks_is_marked_and_what_is_random_is_right(rows: pd.DataFrame, config: dict[str, Any]) -> None:
    ours = rows[(rows.protocol == OURS) & (rows.estimand == "fixed")].set_index("defence")
    for name in [*CHOSEN["masking"], *CHOSEN["faulty"]]:
        assert ours.marked[name] and ours.why[name], name
    for name in [*CHOSEN["randomised"], "constant"]:
        assert not ours.marked[name] and abs(ours.reported[name] - ours.truth[name]) <= 0.04, (name, ours.why[name])
    found = verdicts(rows, config["known_truth"]["tolerance"])
    assert found.defences.sum() == 8 and found.unmarked_wrong.sum() <= 1


def test_no_protocol_reports_less_than_the_truth_of_a_defence_without_noise(rows: pd.DataFrame) -> None:
    """The truth is the worst case: only a judge that is not the defence can be below it."""
    fixed = rows[rows.group.isin(["honest", "masking"])]
    assert (fixed.reported >= fixed.truth - 1e-9).all(), fixed[fixed.reported < fixed.truth]
    known = rows[(rows.protocol == OURS) & (rows.estimand == "fixed")]
    assert (known.reported >= known.truth - 1e-9).all()


def test_published_protocols_read_chance_as_success(rows: pd.DataFrame) -> None:
    own = rows[rows.defence == "noise .3"].set_index("protocol")
    assert own.reported["stop at first success"] < own.truth["stop at first success"] - 0.1
    fresh = rows[(rows.defence == "noise .3") & (rows.protocol == OURS) & (rows.estimand == "avg")].iloc[0]
    assert abs(fresh.reported - fresh.truth) < 0.1


def test_tables_and_figure_are_written_and_repeat(rows: pd.DataFrame, config: dict[str, Any], tmp_path: Path) -> None:
    samples = sample_coverage(FEW, config)
    tables = tables_of(rows, samples, config["known_truth"])
    texts = [write_tables(rows, tables, tmp_path / folder) for folder in ("one", "two")]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        *("bias.csv", "coverage.csv", "defences.csv", "protocols.md", "protocols.pdf", "protocols.png"),
        *("ranks.csv", "verdicts.csv"),
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert texts[0] == texts[1] and texts[0].count("## ") == 4
    again = compare_protocols(
        {"masking": {"rounded copy, with a leak": FEW["masking"]["rounded copy, with a leak"]}}, config
    )
    first = rows[rows.defence == "rounded copy, with a leak"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first)
