"""What is asked of a cluster: resources proposed from measurements, a profile that knows every rule, refusals."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from workflow_scripts.cluster import refusals
from workflow_scripts.locking import Run, try_lock
from workflow_scripts.propose_resources import Need, measured, proposal

ROOT = Path(__file__).parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
HEAD = "s\th:m:s\tmax_rss\tmax_vms\n"


def benchmark(folder: Path, name: str, seconds: float, memory: float | str) -> None:
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}{seconds}\t0:00:00\t{memory}\t1.0\n")


def test_a_proposal_is_the_largest_job_of_a_rule_with_headroom(tmp_path: Path) -> None:
    benchmark(tmp_path, "attack_images/fixed/blur", 90.0, 1000.0)
    benchmark(tmp_path, "attack_images/fixed/identity", 600.0, 200.0)
    benchmark(tmp_path, "render_figures/budget", 1.0, 99.0)
    benchmark(tmp_path, "render_tables", 1.0, 101.0)
    needs = measured(tmp_path)
    assert needs["attack_images"] == Need(600.0, 1000.0, 2)
    written = yaml.safe_load("\n".join(proposal(needs)))["set-resources"]
    assert written == {  # memory: 1.5 x + 600 MB, rounded up to hundreds; time: 3 x + 2 min
        "attack_images": {"mem_mb": "2100 * attempt", "runtime": "32 * attempt"},
        "render_figures_budget": {"mem_mb": "800 * attempt", "runtime": "3 * attempt"},
        "render_tables": {"mem_mb": "800 * attempt", "runtime": "3 * attempt"},
    }


def test_a_proposal_needs_measurements(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected benchmark files of a run, got none"):
        measured(tmp_path)
    benchmark(tmp_path, "render_tables", 1.0, "-")
    with pytest.raises(ValueError, match=r"got neither in .*render_tables.tsv"):
        measured(tmp_path)


def test_the_profile_names_rules_that_there_are() -> None:
    command = [sys.executable, "-m", "snakemake", "--list-rules"]
    rules = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    listed = set(PROFILE["set-resources"])
    assert {*listed, *PROFILE["groups"]} <= rules
    short = {rule for rule in rules if rule.startswith(("measure_", "render_")) and not rule.endswith("_part")}
    assert not short - set(PROFILE["groups"]), "a submission of its own for each of many short jobs"
    assert set(PROFILE["groups"].values()) == {*PROFILE["group-components"], "report"}
    for needs in (PROFILE["default-resources"], *PROFILE["set-resources"].values()):
        assert all(str(needs[name]).endswith(" * attempt") for name in ("mem_mb", "runtime"))


def job(rule: str, **resources: Any) -> SimpleNamespace:
    named = SimpleNamespace(name=rule)
    return SimpleNamespace(rule=named, name=rule, threads=1, resources=Resources(resources), is_group=lambda: False)


class Resources(dict[str, Any]):
    """Values by key and by attribute, as Snakemake hands them out."""

    __getattr__ = dict.__getitem__


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `sbatch` that refuses one partition and notes what it is asked, a `sinfo` that knows two, an empty `squeue`."""
    answers = {
        "sbatch": f'echo "$*" >> {tmp_path}/asked; case "$*" in *"-p no"*) echo "sbatch: error: no" >&2; exit 1;; esac',
        "sinfo": 'echo "cpu* 1-00:00:00"; echo "short 30:00"',
        "squeue": "",
    }
    for name, body in answers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


SETTINGS = SimpleNamespace(requeue=True, no_requeue=False, qos=None, reservation=None)


def test_a_refusal_is_one_sentence_for_all_rules(slurm: Path) -> None:
    jobs = [job(f"rule{index}", slurm_partition="no", mem_mb=index, _cores=1) for index in (1, 2, 3, 4)]
    (sentence,) = refusals([*jobs, job("fine", slurm_partition="cpu", mem_mb=1)], SETTINGS)
    assert sentence == (
        "rule1, rule2, rule3 and 1 more rules: expected a request that the cluster takes, "
        "got mem_mb 1, slurm_partition no (no) — change it in the profile"
    )
    asked = (slurm / "asked").read_text().splitlines()
    assert len(asked) == 5
    assert all("--test-only" in line for line in asked)


@pytest.mark.parametrize(
    ("partition", "minutes", "refused"),
    [("short", 30, False), ("short", 31, True), ("cpu", 1440, False), ("cpu", 1441, True), (None, 1441, True)],
)
def test_a_job_that_would_wait_forever_is_refused(slurm: Path, partition: str, minutes: int, refused: bool) -> None:
    (*found,) = refusals([job("one", slurm_partition=partition, runtime=minutes)], SETTINGS)
    assert bool(found) == refused


def test_a_machine_without_a_cluster_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (sentence,) = refusals([job("one")], SETTINGS)
    assert sentence.startswith("expected the command sbatch, got none")


def test_a_file_system_without_locks_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError, match=r"^expected a file system with locks .* — have it mounted"):
        Run(tmp_path / "journal" / "run.lock").start()
    with (tmp_path / "lock").open("w") as file, pytest.raises(ValueError, match="got Function not implemented"):
        try_lock(file)
