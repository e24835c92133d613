"""Render every table as CSV, Markdown and LaTeX (booktabs), and what runs are compared by as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from purification.reporting import formats
from purification.reporting.marks import marked
from purification.reporting.rows import KINDS, Rows
from purification.reporting.tables import TABLES
from workflow_scripts.job import job, logger, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def render_tables(rows: Rows, names: Sequence[str], outputs: Mapping[str, Sequence[Path]]) -> dict[str, pd.DataFrame]:
    """The tables by name; `outputs` lists one path per name for each of csv, md and tex."""
    tables = {}
    for name, csv, md, tex in zip(names, outputs["csv"], outputs["md"], outputs["tex"], strict=True):
        table = tables[name] = marked(name, TABLES[name](rows), rows)
        logger.info("%s: %d rows", name, len(table))
        write_text(formats.csv(table), csv)
        write_text(formats.markdown(table), md)
        write_text(formats.latex(table), tex)
    return tables


def numbers(frame: pd.DataFrame, key: str, value: str) -> dict[str, float]:
    """Column `value` by column `key`, without what is undetermined."""
    pairs = zip(frame[key], frame[value], strict=True)
    return {str(name): float(f"{number:.{formats.DIGITS}g}") for name, number in pairs if math.isfinite(number)}


def render_metrics(rows: Rows, tables: Mapping[str, pd.DataFrame], output: Path) -> None:
    """Claims (value and verdicts) and robust accuracies: of every purifier, and of the headline under every attack.

    robust_accuracy  with known noise, under all attacks;  base_attack: under that alone
    """
    claims, robustness, known = tables["claims"], tables["robustness"], tables["known_noise"]
    metrics = {
        "claims": numbers(claims, "claim", "ours"),
        "verdicts": dict(zip(claims.claim, claims.verdict, strict=True)),
        "holm": dict(zip(claims.claim, claims.holm, strict=True)),
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
