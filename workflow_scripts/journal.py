"""Journals of long jobs as files: a job that was interrupted goes on where it was, one of other settings never does."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from purification.journal import Journal, State
from purification.progress import track
from workflow_scripts.job import replacing

T = TypeVar("T")
logger = logging.getLogger("purification")
INTERVAL = 10.0  # seconds between two writes at the least
SHARE = 50.0  # writing takes at most a 50th of the time


def digest(rule: str, params: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Hash of everything a job depends on: its settings and code, the content of its inputs, the version of torch."""
    text = json.dumps([rule, torch.__version__, dict(params)], sort_keys=True, default=str)
    total = hashlib.sha256(text.encode())
    for path in inputs:
        with Path(path).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


class FileJournal:
    """Journal in a folder; a file is the key of the job, the sha256 of the rest, and the state as safetensors."""

    def __init__(self, folder: Path, key: str, interval: float = INTERVAL) -> None:
        self.folder, self.key, self.interval = folder, key, interval
        self._due = time.monotonic() + interval

    def part(self, name: str) -> FileJournal:
        """The journal of one of several loops."""
        return FileJournal(self.folder / name, self.key, self.interval)

    def load(self) -> State:
        """The state kept last; empty when there is none, or none that can be trusted."""
        path = self.folder / "state"
        if not path.is_file():
            return {}
        content = path.read_bytes()
        key, checksum, payload = content[:64], content[64:128], content[128:]
        if key != self.key.encode():
            logger.warning("ignoring %s: it was made with other settings, code or inputs", path)
        elif checksum != hashlib.sha256(payload).hexdigest().encode():
            logger.warning("ignoring %s: it is damaged", path)
        else:
            state: State = safetensors.torch.load(payload)
            return state
        return {}

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """Write the state if it is the last or time to; a failure to write costs the journal, not the job."""
        begin = time.monotonic()
        if begin < self._due and not last:
            return
        copies = {name: value.detach().cpu().contiguous() for name, value in state().items()}
        payload = safetensors.torch.save(copies)
        checksum = hashlib.sha256(payload).hexdigest()
        try:
            with replacing(self.folder / "state") as temporary, temporary.open("wb") as file:
                file.write(f"{self.key}{checksum}".encode())
                file.write(payload)
        except OSError as error:
            logger.warning("could not write the journal, an interruption now would lose more: %s", error)
        now = time.monotonic()
        self._due = now + max(self.interval, SHARE * (now - begin))


@contextmanager
def resuming(snakemake: Any) -> Iterator[FileJournal]:
    """Journal of one job, outside its declared outputs, which Snakemake deletes; removed when the job succeeds.

    With it go the parts that the job was split into, in this run or an earlier one.
    """
    results = Path(snakemake.config["results"])
    folder = Path(results, "journal", snakemake.rule, *snakemake.wildcards)
    yield FileJournal(folder, digest(snakemake.rule, dict(snakemake.params.items()), snakemake.input))
    shutil.rmtree(folder, ignore_errors=True)
    for output in map(Path, snakemake.output):
        if output.is_relative_to(results):
            for part in (results / "journal" / "parts").glob(f"*/{output.relative_to(results)}"):
                part.unlink(missing_ok=True)


def _packed(rows: pd.DataFrame) -> Tensor:
    file = io.BytesIO()
    rows.to_parquet(file, index=False)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def collect_rows(items: Sequence[T], work: Callable[[T], pd.DataFrame], label: str, journal: Journal) -> pd.DataFrame:
    """Rows of every item, one after the other; items whose rows `journal` kept are not worked on again.

    All rows pass through Parquet, kept or not, so that an interruption leaves no trace in them.
    """
    done = journal.load()
    for number, item in enumerate(track(items, label, len(done)), start=len(done)):
        done[str(number)] = _packed(work(item))
        journal.save(lambda: done, last=number == len(items) - 1)
    parts = [pd.read_parquet(io.BytesIO(done[str(number)].numpy().tobytes())) for number in range(len(items))]
    return pd.concat(parts, ignore_index=True)
