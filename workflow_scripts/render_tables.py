"""Render every table as CSV, Markdown and LaTeX (booktabs)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from purification.reporting.rows import KINDS, Rows
from purification.reporting.tables import TABLES
from workflow_scripts.job import job, logger, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

DIGITS = 4


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """Fold `x, x_low, x_high` into one column "x [low, high]" for people; the CSV keeps them apart."""
    folded = table.copy()
    for name in [column for column in table if f"{column}_low" in table]:
        triples = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        folded[name] = [f"{a:.3f} [{b:.3f}, {c:.3f}]" if pd.notna(a) else "" for a, b, c in triples]
        folded = folded.drop(columns=[f"{name}_low", f"{name}_high"])
    if {"ours", "low", "high"} <= set(folded):
        triples = zip(table.ours, table.low, table.high, strict=True)
        folded["ours"] = [f"{a:.3f} [{b:.3f}, {c:.3f}]" for a, b, c in triples]
        folded = folded.drop(columns=["low", "high"])
    return folded


def render_tables(rows: Rows, names: Sequence[str], outputs: Mapping[str, Sequence[Path]]) -> None:
    """`outputs` lists one path per name for each of csv, md and tex."""
    for name, csv, md, tex in zip(names, outputs["csv"], outputs["md"], outputs["tex"], strict=True):
        table = TABLES[name](rows)
        logger.info("%s: %d rows", name, len(table))
        write_text(table.to_csv(index=False, float_format=f"%.{DIGITS + 2}g"), csv)
        write_text(compact(table).to_markdown(index=False, floatfmt=f".{DIGITS}g") + "\n", md)
        style = compact(table).style.format(precision=DIGITS, escape="latex", na_rep="").hide(axis="index")
        header = {column: str(column).replace("_", r"\_") for column in compact(table)}
        write_text(style.format_index(header.get, axis=1).to_latex(hrules=True), tex)


if __name__ == "__main__":
    with job(snakemake):
        rows = Rows.read({kind: snakemake.input[kind] for kind in KINDS}, snakemake.params.settings)
        render_tables(rows, snakemake.params.names, snakemake.output)
