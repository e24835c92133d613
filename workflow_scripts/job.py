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

from workflow_scripts.faults import sentence
from workflow_scripts.locking import alone

CONFIGFILES = "PURIFICATION_CONFIGFILES"  # set by the rules: configuration files of this run, quoted for a shell
SHOWN = 40  # lines of a failed job's log
logger = logging.getLogger("purification")


def _report(snakemake: Any, error: Exception) -> None:
    """Why a job failed and how to run it alone, in its log; the end of the log on the terminal in one piece."""
    configs = os.environ.get(CONFIGFILES)
    options = f"--configfile {configs} " if configs else ""
    command = f"to run this job alone: snakemake --cores 1 {options}-- {shlex.quote(snakemake.output[0])}"
    last = [command, f"rule {snakemake.rule} failed: {sentence(error)}"]
    logger.error("%s: %s", type(error).__name__, error, exc_info=error)
    for line in last:
        logger.error("%s", line)
    sys.stderr.write("\n".join(_end_of_log(Path(snakemake.log[0]), last)) + "\n")


def _end_of_log(log: Path, last: list[str]) -> list[str]:
    """Last lines of a log; `last` instead of them where the disk was too full to hold them."""
    lines = log.read_text().splitlines() if log.exists() else []
    if not lines or not lines[-1].endswith(last[-1]):
        return last
    head = f"{log}, the last {SHOWN} of {len(lines)} lines:" if len(lines) > SHOWN else str(log)
    return [head, *(f"    {line}" for line in lines[-SHOWN:])]


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Log to the rule's log file; on an error write one sentence there (and the traceback above it), then fail.

    The sentence goes to standard error with the end of the log. A process that was left behind by an earlier run and
    still works on the same outputs is waited for: what it writes is never taken for what this job was asked for.
    """
    logging.raiseExceptions = False
    log = Path(snakemake.log[0])
    try:
        with alone(log.with_name(f".{log.name}.lock"), sys.stderr):
            _start_log(log)
            if "torch" in sys.modules:
                import torch

                torch.set_num_threads(snakemake.threads)
            yield
            logger.info("done")
    except Exception as error:
        _report(snakemake, error)
        raise SystemExit(1) from error


def _start_log(path: Path) -> None:
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


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
