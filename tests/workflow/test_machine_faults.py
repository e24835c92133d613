"""What the machine can refuse: a results folder that cannot be written, a full disk. Snakemake says so and fails."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.workflow.conftest import SNAKEMAKE, Project

UNSHARE = shutil.which("unshare")
TARGET = "dataset/images.safetensors"


def limited() -> None:
    """A limit on the size of files stands for a full disk where no file system can be mounted."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))


def run(project: Project, results: Path, *options: str, **arguments: object) -> tuple[int, str]:
    """Prepare the dataset in a results folder; exit status and everything said."""
    command = [str(SNAKEMAKE), "--cores", "1", "--nolock", *options, "--config", f"results={results}", "--"]
    done = subprocess.run(  # type: ignore[call-overload]
        [*command, f"{results}/{TARGET}"], cwd=project.folder, capture_output=True, text=True, check=False, **arguments
    )
    return done.returncode, done.stdout + done.stderr


def mounted(project: Project, results: Path, mount: str) -> tuple[int, str]:
    """The same, with `mount` done first in a namespace of its own."""
    if UNSHARE is None or subprocess.run([UNSHARE, "-rm", "true"], check=False).returncode:
        pytest.skip("needs the right to make user namespaces")
    command = f"{mount} && exec {SNAKEMAKE} --cores 1 --nolock --config results={results} -- {results}/{TARGET}"
    done = subprocess.run(
        [UNSHARE, "-rm", "sh", "-c", command], cwd=project.folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_results_folder_that_cannot_be_made_stops_the_run_and_not_the_plan(project: Project) -> None:
    results = Path("/proc/results")
    status, said = run(project, results)
    assert status != 0
    assert (
        "results: expected a folder that can be written, got /proc/results (" in said
        and "Preparing dataset" not in said
    )
    assert "Traceback" not in said
    assert run(project, results, "-n")[0] == 0


def test_a_results_folder_below_a_file_is_refused_at_once(project: Project) -> None:
    status, said = run(project, Path("/dev/null/results"), "-n")
    assert status != 0
    assert "results: expected a folder, got '/dev/null/results' where /dev/null is a file — name another folder" in said


def test_a_read_only_results_folder_is_refused(project: Project, tmp_path: Path) -> None:
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    status, said = mounted(project, tmp_path, mount)
    assert status != 0
    assert f"results: expected a folder that can be written, got {tmp_path} (Read-only file system)" in said
    assert "Preparing dataset" not in said


def test_a_disk_too_small_for_the_run_is_refused(project: Project, tmp_path: Path) -> None:
    status, said = mounted(project, tmp_path, f"mount -t tmpfs -o size=1m tmpfs {tmp_path}")
    assert status != 0
    assert f"MB of free space in {tmp_path}, got 1 MB — free some" in said
    assert "Preparing dataset" not in said


def test_a_disk_that_fills_during_a_job_leaves_nothing_half_written(project: Project, tmp_path: Path) -> None:
    finished = tmp_path / "earlier" / "ddpm_25.parquet"
    finished.parent.mkdir()
    finished.write_text("of an earlier run")
    status, said = run(project, tmp_path, preexec_fn=limited, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert status != 0
    assert (
        "rule prepare_dataset failed: expected space for the outputs, got a full disk or a limit on file size" in said
    )
    assert finished.read_text() == "of an earlier run"
    assert not (tmp_path / "dataset").exists()
    status, said = run(project, tmp_path)
    assert status == 0, said
    assert (tmp_path / TARGET).stat().st_size > 1_000_000
