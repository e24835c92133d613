"""Tables as CSV for programs, and as Markdown and LaTeX for people."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from purification.reporting.marks import daggered

DIGITS = 4  # significant, for people; two more for programs
WHOLE = 1e15  # floats below it that have no fraction are written as integers
NO_ROWS = "No rows."

# Characters that Markdown may read as markup. Single ones stay where they cannot be: in a_b, x < 1
# and t* at the end.
MARKDOWN = re.compile(r"[\\`|~\[\]$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\*(?=\S)|<(?![\s=\d.])")
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "†": r"\textdagger{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "—": "---",
}
STARTS = ("[", "*")  # what \\ at the end of the row above would take as its own argument


def number(value: float, digits: int) -> str:
    """So many significant digits, or all of a whole number; empty where the number is missing."""
    if pd.isna(value):
        return ""
    if float(value).is_integer() and abs(value) < WHOLE:
        return str(int(value))
    return f"{value:.{digits}g}"


def text(cell: Any) -> str:
    """A cell as people read it, on one line."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return ""
    if isinstance(cell, (float, np.floating)):
        return number(float(cell), DIGITS)
    return " ".join(str(cell).split())


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval: 0.240 [0.231, 0.249]."""
    if pd.isna(value):
        return ""
    if pd.isna(low) or pd.isna(high):
        return f"{value:.3f} (no interval)"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """For people: text in every cell, and a dagger on unreliable rows.

    `x`, `x_low` and `x_high` become one column, and so do `ours`, `low` and `high`.
    """
    folded = daggered(table)
    ends = {name: (f"{name}_low", f"{name}_high") for name in table if f"{name}_low" in table}
    if {"ours", "low", "high"} <= {*table}:
        ends["ours"] = ("low", "high")
    for name, (low, high) in ends.items():
        triples = zip(table[name], table[low], table[high], strict=True)
        folded = folded.assign(**{name: [interval(*triple) for triple in triples]})
        folded = folded.drop(columns=[low, high])
    return folded.map(text)


def _alignment(table: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    """ "right" for the shown columns of numbers, else "left"."""
    return ["right" if pd.api.types.is_numeric_dtype(table.get(name)) else "left" for name in shown]


def csv(table: pd.DataFrame) -> str:
    """Every column, with two more digits than people see; missing values are empty."""

    def written(cell: Any) -> Any:
        return number(float(cell), DIGITS + 2) if isinstance(cell, (float, np.floating)) else cell

    return str(table.map(written).to_csv(index=False))


def markdown(table: pd.DataFrame) -> str:
    """A pipe table."""
    shown = compact(table)
    if shown.empty:
        return NO_ROWS + "\n"
    escaped = shown.map(escape_markdown).rename(columns=lambda name: escape_markdown(str(name)))
    alignment = _alignment(table, shown)
    return str(escaped.to_markdown(index=False, disable_numparse=True, colalign=alignment)) + "\n"


def escape_markdown(cell: str) -> str:
    return MARKDOWN.sub(lambda found: "\\" + found.group(), cell)


def latex(table: pd.DataFrame) -> str:
    """A `tabular` with the rules of booktabs."""
    shown = compact(table)
    if shown.empty:
        return NO_ROWS + "\n"
    escaped = shown.map(escape_latex).rename(columns=lambda name: escape_latex(str(name)))
    columns = "".join(side[0] for side in _alignment(table, shown))
    return str(escaped.style.hide(axis="index").to_latex(hrules=True, column_format=columns))


def escape_latex(cell: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in cell)
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(STARTS) else escaped
