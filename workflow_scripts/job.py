"""What every job does around its stage: log to its own file, fix the threads, write outputs whole."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from workflow_scripts.faults import sentence

logger = logging.getLogger("purification")


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Log to the rule's log file; on an error write one sentence there (and the traceback above it), then fail.

    The sentence also goes to standard error, because a full disk holds no log.
    """
    logging.raiseExceptions = False
    try:
        handler = logging.FileHandler(snakemake.log[0], mode="w")
    except OSError as error:
        raise SystemExit(f"rule {snakemake.rule} failed: {sentence(error)}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(snakemake.threads)
    try:
        yield
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, error, exc_info=True)
        logger.error("rule %s failed: %s", snakemake.rule, sentence(error))
        print(f"rule {snakemake.rule} failed: {sentence(error)}", file=sys.stderr)
        raise SystemExit(1) from error
    logger.info("done")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name only when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_rows(rows: pd.DataFrame, path: str | Path) -> None:
    """Per-image rows as Parquet."""
    with replacing(path) as temporary:
        rows.to_parquet(temporary, index=False)


def write_text(text: str, path: str | Path) -> None:
    """A text file."""
    with replacing(path) as temporary:
        temporary.write_text(text)
