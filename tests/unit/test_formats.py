"""Tables are read back from what is written: Markdown by a parser, LaTeX by a compiler where there is one."""

from __future__ import annotations

import html
import io
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from degenerate_rows import NAMED, rows_of
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from purification.reporting import formats
from purification.reporting.claims import CLAIMS
from purification.reporting.tables import TABLES

AWKWARD = 'a|b \\ |x| < .05 & 5 % of $1 #3 {y} x_1 t* ~2 ^3 > "q" `c` [1] <b> &amp; t*<= _i_ **b** ~~s~~'
words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(lambda s: " ".join(s.split()))
parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def cells(markdown: str) -> list[list[str]]:
    """Text of the header and of every row, as a browser shows it; fails on markup inside a cell."""
    page = parser.render(markdown)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    assert not any("<" in cell for row in found for cell in row), page
    return [[html.unescape(cell) for cell in row] for row in found]


@given(st.lists(words, min_size=4, max_size=4))
@example([AWKWARD, "|", "\\|", "*a*"])
@example(["_a_", "__a__", "a_b", "t* <= 100"])
@example(["# a", "- a", "1. a", "> a"])
@example(["![a](b)", "<https://a.b>", "a@b.c", "&lt;"])
def test_a_markdown_parser_reads_every_cell_as_it_was(texts: list[str]) -> None:
    table = pd.DataFrame({"first": texts[:2], f"x {texts[2]}": texts[2:]})
    header, *rows = cells(formats.markdown(table))
    assert header == ["first", f"x {texts[2]}".strip()]
    assert rows == [[texts[0], texts[2]], [texts[1], texts[3]]]


@pytest.mark.parametrize(
    ("value", "people", "program"),
    [
        (200.0, "200", "200"),
        (1234567.0, "1234567", "1234567"),
        (np.int64(1234567), "1234567", "1234567"),
        (np.float32(3.0), "3", "3"),
        (0.123456789, "0.1235", "0.123457"),
        (1e-9, "1e-09", "1e-09"),
        (math.inf, "inf", "inf"),
        (math.nan, "", ""),
        (None, "", ""),
        (-0.0, "0", "0"),
        (True, "True", "True"),
        ("word", "word", "word"),
        ([1, 2], "[1, 2]", '"[1, 2]"'),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_number_is_written_as_what_it_is(value: Any, people: str, program: str, mixed: bool) -> None:
    """Integers are integers in CSV, Markdown and LaTeX, whatever else is in their column."""
    column = pd.Series([value, 0.5 if mixed and isinstance(value, float) else value])
    table = pd.DataFrame({"name": ["a", "b"], "value": column})
    assert cells(formats.markdown(table))[1] == ["a", people]
    assert formats.csv(table).splitlines()[1] == f"a,{program}"
    assert tabular(formats.latex(table))[1] == [
        "a",
        people if people[:1] != "[" else f"{{[}}{people[1:]}",
    ]


def test_a_value_and_its_interval_are_one_cell_for_people() -> None:
    table = pd.DataFrame(
        {
            "name": list("abc"),
            "x": [0.5, 1.0, np.nan],
            "x_low": [0.4, np.nan, np.nan],
            "x_high": [0.6, np.nan, np.nan],
        }
    )
    _, *rows = cells(formats.markdown(table))
    assert [row[1] for row in rows] == ["0.500 [0.400, 0.600]", "1.000 (no interval)", ""]
    read = pd.read_csv(io.StringIO(formats.csv(table)))
    assert list(read) == ["name", "x", "x_low", "x_high"] and read.x.isna().tolist() == [
        False,
        False,
        True,
    ]


def test_a_table_without_rows_says_so() -> None:
    assert formats.markdown(pd.DataFrame()) == formats.latex(pd.DataFrame({"a": []})) == "No rows.\n"


# --- LaTeX

SPECIAL = re.compile(r"(?<!\\)[&%$#_{}~^<>|\"\\]")
ALLOWED = [*(value for value in formats.LATEX.values()), *("{[}", "{*}")]


def tabular(latex: str) -> list[list[str]]:
    """Cells of the header and the rows, as written."""
    body = re.sub(r"\\(begin|end)\{tabular\}(\{[lr]*\})?|\\(top|mid|bottom)rule", "", latex)
    rows = [line.strip().removesuffix(r"\\").strip() for line in body.splitlines() if line.strip()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def unescaped(cell: str) -> str:
    """What of a cell TeX would take as a command."""
    for command in sorted(ALLOWED, key=len, reverse=True):
        cell = cell.replace(command, "")
    return "".join(SPECIAL.findall(cell))


@given(st.lists(words, min_size=4, max_size=4))
@example([AWKWARD, "[1]", "*", "†"])
def test_no_cell_of_latex_has_an_unescaped_special_character(texts: list[str]) -> None:
    table = pd.DataFrame({"first": texts[:2], f"x {texts[2]}": texts[2:]})
    header, *rows = tabular(formats.latex(table))
    assert [len(row) for row in (header, *rows)] == [2, 2, 2]
    for cell in (*header, *(cell for row in rows for cell in row)):
        assert unescaped(cell) == ""
        assert not cell.startswith(("[", "*"))


def test_an_unescaped_character_would_be_found() -> None:
    assert unescaped(r"a \% b") == "" and unescaped("a % b") == "%" and unescaped("x < 1") == "<"


def written_tables() -> dict[str, pd.DataFrame]:
    """Tables of a made-up run, those of the law aside, and one of nothing but special characters."""
    rows = rows_of(NAMED["some undefined correlations"])
    names = ("robustness", "distances", "paired", "ledger", "expectations", "settings", "anomaly")
    claims = pd.DataFrame([vars(CLAIMS[name](rows)) for name in ("A0", "A1", "A8", "A9", "A10")])
    special = pd.DataFrame({AWKWARD: [AWKWARD, "[a]", "*", "†≤≥×−–—"]})
    return {"claims": claims, "special": special, **{name: TABLES[name](rows) for name in names}}


def test_every_row_of_a_table_in_latex_has_as_many_cells_as_its_header() -> None:
    for name, table in written_tables().items():
        header, *rows = tabular(formats.latex(table))
        assert len(rows) == len(table) and {len(row) for row in rows} == {len(header)}, name
        assert not any(unescaped(cell) for row in (header, *rows) for cell in row), name


def test_latex_compiles_the_tables(tmp_path: Path) -> None:
    compiler = shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("pdflatex is not on this machine: the tables were parsed but not compiled")
    parts = [r"\resizebox{\textwidth}{!}{" + formats.latex(table) + "}" for table in written_tables().values()]
    page = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "tables.tex").write_text(page + "\n\n".join(parts) + r"\end{document}")
    run = [compiler, "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_table_is_read_back_from_markdown() -> None:
    for name, table in written_tables().items():
        header, *rows = cells(formats.markdown(table))
        assert len(rows) == len(table) and {len(row) for row in rows} == {len(header)}, name
