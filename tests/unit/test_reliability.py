"""A purifier that masks its gradient is marked in every table, figure and page it reaches; a good one in none."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from test_figures import made_up_extras, made_up_rows
from torch import Tensor

from purification.defence import Defence
from purification.measure.audit import Sample, audit
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier
from purification.reporting.figures import FIGURES, Extras, draw
from purification.reporting.formats import compact
from purification.reporting.reliability import DAGGER, MEANING, RELIES, audits, marked
from purification.reporting.report import Material, render
from purification.reporting.rows import Rows
from purification.reporting.tables import TABLES
from workflow_scripts.ledger_file import published

SHAPE = (1, 6, 6)
Function = Callable[[Tensor], Tensor]
PURIFIERS: dict[str, tuple[Function, str]] = {
    "honest": (lambda x: x.square(), ""),
    "lightly clamped": (lambda x: x.clamp(0.05, 0.95), ""),
    "constant": (lambda x: 0.5 + 0.0 * x, ""),
    "rounding": (lambda x: (8.0 * x).round() / 8.0, "zero_gradient masked"),
    "rounding in part": (lambda x: 0.5 * x + 0.5 * (8.0 * x).round() / 8.0, "masked"),
    "detached": (lambda x: x.detach().square() + 0.0 * x, "finite_difference zero_gradient"),
    "detached in part": (lambda x: x + x.detach().square(), "finite_difference"),
    "straight through": (lambda x: x + (x.flip(-1) - x).detach(), "finite_difference"),
    "not finite": (lambda x: x + (x - x.detach()).sqrt(), "replay_difference finite_difference not_finite"),
    "single precision": (lambda x: single(x), "finite_difference"),
}
BAD = "blur"  # the purifier whose audit is made to fail


def single(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise ValueError("expected float32")
    return x.square()


def audited(function: Function) -> pd.DataFrame:
    numbers = torch.Generator().manual_seed(0)
    weights = torch.randn(36, 3, generator=numbers, dtype=torch.float64)
    images, labels = torch.rand(8, *SHAPE, generator=numbers), torch.arange(8) % 3
    defence = Defence(FunctionPurifier(lambda x, noise: function(x)), lambda x: x.flatten(1) @ weights.to(x.dtype), 8)
    sample = Sample(images, labels, range(8), NoiseSource(0, "fixed", SHAPE))
    checks = audit(defence, defence, sample, step=1e-7, epsilon=0.1)
    return pd.DataFrame({"image": range(8), **{name: values.numpy() for name, values in checks.items()}})


@pytest.mark.parametrize("name", PURIFIERS)
def test_an_audit_says_what_is_wrong_with_a_gradient(name: str) -> None:
    function, expected = PURIFIERS[name]
    verdict = audits(audited(function).assign(purifier=name), made_up_rows().settings["reliability"]).iloc[0]
    assert verdict.why == "; ".join(MEANING[check] for check in MEANING if check in expected.split())
    assert verdict.reliable == (expected == "")


@pytest.fixture(scope="module")
def good() -> Rows:
    """Rows of a run in which every gradient passes."""
    rows = made_up_rows()
    evaluated = [*rows.settings["run"]["sweep"], *rows.settings["run"]["controls"]]
    frame = audited(PURIFIERS["honest"][0])
    settings = {
        **rows.settings,
        "evaluation": {**rows.settings["evaluation"], "resamples": 10},
        "published": published(),
    }
    frames = {**rows.frames, "audit": pd.concat([frame.assign(purifier=p) for p in evaluated])}
    return Rows(frames, settings)


def spoilt(rows: Rows, purifier: str) -> Rows:
    """The same with the audit of one purifier that rounds."""
    frame = rows.frames["audit"]
    bad = audited(PURIFIERS["rounding"][0]).assign(purifier=purifier)
    return replace(rows, frames={**rows.frames, "audit": pd.concat([frame[frame.purifier != purifier], bad])})


def table(rows: Rows, name: str) -> pd.DataFrame:
    return marked(name, TABLES[name](rows), rows)


def rests_on(row: dict[str, Any], purifier: str) -> bool:
    """Whether a row of a table names the purifier, and an attack on it."""
    named = purifier in (row.get("purifier"), row.get("against"))
    return named and row.get("attack") not in ("clean", "random", "transfer") and row.get("model") != "null"


# Tables whose numbers need neither an attack nor a derivative, or that show the audit itself.
NO_GRADIENT = {"compression", "randomness", "audit", "reliability", "subsets", "settings"}
DETECTORS = {"anomaly", "certified_anomaly"}  # of detectors, which the audit of purifiers says nothing about


def test_every_table_says_what_it_relies_on() -> None:
    assert set(TABLES) - NO_GRADIENT - DETECTORS == set(RELIES)


@pytest.mark.parametrize("name", sorted(RELIES))
def test_nothing_is_marked_when_every_audit_passes(good: Rows, name: str) -> None:
    marks = table(good, name)
    assert marks.reliable.all() and not marks.why.any()
    assert DAGGER not in compact(marks).to_string()


@pytest.mark.parametrize("name", sorted(RELIES))
def test_a_control_that_masks_its_gradient_is_marked_where_it_is_attacked_only(good: Rows, name: str) -> None:
    for row in table(spoilt(good, BAD), name).to_dict("records"):
        assert row["reliable"] != rests_on(row, BAD), row
        assert ("the gradient vanishes" in row["why"]) == rests_on(row, BAD)


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


def test_a_table_for_people_has_a_dagger_on_the_unreliable_rows(good: Rows) -> None:
    marks = table(spoilt(good, BAD), "points")
    text = compact(marks).purifier.tolist()
    assert [cell for cell in text if DAGGER in cell] == [f"{BAD} {DAGGER}"]
    assert marks.purifier.tolist() == [cell.removesuffix(f" {DAGGER}") for cell in text]


def page(rows: Rows) -> str:
    tables = {name: table(rows, name) for name in ("robustness", "points", "controls", "reliability")}
    costs = pd.DataFrame({"rule": ["a"], "s": [1.0], "max_rss": [1.0]})
    return render(Material(tables, {}, {}, costs, rows.settings, "results"))


def test_the_page_names_what_is_unreliable(good: Rows) -> None:
    assert DAGGER not in page(good)
    text = page(spoilt(good, BAD))
    assert re.search(rf"Not reliable.*?1\s+purifier.*?{BAD} \(the gradient vanishes", text, re.DOTALL)
    assert f"<td>{BAD} {DAGGER}</td>" in text and f"<td>constant {DAGGER}</td>" not in text


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


def test_limits_decide(good: Rows) -> None:
    rows = spoilt(good, BAD)
    settings = copy.deepcopy(dict(rows.settings))
    settings["reliability"].update(zero_gradient=1.0, masked=1.0)
    assert replace(rows, settings=settings).unreliable == {}


def test_every_limit_is_a_column_of_the_audit(good: Rows) -> None:
    assert set(good.settings["reliability"]) == set(MEANING) <= set(good.frames["audit"])
