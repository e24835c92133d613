"""Records against files: what is told apart by content, and what is remembered."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from workflow_scripts import records
from workflow_scripts.records import Checksums, reconcile

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """raw.txt -> results/a -> results/b, made at moments 1 and 2."""
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    for path in ("raw.txt", "results/a", "results/b"):
        Path(path).write_text(path)
        os.utime(path, (1000, 1000))
    record("results/a", 1, "raw.txt")
    record("results/b", 2, "results/a")
    return tmp_path


def record(output: str, started: float, *inputs: str, kind: str = "metadata") -> Path:
    """What Snakemake writes down; long names are cut into folders."""
    name = base64.urlsafe_b64encode(output.encode()).decode()
    parts = [name[i : i + 254] for i in range(0, len(name), 254)]
    path = Path(".snakemake", kind, *(f"@{part}" for part in parts[:-1]), parts[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    checksums = {entry: Checksums(Path("none"))(entry) for entry in inputs}
    path.write_text(json.dumps({"starttime": started, "input_checksums": checksums}))
    return path


def check() -> None:
    reconcile(Path(".snakemake"), Path("results"), lambda path: path.startswith("results/") and not Path(path).is_dir())


def test_nothing_is_touched_when_contents_agree(folder: Path) -> None:
    check()
    assert {path.stat().st_mtime for path in (Path("raw.txt"), *Path("results").iterdir())} == {1000}


def test_a_changed_input_is_dated_later_than_results_in_the_future(folder: Path) -> None:
    os.utime("results/b", (9e9, 9e9))
    Path("raw.txt").write_text("other")
    check()
    assert Path("raw.txt").stat().st_mtime > 9e9
    assert Path("results/a").stat().st_mtime == 1000


def test_a_result_that_its_job_did_not_write_is_refused(folder: Path) -> None:
    Path("results/a").write_text("other")
    with pytest.raises(ValueError, match="expected results/a as written by its job"):
        check()


def test_a_result_whose_job_ran_again_is_a_changed_input(folder: Path) -> None:
    Path("results/a").write_text("other")
    os.utime("results/a", (1000, 1000))
    record("results/a", 3, "raw.txt")
    check()
    assert Path("results/a").stat().st_mtime > 1000


@pytest.mark.parametrize("text", ["", '{"starttime": 1, "inp', '{"rule": "x"}'])
def test_a_result_whose_record_is_missing_or_torn_is_refused(folder: Path, text: str) -> None:
    record("results/b", 2, "results/a").write_text(text)
    with pytest.raises(ValueError, match="expected a record of how results/b came about"):
        check()


def test_unfinished_jobs_are_left_to_snakemake(folder: Path) -> None:
    Path("results/c").write_text("half")
    record("results/c", 5, kind="incomplete")
    Path("results/a").write_text("half")
    record("results/a", 5, kind="incomplete")
    check()


def test_names_too_long_for_a_file_are_read(folder: Path) -> None:
    long = f"results/{'d' * 200}/{'f' * 200}"
    Path(long).parent.mkdir()
    Path(long).write_text("x")
    record(long, 1)
    check()


def test_an_input_that_cannot_be_dated_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("raw.txt").write_text("other")
    os.utime("raw.txt", (1000, 1000))

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(ValueError, match=r"raw.txt later than the results, got Operation not permitted"):
        check()


def test_a_remembered_checksum_holds_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when size, inode and mtime are as before; a file changed moments ago is not remembered at all."""
    cache, path = Path("cache.json"), Path("raw.txt")

    def checksum() -> str | None:
        known = Checksums(cache)
        found = known("raw.txt")
        known.save()
        return found

    before = checksum()
    assert not cache.exists()
    monkeypatch.setattr(records, "SETTLED", -1)
    assert checksum() == before and cache.exists()
    status = path.stat()
    with path.open("r+") as file:
        file.write("RAW")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_ino == status.st_ino
    assert checksum() != before


def test_a_remembered_checksum_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SETTLED", -1)
    first = Checksums(Path("cache.json"))
    first("raw.txt")
    first.save()
    stored = json.loads(Path("cache.json").read_text())
    stored["raw.txt"][-1] = EMPTY
    Path("cache.json").write_text(json.dumps(stored))
    assert Checksums(Path("cache.json"))("raw.txt") == EMPTY
    Path("cache.json").write_text("{")
    assert Checksums(Path("cache.json"))("raw.txt") != EMPTY
