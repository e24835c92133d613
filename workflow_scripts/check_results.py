"""Run the assertions on finished results: intervals, recomputation from the rows, budgets, self-checks."""

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workflow_scripts.job import job, logger, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def check_results(tests: Path, environment: Mapping[str, str], *, output: Path) -> None:
    """Raises ValueError with pytest's summary when an assertion does not hold."""
    os.environ.update(environment)
    text = io.StringIO()
    with redirect_stdout(text):
        status = pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", "--color=no", "-q", str(tests)])
    logger.info("%s", text.getvalue())
    if status != 0:
        raise ValueError(f"expected every assertion of {tests} to hold on the results — see the failures above")
    write_text("every check holds\n", output)


if __name__ == "__main__":
    with job(snakemake):
        check_results(snakemake.input.tests, snakemake.params.environment, output=snakemake.output[0])
