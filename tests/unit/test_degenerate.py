"""Whatever a run finds, every table and every claim comes: undecided where nothing is determined, with the reason."""

from __future__ import annotations

import warnings
from datetime import timedelta
from functools import cache

import pandas as pd
import pytest
from degenerate_rows import NAMED, Case, cases, rows_of
from hypothesis import given, settings

from purification.reporting.claims import CLAIMS
from purification.reporting.figures import FIGURES, Extras, draw
from purification.reporting.marks import marked
from purification.reporting.rows import Rows
from purification.reporting.tables import TABLES

OF_THE_LAW = ("points", "fit", "prediction", "controls", "defences")
FIGURES_OF_THE_LAW = ("compression_robustness", "prediction")
CLAIMS_OF_OTHERS = ("A12", "A13", "A14", "A15")
VERDICTS = {"pass", "fail", "inconclusive"}
bounded = settings(max_examples=15, deadline=timedelta(seconds=20), derandomize=True)


@cache
def made(case: Case) -> Rows:
    return rows_of(case)


def check_table(name: str, rows: Rows) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = marked(name, TABLES[name](rows), rows)
    assert isinstance(table, pd.DataFrame)
    for column in table:
        if f"{column}_low" in table:
            known = table.dropna(subset=[column, f"{column}_low", f"{column}_high"])
            assert (known[f"{column}_low"] <= known[column] + 1e-9).all(), column
            assert (known[column] <= known[f"{column}_high"] + 1e-9).all(), column


def check_claim(name: str, rows: Rows) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claim = CLAIMS[name](rows)
    assert claim.verdict in VERDICTS
    assert claim.effect and claim.null and claim.left_out
    if not claim.low <= claim.high:
        assert claim.verdict == "inconclusive" and claim.note, claim


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("name", [name for name in TABLES if name not in (*OF_THE_LAW, "claims")])
def test_every_table_of_a_degenerate_run_comes(name: str, case: Case) -> None:
    check_table(name, made(case))


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("name", [name for name in CLAIMS if name not in CLAIMS_OF_OTHERS])
def test_every_claim_of_a_degenerate_run_has_a_verdict(name: str, case: Case) -> None:
    check_claim(name, made(case))


DRAWN = (
    "all at once",
    "zero measurements",
    "no draws",
    "nothing of the headline",
    "only accuracies",
)


@pytest.mark.parametrize("case", DRAWN)
def test_every_figure_of_a_degenerate_run_is_drawn(case: str) -> None:
    for name in FIGURES:
        if name not in FIGURES_OF_THE_LAW:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                draw(name, made(NAMED[case]), Extras()).canvas.draw()


@given(cases())
@bounded
def test_every_table_and_claim_of_any_run_comes(case: Case) -> None:
    rows = rows_of(case)
    for name in TABLES:
        if name not in (*OF_THE_LAW, "claims"):
            check_table(name, rows)
    for name in CLAIMS:
        if name not in CLAIMS_OF_OTHERS:
            check_claim(name, rows)
