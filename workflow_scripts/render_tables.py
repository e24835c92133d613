"""Render every table as CSV, Markdown and LaTeX (booktabs), and what runs are compared by as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from purification.reporting.marks import daggered, marked
from purification.reporting.rows import KINDS, Rows
from purification.reporting.tables import TABLES
from workflow_scripts.job import job, logger, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

DIGITS = 4


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """For people: a dagger on unreliable rows, and `x, x_low, x_high` as "x [low, high]"; the CSV keeps them apart."""
    folded = daggered(table).copy()
    for name in [column for column in table if f"{column}_low" in table]:
        triples = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        folded[name] = [f"{a:.3f} [{b:.3f}, {c:.3f}]" if pd.notna(a) else "" for a, b, c in triples]
        folded = folded.drop(columns=[f"{name}_low", f"{name}_high"])
    if {"ours", "low", "high"} <= set(folded):
        triples = zip(table.ours, table.low, table.high, strict=True)
        folded["ours"] = [f"{a:.3f} [{b:.3f}, {c:.3f}]" for a, b, c in triples]
        folded = folded.drop(columns=["low", "high"])
    return folded


def render_tables(rows: Rows, names: Sequence[str], outputs: Mapping[str, Sequence[Path]]) -> dict[str, pd.DataFrame]:
    """The tables by name; `outputs` lists one path per name for each of csv, md and tex."""
    tables = {}
    for name, csv, md, tex in zip(names, outputs["csv"], outputs["md"], outputs["tex"], strict=True):
        table = tables[name] = marked(name, TABLES[name](rows), rows)
        logger.info("%s: %d rows", name, len(table))
        write_text(table.to_csv(index=False, float_format=f"%.{DIGITS + 2}g"), csv)
        write_text(compact(table).to_markdown(index=False, floatfmt=f".{DIGITS}g") + "\n", md)
        style = compact(table).style.format(precision=DIGITS, escape="latex", na_rep="").hide(axis="index")
        header = {column: str(column).replace("_", r"\_") for column in compact(table)}
        write_text(style.format_index(header.get, axis=1).to_latex(hrules=True), tex)
    return tables


def numbers(frame: pd.DataFrame, key: str, value: str) -> dict[str, float]:
    """Column `value` by column `key`, without what is undetermined."""
    pairs = zip(frame[key], frame[value], strict=True)
    return {str(name): float(f"{number:.{DIGITS}g}") for name, number in pairs if math.isfinite(number)}


def render_metrics(rows: Rows, tables: Mapping[str, pd.DataFrame], output: Path) -> None:
    """Claims (value and verdict) and robust accuracies: of every purifier, and of the headline under every attack.

    robust_accuracy  with known noise, under all attacks;  base_attack: under that alone
    """
    claims, robustness, known = tables["claims"], tables["robustness"], tables["known_noise"]
    metrics = {
        "claims": numbers(claims, "claim", "ours"),
        "verdicts": dict(zip(claims.claim, claims.verdict, strict=True)),
        "robust_accuracy": numbers(known, "purifier", "worst_known"),
        "base_attack": numbers(known, "purifier", "base"),
        rows.headline: numbers(robustness[robustness.purifier == rows.headline], "attack", "avg"),
        "unreliable": rows.unreliable,
    }
    write_text(json.dumps(metrics, indent=1) + "\n", output)


if __name__ == "__main__":
    with job(snakemake):
        subsets = json.loads(Path(snakemake.input.subsets).read_text())
        chosen = {**snakemake.params.settings, "published": snakemake.params.published, "subsets": subsets}
        rows = Rows.read({kind: snakemake.input[kind] for kind in KINDS if snakemake.input[kind]}, chosen)
        tables = render_tables(rows, snakemake.params.names, snakemake.output)
        render_metrics(rows, tables, Path(snakemake.output.metrics))
