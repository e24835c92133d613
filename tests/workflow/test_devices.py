"""A device that this machine lacks ends a run on it before any job, and is no matter of a plan."""

from __future__ import annotations

from tests.workflow.conftest import Project


def test_a_run_without_its_device_is_refused_before_it_starts(project: Project) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    config = {"device": "cuda", "results": "results/cuda"}
    done = project.snakemake("--cores", "1", "--", "results/tables", config=config, environment=hidden)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "The run cannot start:\nexpected device 'cuda', got 0 CUDA devices" in said
    assert not (project.folder / "results/cuda/dataset").exists() and "Traceback" not in said
    planned = project.snakemake("-n", "-q", "--", "results/tables", config=config, environment=hidden)
    assert planned.returncode == 0
