"""A purifier whose evaluation does not count is marked in all that shows it; a good one nowhere."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from typing import Any

import pandas as pd
import pytest
from test_figures import IMAGES, made_up_extras, made_up_rows
from test_verdict import GOOD

from purification.reporting.figures import FIGURES, Extras, draw
from purification.reporting.formats import compact
from purification.reporting.marks import DAGGER, RELIES, marked
from purification.reporting.reliability import CHECKS
from purification.reporting.report import Material, render
from purification.reporting.rows import Rows
from purification.reporting.tables import TABLES
from workflow_scripts.ledger_file import published

BAD = "blur"  # the purifier whose audit is made to fail
MEANING = "the gradient is not the derivative of what runs"


def audited(rows: Rows, purifier: str, attack: str, **columns: Any) -> pd.DataFrame:
    """Audit of one attack on one purifier, good but for some columns."""
    gradient = rows.settings["attacks"][attack].get("gradient", "replay")
    head = {"purifier": purifier, "attack": attack, "stage": 0, "loss": "ce"}
    informed = dict.fromkeys(("zero_share", "sign_disagreement", "loss_change", "bpda_cosine"), 0.5)
    own = {**GOOD, **informed, "gradient": gradient, **columns}
    return pd.DataFrame({**head, "image": range(IMAGES), **own})


@pytest.fixture(scope="module")
def good() -> Rows:
    """Rows of a run in which every gradient passes."""
    rows = made_up_rows()
    settings = {**rows.settings, "published": published()}
    parts = []
    for purifier in rows.evaluated:
        for attack in rows.attacks_on(purifier):
            if attack not in ("clean", "random", "transfer"):
                parts.append(audited(rows, purifier, attack))
    return Rows({**rows.frames, "audit": pd.concat(parts, ignore_index=True)}, settings)


def spoilt(rows: Rows, purifier: str, attack: str | None = None) -> Rows:
    """The same with the audit of one attack, the base attack unless given, that fails."""
    attack = attack or rows.base_attack
    frame = rows.frames["audit"]
    bad = audited(rows, purifier, attack, finite_difference=9.0, gradient_repeat=9.0 * (attack != rows.base_attack))
    kept = frame[(frame.purifier != purifier) | (frame.attack != attack)]
    return replace(rows, frames={**rows.frames, "audit": pd.concat([kept, bad])})


def table(rows: Rows, name: str) -> pd.DataFrame:
    return marked(name, TABLES[name](rows), rows)


def rests_on(row: dict[str, Any], purifier: str) -> bool:
    """Whether a row of a table names the purifier, and an attack on it."""
    named = purifier in (row.get("purifier"), row.get("against"))
    return named and row.get("attack") not in ("clean", "random", "transfer") and row.get("model") != "null"


# Tables whose numbers need neither an attack nor a derivative, or that show the examination itself.
NO_GRADIENT = {"compression", "randomness", "audit", "reliability", "unreliable", "subsets", "settings"}
DETECTORS = {"anomaly", "certified_anomaly"}  # of detectors, which the audit of purifiers says nothing about


def test_every_table_says_what_it_relies_on() -> None:
    assert set(TABLES) - NO_GRADIENT - DETECTORS == set(RELIES)


@pytest.mark.parametrize("name", sorted(RELIES))
def test_nothing_is_marked_when_every_audit_passes(good: Rows, name: str) -> None:
    marks = table(good, name)
    assert marks.reliable.all() and not marks.why.any()
    assert DAGGER not in compact(marks).to_string()


@pytest.mark.parametrize("name", sorted(RELIES))
def test_a_control_whose_gradient_is_wrong_is_marked_where_it_is_attacked_only(good: Rows, name: str) -> None:
    for row in table(spoilt(good, BAD), name).to_dict("records"):
        assert row["reliable"] != rests_on(row, BAD), row
        assert (MEANING in row["why"]) == rests_on(row, BAD)


def test_a_point_of_the_sweep_also_spoils_what_is_fitted_to_it(good: Rows) -> None:
    rows = spoilt(good, "ddpm_200")
    for name in ("fit", "prediction"):
        marks = table(rows, name)
        assert (marks.reliable == (marks.subset != "all")).all(), "t* = 200 belongs to the subset of all only"
    assert not table(rows, "controls").reliable.any()
    claims = table(rows, "claims").set_index("claim")
    assert list(claims.index[~claims.reliable]) == ["A12", "A13", "A14", "A15"]
    assert (claims[~claims.reliable].verdict == "inconclusive").all()
    assert (claims[~claims.reliable].holm == "inconclusive").all()


def test_the_headline_and_the_undefended_classifier_spoil_the_claims_about_them(good: Rows) -> None:
    claims = {p: table(spoilt(good, p), "claims").set_index("claim") for p in (good.headline, "identity")}
    on_headline = ["A9", "A10", "A11", "A12", "A13", "A14", "A15", "A16", "A17"]
    assert list(claims[good.headline].index[~claims[good.headline].reliable]) == on_headline
    assert list(claims["identity"].index[~claims["identity"].reliable]) == ["A1", "A2", "A12", "A13", "A14", "A15"]
    transferred = table(spoilt(good, "identity"), "robustness")
    assert not transferred[transferred.attack == "transfer"].reliable.any()
    assert transferred[transferred.attack.isin(["clean", "random"])].reliable.all()


def test_an_evaluation_that_was_not_audited_is_marked(good: Rows) -> None:
    frame = good.frames["audit"]
    rows = replace(good, frames={**good.frames, "audit": frame[frame.purifier != BAD]})
    assert rows.unreliable == {BAD: "its gradient was not audited"}


def test_another_attack_spoils_what_rests_on_it_alone(good: Rows) -> None:
    rows = spoilt(good, good.headline, "bpda")
    assert rows.unreliable == {}
    assert rows.unreliable_attacks == {(good.headline, "bpda"): "the same gradient taken twice differs"}
    marks = table(rows, "robustness")
    assert marks[~marks.reliable][["purifier", "attack"]].to_numpy().tolist() == [[good.headline, "bpda"]]
    claims = table(rows, "claims").set_index("claim")
    assert list(claims.index[~claims.reliable]) == ["A16"]


def test_a_beaten_base_attack_is_marked(good: Rows) -> None:
    """Transferred images that break all that it leaves."""
    frame = good.frames["purified"].copy()
    chosen = (frame.purifier == BAD) & (frame.attack == "transfer")
    frame.loc[chosen, "fixed"] = (frame.label + 1) % 10
    rows = replace(good, frames={**good.frames, "purified": frame})
    assert list(rows.unreliable) == [BAD]
    assert "other attacks break" in rows.unreliable[BAD]
    found = table(rows, "known_noise").set_index("purifier").loc[BAD]
    assert found.worst_known == 0 < found.base and not found.reliable
    assert found.gap == pytest.approx(100 * found.base) and found.gap_n == IMAGES
    assert found.broken_by.startswith("transfer ")


def test_the_table_of_what_is_unreliable_says_what_rests_on_it(good: Rows) -> None:
    assert TABLES["unreliable"](good).empty
    (row,) = TABLES["unreliable"](spoilt(good, "ddpm_200")).to_dict("records")
    assert (row["purifier"], row["attack"], row["marked"]) == ("ddpm_200", good.base_attack, True)
    assert row["reason"] == MEANING
    assert row["rests_on"] == "A12, A13, A14, A15, tables fit, prediction and controls"
    assert row["gap"] == 0 < row["gap_high"] and row["gap_n"] == IMAGES


def test_what_could_not_be_measured_is_listed_and_not_marked(good: Rows) -> None:
    frame = good.frames["audit"].copy()
    frame.loc[frame.purifier == BAD, "no_derivative"] = "it rounds"
    rows = replace(good, frames={**good.frames, "audit": frame})
    assert rows.unreliable == {}
    (row,) = TABLES["unreliable"](rows).to_dict("records")
    assert not row["marked"] and row["unmeasured"] == "nothing about a gradient: it rounds"


def test_a_table_for_people_has_a_dagger_on_the_unreliable_rows(good: Rows) -> None:
    marks = table(spoilt(good, BAD), "points")
    text = compact(marks).purifier.tolist()
    assert [cell for cell in text if DAGGER in cell] == [f"{BAD} {DAGGER}"]
    assert marks.purifier.tolist() == [cell.removesuffix(f" {DAGGER}") for cell in text]


def page(rows: Rows) -> str:
    """The report of tables that were written and read again, as its stage has them."""
    names = ("robustness", "points", "controls", "reliability", "unreliable")
    tables = {name: pd.read_csv(StringIO(table(rows, name).to_csv(index=False))) for name in names}
    costs = pd.DataFrame({"rule": ["a"], "s": [1.0], "max_rss": [1.0]})
    return render(Material(tables, {}, {}, costs, rows.settings, "results"))


def test_the_page_names_what_is_unreliable(good: Rows) -> None:
    assert DAGGER not in page(good)
    text = page(spoilt(good, BAD))
    assert re.search(rf"Not reliable.*?{BAD} \({MEANING}", text, re.DOTALL)
    assert f"<td>{BAD} {DAGGER}</td>" in text and f"<td>constant {DAGGER}</td>" not in text


def test_the_page_says_what_was_not_measured_beside_a_mark_that_nothing_rests_on(good: Rows) -> None:
    """Cells without a text are NaN in a table that was read from a file."""
    frame = spoilt(good, BAD).frames["audit"].copy()
    frame.loc[frame.purifier == "ddpm_200", "no_derivative"] = "it rounds"
    text = page(replace(good, frames={**good.frames, "audit": frame}))
    assert f"1 evaluation does not count: {BAD} ({MEANING}; no claim rests on it)" in " ".join(text.split())
    assert "Not measurable: ddpm_200 (nothing about a gradient: it rounds)." in text


@pytest.fixture(scope="module")
def extras(good: Rows) -> Extras:
    return made_up_extras(good)


def texts(rows: Rows, extras: Extras, name: str) -> str:
    figure = draw(name, rows, extras)
    drawn = [text.get_text() for axis in figure.axes for text in axis.texts]
    named = [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    return " ".join(" ".join([*drawn, *named, *titles, figure.get_supxlabel()]).split())


# Figure -> a purifier it shows
IN_FIGURES = {
    **dict.fromkeys(("compression_robustness", "prediction"), "ddpm_200"),
    **dict.fromkeys(("robustness", "spectrum", "budget", "adequacy", "fuzziness", "images"), "ddpm_150"),
    "distances": "identity",
}


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_figure_marks_the_unreliable_purifiers_it_shows(good: Rows, extras: Extras, name: str) -> None:
    assert DAGGER not in texts(good, extras, name)
    if name in IN_FIGURES:
        text = texts(spoilt(good, IN_FIGURES[name]), extras, name)
        assert f"{DAGGER} unreliable" in text and IN_FIGURES[name] in text
    hidden = texts(spoilt(good, BAD), extras, name)
    assert (DAGGER in hidden) == (name == "compression_robustness"), "only this figure shows the controls"


def test_every_check_has_a_limit(good: Rows) -> None:
    others = {"exceptions", "flat", "judged_otherwise", "unmoved", "beaten"}
    assert set(good.settings["reliability"]) - others == set(CHECKS) <= set(good.frames["audit"])
