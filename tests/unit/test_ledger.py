"""Published numbers beside ours: compared only in the same setting, by a stated rule, and quoted as they are."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from test_figures import made_up_rows

from purification.reporting.ledger import as_number, compare, ledger
from purification.reporting.marks import marked
from purification.reporting.report import Material, render
from purification.reporting.rows import Rows
from purification.statistics import wilson
from workflow_scripts.ledger_file import LEDGER, published, read_ledger

ENTRY = {
    "method": "DiffPure",
    "dataset": "CIFAR-10",
    "classifier": "WRN-28-10",
    "norm": "linf",
    "epsilon": "1/10",
    "attack": "PGD, fixed noise",
    "source": "here",
}
NAMES = {
    "dataset": "CIFAR-10",
    "classifier": "WRN-28-10",
    "purifiers": {"ddpm_150": "DiffPure"},
    "attacks": {"fixed": "PGD, fixed noise"},
}


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made_up_rows()


def told(rows: Rows, names: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The one row of the ledger for the entry with some changes, in a run that says it has this setting."""
    entry = {**ENTRY, **changes}
    settings = {**copy.deepcopy(dict(rows.settings)), "ledger": {**NAMES, **(names or {})}, "published": [entry]}
    (row,) = ledger(replace(rows, settings=settings)).to_dict("records")
    return row


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """56 of 70 against 48 of 80: [.0524, .3339] in Newcombe 1998, table II, method 10."""
    verdict, reason = compare(wilson(56, 70), 48 / 80, 80)
    assert reason == "ours - published = 20.0 [5.2, 33.4] points"
    assert verdict == "differ"
    assert compare(wilson(56, 70), 0.75, 80)[0] == "agree"


def test_a_published_number_without_its_n_is_a_point() -> None:
    ours = wilson(56, 70)
    inside, outside = ours.low + 1e-6, ours.low - 1e-6
    assert compare(ours, inside, None)[0] == "agree" and compare(ours, outside, None)[0] == "differ"
    assert compare(ours, outside, 100)[0] == "agree"


@pytest.mark.parametrize("estimand", ["fixed", "avg", "single", "wor_10", "mv_9"])
def test_the_same_setting_is_compared_with_our_estimate(rows: Rows, estimand: str) -> None:
    row = told(rows, values={estimand: 50.0}, n=100)
    assert row["purifier"] == "ddpm_150" and row["ours_n"] == 12
    assert row["ours_percent_low"] <= row["ours_percent"] <= row["ours_percent_high"]
    again = told(rows, values={estimand: round(row["ours_percent"], 6)}, n=10000)
    assert again["verdict"] == "agree"
    far = 0.0 if row["ours_percent"] > 50.0 else 100.0
    assert told(rows, values={estimand: far}, n=100000)["verdict"] == "differ"


def test_fixed_is_the_accuracy_under_the_frozen_noise(rows: Rows) -> None:
    ours = rows.fixed("ddpm_150", "fixed")
    row = told(rows, values={"fixed": 10.0})
    assert row["ours_percent"] == pytest.approx(100 * ours.value) and row["published_percent"] == 10.0


def test_clean_numbers_are_compared_without_an_attack_or_a_budget(rows: Rows) -> None:
    entry = {key: value for key, value in ENTRY.items() if key not in ("norm", "epsilon")}
    settings = {**rows.settings, "ledger": NAMES, "published": [{**entry, "attack": "none", "values": {"fixed": 90.0}}]}
    (row,) = ledger(replace(rows, settings=settings)).to_dict("records")
    assert row["ours_percent"] == pytest.approx(100 * rows.fixed("ddpm_150", "clean").value)


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "dataset": ({"dataset": "SVHN"}, "other dataset"),
    "classifier": ({"classifier": "WRN-70-16"}, "other classifier"),
    "method": ({"method": "GDMP"}, "other method"),
    "attack": ({"attack": "AutoAttack"}, "other attack"),
    "norm": ({"norm": "l2"}, "other norm"),
    "epsilon": ({"epsilon": "8/255"}, "other epsilon"),
    "epsilon in words": ({"epsilon": "not stated"}, "other epsilon"),
    "number of votes": ({"values": {"mv_10": 1.0}}, "other estimand"),
    "unknown estimand": ({"values": {"not stated": 1.0}}, "other estimand"),
    "selection on the judging draw": ({"values": {"selected": 1.0}}, "other estimand"),
    "several": ({"dataset": "SVHN", "norm": "l2"}, "other dataset, norm"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_setting_cannot_be_compared(rows: Rows, name: str) -> None:
    changes, reason = OTHER[name]
    row = told(rows, **{"values": {"fixed": 50.0}, **changes})
    assert (row["verdict"], row["reason"], row["purifier"]) == ("cannot tell", reason, "")
    assert math.isnan(row["ours_percent"])


def test_what_was_not_run_cannot_be_compared(rows: Rows) -> None:
    row = told(
        rows, {"attacks": {"eot": "PGD, fixed noise"}, "purifiers": {"ddim_10": "DiffPure"}}, values={"avg": 1.0}
    )
    assert (row["verdict"], row["reason"]) == ("cannot tell", "not measured in this run")


def test_an_unreliable_evaluation_agrees_with_nothing(rows: Rows) -> None:
    settings = {**rows.settings, "ledger": NAMES, "published": [{**ENTRY, "values": {"fixed": 50.0}}]}
    spoilt = replace(rows, settings=settings)
    spoilt.__dict__["unreliable"] = {"ddpm_150": "the gradient vanishes"}
    (row,) = marked("ledger", ledger(spoilt), spoilt).to_dict("records")
    assert (row["verdict"], row["reliable"]) == ("cannot tell", False)
    assert row["reason"] == "ours is unreliable: the gradient vanishes"


def test_budgets_are_numbers_or_words() -> None:
    assert as_number("8/255") == pytest.approx(8 / 255) and as_number("0.5") == 0.5
    assert math.isnan(as_number("not stated")) and math.isnan(as_number("0.5, 0.2"))


def test_the_default_run_compares_with_nothing(rows: Rows) -> None:
    table = ledger(replace(rows, settings={**rows.settings, "published": published()}))
    assert set(table.verdict) == {"cannot tell"} and table.reason.str.startswith("other dataset").all()
    assert len(table) == sum(len(entry["values"]) for entry in published()) == 268


# Values as quoted, one per source: method, classifier, norm, attack, estimand -> percent
QUOTED = {
    ("DiffPure", "WRN-28-10", "linf", "AutoAttack (adjoint)", "selected"): 70.64,
    ("DiffPure", "WRN-28-10", "linf", "AutoAttack (fixed)", "selected_mean_20"): 56.25,
    ("DiffPure", "WRN-28-10", "linf", "PGD, fixed noise", "fixed"): 23.7,
    ("DiffPure", "WRN-70-16", "linf", "AutoAttack (exact)", "wor_10"): 17.19,
    ("GDMP", "WRN-70-16", "linf", "DiffHammer", "wor_10"): 27.54,
    ("ADBM", "WRN-28-10", "linf", "PGD200+EOT20 (exact)", "single"): 47.90,
    ("Standard", "WRN-28-10", "linf", "AutoAttack", "fixed"): 0.0,
    ("AGDM", "WRN-28-10", "linf", "AutoAttack", "not stated"): 78.12,
}


@pytest.mark.parametrize("key", QUOTED)
def test_values_are_quoted(key: tuple[str, ...]) -> None:
    columns = ("method", "classifier", "norm", "attack")
    found = {
        value
        for entry in published()
        if tuple(entry.get(column) for column in columns) == key[:4]
        for estimand, value in entry["values"].items()
        if estimand == key[4] and entry["epsilon"] == "8/255"
    }
    assert found == {QUOTED[key]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({"source": None}, "[0].source"),
    "unknown key": ({"sources": "x"}, "[0]: Additional properties"),
    "unknown estimand": ({"values": {"worst": 1.0}}, "[0].values"),
    "fraction for percent": ({"values": {"avg": 170.0}}, "170.0 is greater than the maximum of 100"),
    "a budget without an attack": ({"attack": "none"}, "[0]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_entry_is_refused_by_its_place(name: str, tmp_path: Path) -> None:
    changes, sentence = WRONG[name]
    path = tmp_path / "ledger.yaml"
    path.write_text(yaml.safe_dump([{**ENTRY, "values": {"avg": 1.0}, **changes}]))
    with pytest.raises(ValueError, match="expected entries as in") as refusal:
        read_ledger(path)
    assert sentence in str(refusal.value)


def test_a_setting_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.yaml"
    path.write_text(yaml.safe_dump([{**ENTRY, "values": {"avg": 1.0}}, {**ENTRY, "values": {"fixed": 1.0}}]))
    with pytest.raises(ValueError, match=r"got \[1\] like \[0\]"):
        read_ledger(path)
    assert LEDGER.is_file()


def test_the_page_has_a_section_of_them(rows: Rows) -> None:
    table = ledger(replace(rows, settings={**rows.settings, "published": published()}))
    costs = pd.DataFrame({"rule": ["a"], "s": [1.0], "max_rss": [1.0]})
    page = render(Material({"ledger": table}, {}, {}, costs, rows.settings, "results"))
    section = page[page.index('<h2 id="published">') : page.index('<h2 id="figures">')]
    assert "0 agree with this run, 0 differ, and 268 cannot be compared" in " ".join(section.split())
    assert section.count("<tr>") == 269
    assert page.count('id="table-ledger"') == 1
