"""Fit fixed-randomness robust accuracy against the compression rate, and predict every purifier from the others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from purification.reporting import law
from purification.reporting.predictions import predictions
from purification.reporting.rows import Rows
from workflow_scripts.job import job, write_rows

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def fit_compression_robustness(rows: Rows, outputs: Mapping[str, Any]) -> None:
    table = law.points(rows)
    parameters, curves = law.fits(rows, table)
    write_rows(law.against_the_law(rows, table), outputs["points"])
    write_rows(parameters, outputs["parameters"])
    write_rows(curves, outputs["curves"])
    write_rows(predictions(rows, table), outputs["predictions"])


if __name__ == "__main__":
    with job(snakemake):
        kinds = ("purified", "compression", "attack_strength", "attack_adequacy")
        fit_compression_robustness(
            Rows.read({kind: snakemake.input[kind] for kind in kinds}, snakemake.params.settings), snakemake.output
        )
