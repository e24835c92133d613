"""Write the page that shows everything: answer, claims, figures, tables, settings, cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.reporting.report import Material, render
from workflow_scripts.job import job, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def read_costs(folder: Path) -> pd.DataFrame:
    """Jobs recorded under `<folder>/<rule>[/<wildcards>].tsv`; memory is missing for jobs of a few seconds."""
    jobs = []
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        record = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        jobs.append({"rule": rule, "s": float(record["s"]), "max_rss": float(record["max_rss"])})
    return pd.DataFrame(jobs, columns=["rule", "s", "max_rss"])


def render_report(
    tables: Sequence[str],
    figures: Sequence[str],
    captions: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    benchmarks: Path,
    output: Path,
) -> None:
    material = Material(
        tables={Path(path).stem: pd.read_csv(path) for path in tables},
        figures={Path(path).stem: Path(path).read_bytes() for path in figures},
        captions=captions,
        costs=read_costs(benchmarks),
        settings=settings,
        folder=output.parent.as_posix(),
    )
    write_text(render(material), output)


if __name__ == "__main__":
    with job(snakemake):
        render_report(
            snakemake.input.tables,
            snakemake.input.figures,
            snakemake.params.captions,
            snakemake.params.settings,
            benchmarks=Path(snakemake.params.benchmarks),
            output=Path(snakemake.output[0]),
        )
