"""Interrupted, damaged and contradictory: never a wrong "nothing to be done", nothing lost, one sentence."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path

import pytest

from tests.workflow.clones import Clone, environment
from tests.workflow.test_reruns import append

DONE = "Nothing to be done"
NOT_AS_WRITTEN = "as written by its job, got other content — delete it; `dvc pull` then"
NO_RECORD = "expected a record of how"


def stored(folder: Path, path: Path) -> Path:
    """The object that holds a file's bytes in a cache or a remote folder."""
    digest = md5(path.read_bytes()).hexdigest()
    return folder / "files" / "md5" / digest[:2] / digest[2:]


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@contextlib.contextmanager
def started(clone: Clone, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command running in a process group of its own."""
    process = subprocess.Popen(
        command, cwd=clone.folder, env=environment(clone.folder.parent), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def reached(process: subprocess.Popen[bytes], condition: Callable[[], bool], sent: signal.Signals) -> None:
    """Send a signal to the whole group as soon as the condition holds."""
    limit = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.001)
    assert process.poll() is None and condition(), "the command ended before it could be interrupted"
    os.killpg(process.pid, sent)


def files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def running(clone: Clone) -> bool:
    return files(clone.folder / ".snakemake" / "incomplete") > 0


def says(clone: Clone) -> str:
    return clone.run("snakemake", "-n", "results/tables", check=False)


@pytest.mark.parametrize(
    "name", ["tables/claims.md", "purified/ddpm_25.parquet", "models/classifiers/residual/config.json"]
)
def test_a_result_edited_after_the_pull_is_found_by_content(reader: Clone, tmp_path: Path, name: str) -> None:
    clone = reader.copy(tmp_path / "project")
    path = clone.results(name)
    before, times = path.read_bytes(), path.stat()
    damage(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    said = says(clone)
    assert DONE not in said and f"expected results/smoke/{name} {NOT_AS_WRITTEN}" in said
    assert path.read_bytes() != before
    assert f"results/smoke/{name.split('/')[0]}" in clone.run("dvc", "status")
    path.unlink()
    clone.run("dvc", "pull")
    assert path.read_bytes() == before and clone.up_to_date()


def test_results_without_records_are_refused_until_pulled(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    shutil.rmtree(clone.folder / ".snakemake")
    said = says(clone)
    assert DONE not in said and NO_RECORD in said and "run `dvc pull`" in said
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_records_without_results_plan_everything_and_say_where_results_are(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    shutil.rmtree(clone.results(""))
    said = says(clone)
    missing = re.search(r"(\d+) of (\d+) recorded results are missing", said)
    assert DONE not in said and missing and missing[1] == missing[2] and "`dvc pull` fetches" in said
    clone.run("dvc", "checkout")
    assert clone.up_to_date()


@pytest.mark.parametrize("torn", ["results", "records"])
def test_results_of_one_run_with_records_of_another_are_refused(
    author: Clone, reader: Clone, tmp_path: Path, torn: str
) -> None:
    """Only the results, or only the records, are taken from a newer version whose report differs."""
    other, clone = author.copy(tmp_path / "author"), reader.copy(tmp_path / "project")
    append("docs/captions/distances.rst", "\nMore.\n")(other.folder)
    other.run("snakemake", "--cores", "1", "results/tables")
    append("docs/captions/distances.rst", "\nMore.\n")(clone.folder)
    part = "results" if torn == "results" else ".snakemake/metadata"
    shutil.rmtree(clone.folder / part)
    shutil.copytree(other.folder / part, clone.folder / part)
    if torn == "results":
        clone.run("git", "checkout", "docs/captions")
    said = says(clone)
    assert DONE not in said and f"expected results/smoke/report.html {NOT_AS_WRITTEN}" in said


def test_a_damaged_object_in_storage_is_not_taken(author: Clone, tmp_path: Path) -> None:
    storage = Path(shutil.copytree(author.remote(), tmp_path / "remote"))
    clone = author.clone(tmp_path / "project", str(storage))
    clone.run("dvc", "remote", "modify", "--local", "storage", "verify", "true")
    name = stored(storage, author.results("tables/claims.md"))
    whole = name.read_bytes()
    damage(name)
    assert "Checkout failed for following targets:\nresults/smoke/tables" in clone.refused("dvc", "pull")
    assert DONE not in says(clone)
    name.parent.mkdir(exist_ok=True)
    name.write_bytes(whole)
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_a_damaged_object_in_the_cache_is_noticed_and_fetched_again(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    path = clone.results("tables/claims.md")
    damage(stored(clone.folder / ".dvc" / "cache", path))
    path.unlink()
    clone.run("dvc", "checkout", check=False)
    assert DONE not in says(clone)
    path.unlink(missing_ok=True)
    shutil.rmtree(clone.folder / ".dvc" / "cache")
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_a_remote_that_is_not_set_or_not_there_is_named(author: Clone, tmp_path: Path) -> None:
    clone = author.clone(tmp_path / "project", str(tmp_path / "nowhere"))
    assert "do not exist neither locally nor on remote" in clone.refused("dvc", "pull")
    clone.run("dvc", "remote", "remove", "--local", "storage")
    assert "No remote provided and no default remote set" in clone.refused("dvc", "pull")
    assert DONE not in says(clone)


@pytest.mark.parametrize("kept", [0.3, 0.501])
def test_a_truncated_lock_file_never_passes_for_a_finished_run(author: Clone, tmp_path: Path, kept: float) -> None:
    clone = author.clone(tmp_path / "project")
    lock = clone.folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[: int(kept * lock.stat().st_size)])
    assert "dvc.lock" in clone.refused("dvc", "pull") or DONE not in says(clone)
    clone.run("git", "checkout", "dvc.lock")
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_a_pull_killed_half_way_is_finished_by_the_next(author: Clone, tmp_path: Path) -> None:
    clone = author.clone(tmp_path / "project")
    with started(clone, "dvc", "pull") as process:
        reached(process, lambda: files(clone.folder / "results") > 3, signal.SIGKILL)
    said = says(clone)
    assert DONE not in said
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_a_push_killed_half_way_is_finished_by_the_next(author: Clone, tmp_path: Path) -> None:
    writer = author.copy(tmp_path / "writer")
    writer.run("dvc", "remote", "add", "--local", "--force", "--default", "storage", str(tmp_path / "remote"))
    with started(writer, "dvc", "push") as process:
        reached(process, lambda: files(tmp_path / "remote") > 3, signal.SIGKILL)
    clone = writer.clone(tmp_path / "project")
    clone.refused("dvc", "pull")
    assert DONE not in says(clone)
    writer.run("dvc", "push")
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_a_killed_reproduction_goes_on_where_it_was(author: Clone, tmp_path: Path) -> None:
    clone = author.copy(tmp_path / "project")
    append("docs/captions/distances.rst", "\nMore.\n")(clone.folder)
    with started(clone, "dvc", "repro") as process:
        reached(process, lambda: running(clone), signal.SIGKILL)
    assert DONE not in says(clone)
    clone.run("dvc", "repro")
    assert clone.up_to_date() and "up to date" in clone.run("dvc", "status")


def test_of_two_runs_at_once_the_second_is_refused(author: Clone, tmp_path: Path) -> None:
    clone = author.copy(tmp_path / "project")
    append("docs/captions/distances.rst", "\nMore.\n")(clone.folder)
    with started(clone, "dvc", "repro") as process:
        reached(process, lambda: running(clone), signal.SIGSTOP)
        said = clone.refused("snakemake", "--cores", "1", "results/tables")
        assert "expected no other run in results/smoke, got process" in said
        assert "is busy, it is being blocked by" in clone.refused("dvc", "repro")
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait() == 0
    assert clone.up_to_date() and "up to date" in clone.run("dvc", "status")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[bool], None]]:
    """A file system of its own, filled by the function it gives; without the right to mount, a limit on file sizes."""
    folder.mkdir()
    folder.with_name("site").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    own = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(full: bool) -> None:
        if mounted:
            size = shutil.disk_usage(folder).used + 500_000 if full else 100_000_000
            subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, own[1]) if full else own)

    try:
        yield fill
    finally:
        fill(False)
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_pull_onto_a_full_disk_is_finished_when_there_is_room(author: Clone, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as fill:
        (tmp_path / "disk" / "site").symlink_to(tmp_path / "site")  # DVC's own databases are not on the full disk
        clone = author.clone(tmp_path / "disk" / "project")
        fill(True)
        assert "failed to pull data from the cloud" in clone.refused("dvc", "pull")
        fill(False)
        assert DONE not in says(clone)
        clone.run("dvc", "pull")
        assert clone.up_to_date()


def test_clones_on_one_machine_share_a_cache(author: Clone, tmp_path: Path) -> None:
    """One cache folder for several clones: what one has, the other need not fetch."""
    shared = str(tmp_path / "cache")
    clones = [author.clone(tmp_path / name) for name in ("one", "two")]
    for clone in clones:
        clone.run("dvc", "cache", "dir", "--local", shared)
        clone.run("dvc", "config", "--local", "cache.shared", "group")
    clones[0].run("dvc", "pull")
    clones[1].run("dvc", "remote", "remove", "--local", "storage")
    clones[1].run("dvc", "checkout")
    assert clones[1].up_to_date()


def test_a_read_only_cache_serves_readers_and_refuses_writers(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    cache = clone.folder / ".dvc" / "cache"
    damaged = clone.results("tables/claims.md")
    with read_only(cache):
        damaged.unlink()
        clone.run("dvc", "checkout")
        assert clone.up_to_date()
        append("README.md", "\n")(clone.folder)
        damaged.write_text("other")
        said = clone.refused("dvc", "commit", "--force")
        assert "Read-only file system" in said or "Permission denied" in said
    damaged.unlink()
    clone.run("dvc", "checkout")
    assert clone.up_to_date()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder nobody can write to: a read-only mount for root, whom permissions do not bind."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    else:
        subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        else:
            subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)


def test_locks_without_flock_work_as_on_network_file_systems(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    clone.run("dvc", "config", "--local", "core.hardlink_lock", "true")
    clone.results("tables/claims.md").unlink()
    clone.run("dvc", "pull")
    assert clone.up_to_date()
