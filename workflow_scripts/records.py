"""Snakemake's records against the files as they are: by content, whatever their times say.

Snakemake compares the content of an input only when its time is later than the output's, and never that of an output.
After a pull, a checkout or a copy times mean nothing. `reconcile` therefore runs before the graph is built: an input
whose content differs from what was recorded is dated later than every result, so that Snakemake plans what used it; a
result that is not what its job wrote is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

logger = logging.getLogger("snakemake.logging")  # what Snakemake shows
SETTLED = 2.0  # seconds after which a file's times tell a later edit apart, whatever the file system's resolution


@dataclass(frozen=True)
class Record:
    """What Snakemake wrote down about one output: when its job started and what the inputs contained."""

    started: float
    inputs: Mapping[str, str]


class Checksums:
    """SHA-256 of files as Snakemake writes it, remembered as long as inode, size, mtime and ctime stay the same."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._found: dict[str, str | None] = {}
        try:
            self._kept: dict[str, list[int | str]] = json.loads(cache.read_text())
        except (OSError, ValueError):
            self._kept = {}
        self._new = False

    def __call__(self, path: str) -> str | None:
        """None for a file that is not there."""
        if path not in self._found:
            try:
                self._found[path] = self._look_up(path)
            except FileNotFoundError:
                self._found[path] = None
        return self._found[path]

    def _look_up(self, path: str) -> str:
        status = Path(path).stat()
        identity = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        *kept, checksum = self._kept.get(path, [""])
        if kept == identity:
            return str(checksum)
        settled = time.time() - status.st_ctime > SETTLED
        with Path(path).open("rb") as file:
            checksum = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if settled:
            self._kept[path] = [*identity, checksum]
            self._new = True
        return checksum

    def save(self) -> None:
        """Keep what was computed; a cache that cannot be written only costs time."""
        if self._new:
            try:
                temporary = self._cache.with_suffix(f".{os.getpid()}")
                temporary.write_text(json.dumps(self._kept))
                temporary.replace(self._cache)
            except OSError as error:
                logger.warning(f"{self._cache}: {error.strerror}; checksums are computed again next time")


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    """(file a record is about, the record); its name is base64, cut into folders @... where it is long."""
    for path in folder.rglob("*"):
        try:
            parts = path.relative_to(folder).parts
            name = base64.urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode()
        except ValueError:
            continue
        if path.is_file():
            yield name, path


def read_records(folder: Path, is_output: Callable[[str], bool]) -> dict[str, Record]:
    """Output -> record, for outputs of the present configuration; an unreadable record is none."""
    records = {}
    for name, path in _named(folder):
        if is_output(name):
            try:
                entry = json.loads(path.read_text())
                records[name] = Record(entry["starttime"], entry["input_checksums"] or {})
            except (ValueError, KeyError, TypeError):
                continue
    return records


def forget_parts(folder: Path, parts: str) -> None:
    """Remove the records of parts of jobs, files below `parts`, that are no longer there: nothing will ask for them.

    Snakemake would compare one that an earlier run left with the settings of today, and run a finished job again.
    """
    for name, path in list(_named(folder / "metadata")):
        if name.startswith(f"{parts}/") and not Path(name).exists():
            path.unlink()


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def compare(
    records: Mapping[str, Record], checksum: Callable[[str], str | None]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Files that differ from what their users recorded: (changed inputs, results nobody should have changed).

    Each maps a path to the outputs made from it. A result is one of the changed inputs when its own job has run since.
    """
    changed: dict[str, set[str]] = {}
    foreign: dict[str, set[str]] = {}
    for output, record in records.items():
        for path, recorded in record.inputs.items():
            if checksum(path) in (None, recorded):
                continue
            made = records.get(path)
            kind = foreign if made is not None and made.started <= record.started else changed
            kind.setdefault(path, set()).add(output)
    return changed, foreign


def _postdate(paths: Sequence[str], results: Sequence[str]) -> None:
    """Date `paths` later than every existing result."""
    newest = max((Path(path).stat().st_mtime for path in results if Path(path).exists()), default=0.0)
    moment = max(time.time(), newest + 1)
    for path in paths:
        if Path(path).stat().st_mtime <= newest:
            try:
                os.utime(path, (moment, moment))
            except OSError as error:
                raise ValueError(
                    f"expected to date the changed input {path} later than the results, got {error.strerror} — "
                    "copy it, so that it is yours"
                ) from error


def reconcile(folder: Path, results: Path, is_output: Callable[[str], bool]) -> None:
    """Compare the records in `folder` (.snakemake) with the inputs and results on disk.

    Raises ValueError for results without records and for results that are not what their jobs wrote.
    """
    records = read_records(folder / "metadata", is_output)
    unfinished = {name for name, _ in _named(folder / "incomplete")}
    present = {path.as_posix() for path in results.rglob("*") if is_output(path.as_posix())}
    if unknown := sorted(present - records.keys() - unfinished):
        raise ValueError(
            f"expected a record of how {_listed(unknown)} came about, found none in {folder}/metadata — "
            "run `dvc pull` for results and records that belong together, or delete the results to make them again"
        )
    if missing := sorted(records.keys() - present):
        logger.warning(
            f"{len(missing)} of {len(records)} recorded results are missing ({_listed(missing)}): "
            "`dvc pull` fetches what was pushed, whatever else is needed is made again."
        )
    checksum = Checksums(folder / "checksums.json")
    changed, foreign = compare(records, checksum)
    checksum.save()
    if edited := sorted(foreign.keys() - unfinished):
        raise ValueError(
            f"expected {_listed(edited)} as written by its job, got other content — delete it; `dvc pull` then "
            "restores what was recorded, and without that it is made again"
        )
    for path, users in sorted(changed.items()):
        logger.info(
            f"{path} is not what {len(users)} results were made from ({_listed(sorted(users))}): "
            "those that are asked for are made again."
        )
    _postdate(sorted(changed), sorted(present))


def require_dependencies(paths: Sequence[str], pipeline: Path) -> None:
    """Raises ValueError for a file whose changes `dvc repro` would not see, since `pipeline` does not name it."""
    named = [dep for stage in yaml.safe_load(pipeline.read_text())["stages"].values() for dep in stage["deps"]]
    for path in paths:
        if not any(Path(path).is_relative_to(dep) for dep in named):
            raise ValueError(
                f"expected {path} among the deps of {pipeline.name}, found none — add it, so that DVC sees it"
            )
