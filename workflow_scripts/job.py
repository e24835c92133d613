"""What every job does around its stage: log to its own file, fix the threads, write outputs whole."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from workflow_scripts.locking import alone

CONFIGFILES = "PURIFICATION_CONFIGFILES"  # set by the rules: configuration files of this run, quoted for a shell
SHOWN = 40  # lines of a failed job's log
logger = logging.getLogger("purification")


def _report(snakemake: Any, error: Exception) -> None:
    """Why a job failed and how to run it alone, in its log; the end of the log on the terminal in one piece."""
    logger.error("%s: %s", type(error).__name__, error, exc_info=error)
    configs = os.environ.get(CONFIGFILES)
    options = f"--configfile {configs} " if configs else ""
    logger.error("to run this job alone: snakemake --cores 1 %s-- %s", options, shlex.quote(snakemake.output[0]))
    logger.error("rule %s failed: %s", snakemake.rule, error)
    lines = Path(snakemake.log[0]).read_text().splitlines()
    head = f"{snakemake.log[0]}, the last {SHOWN} of {len(lines)} lines:" if len(lines) > SHOWN else snakemake.log[0]
    sys.stderr.write("\n".join([head, *(f"    {line}" for line in lines[-SHOWN:])]) + "\n")


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Log to the rule's log file; on an error write one sentence there (and the traceback above it), then fail.

    A process that was left behind by an earlier run and still works on the same outputs is waited for, so that what it
    writes is never taken for what this job was asked for.
    """
    log = Path(snakemake.log[0])
    with alone(log.with_name(f".{log.name}.lock"), sys.stderr):
        handler = logging.FileHandler(log, mode="w")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
        logging.captureWarnings(True)
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(snakemake.threads)
        try:
            yield
        except Exception as error:
            _report(snakemake, error)
            raise SystemExit(1) from error
        logger.info("done")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name only when the block succeeds.

    Its name is always the same, so that the next run of the job overwrites what a killed one left; a job is the only
    process at work on its outputs.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_in(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder`, each whole, only when the block succeeds."""
    temporary = folder / ".partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(temporary)


def write_rows(rows: pd.DataFrame, path: str | Path) -> None:
    """Per-image rows as Parquet."""
    with replacing(path) as temporary:
        rows.to_parquet(temporary, index=False)


def write_text(text: str, path: str | Path) -> None:
    """A text file."""
    with replacing(path) as temporary:
        temporary.write_text(text)
