"""What goes wrong on clusters, done to a real one: after each fault the tables are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.runs import ClusterCopy
from tests.workflow.runs import Run

SMALL = "purify_images:mem_mb=700*attempt"  # MB; a job of the smoke run needs less than 600


@contextmanager
def waiting(copy: ClusterCopy, *options: str) -> Iterator[tuple[Run, str]]:
    """A run whose job on the purifier runs and waits for the file `go`; the run and the number of the job."""
    copy.obstruct(until="go")
    with copy.submit(*copy.forget(), options=options) as run:
        assert run.wait_for(lambda: bool(copy.met())), run.text()[-4000:]
        yield run, copy.met()[0][0]


def go_on(copy: ClusterCopy, run: Run) -> None:
    (copy.folder / "go").touch()
    assert run.end() == 0, run.text()[-6000:]


def state(cluster: Cluster, job: str) -> str:
    return cluster.run("squeue", "-h", "--states=all", "-j", job, "-o", "%T")


def asked(cluster: Cluster, job: str, what: str) -> str:
    """What was asked for a job: `%m` memory, `%l` time."""
    return cluster.run("squeue", "-h", "--states=all", "-j", job, "-o", what)


def assert_undisturbed(copy: ClusterCopy, local: ClusterCopy) -> None:
    assert copy.outputs() == local.outputs()


def test_a_cancelled_job_runs_again(cluster: Cluster, copy: ClusterCopy, local: ClusterCopy) -> None:
    with waiting(copy) as (run, job):
        cluster.run("scancel", job)
        assert run.wait_for(lambda: len(copy.met()) > 1), run.text()[-4000:]
        assert state(cluster, job) == "CANCELLED"
        go_on(copy, run)
    assert_undisturbed(copy, local)


@pytest.mark.slow
def test_a_job_that_runs_out_of_memory_gets_more(cluster: Cluster, copy: ClusterCopy, local: ClusterCopy) -> None:
    copy.obstruct(megabytes=500)
    copy.complete(*copy.forget(), options=("--set-resources", SMALL))
    (first, *_), (second, *_) = copy.met()
    assert (state(cluster, first), state(cluster, second)) == ("FAILED", "COMPLETED")
    assert (asked(cluster, first, "%m"), asked(cluster, second, "%m")) == ("700M", "1400M")
    assert_undisturbed(copy, local)


@pytest.mark.slow
def test_a_job_at_its_time_limit_gets_more(cluster: Cluster, copy: ClusterCopy, local: ClusterCopy) -> None:
    copy.obstruct(seconds=70)
    copy.complete(*copy.forget(), options=("--set-resources", "purify_images:runtime=1+2*(attempt-1)"))
    (first, *_), (second, *_) = copy.met()
    assert (state(cluster, first), state(cluster, second)) == ("TIMEOUT", "COMPLETED")
    assert (asked(cluster, first, "%l"), asked(cluster, second, "%l")) == ("1:00", "3:00")
    assert_undisturbed(copy, local)


@pytest.mark.slow
def test_a_job_on_a_node_that_dies_runs_on_another(cluster: Cluster, copy: ClusterCopy, local: ClusterCopy) -> None:
    with waiting(copy) as (run, job):
        node = copy.met()[0][1]
        cluster.kill_node(node)
        cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=died")
        try:
            assert run.wait_for(lambda: len(copy.met()) > 1), run.text()[-4000:]
            assert copy.met()[1][:2] == (job, next(each for each in cluster.nodes if each != node))
            go_on(copy, run)
        finally:
            cluster.start_node(node)
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            wait_for(cluster.ready, "the node to come back")
    assert_undisturbed(copy, local)


def test_a_restart_beside_jobs_of_a_killed_run_is_harmless(
    cluster: Cluster, copy: ClusterCopy, local: ClusterCopy
) -> None:
    with waiting(copy) as (run, old):
        os.kill(run.process.pid, signal.SIGKILL)
        run.end()
        assert state(cluster, old) == "RUNNING"
        with copy.submit(*copy.forget(), name="restart") as restart:
            running = lambda: len(cluster.run("squeue", "-h", "-t", "R", "-o", "%A").split()) == 2  # noqa: E731
            assert restart.wait_for(running), restart.text()[-4000:]
            go_on(copy, restart)
        assert state(cluster, old) == "COMPLETED"
    assert len(copy.met()) == 2
    assert_undisturbed(copy, local)


@pytest.mark.slow
def test_a_restart_of_the_controller_goes_unnoticed(cluster: Cluster, copy: ClusterCopy, local: ClusterCopy) -> None:
    with waiting(copy) as (run, job):
        cluster.stop("controller", signal.SIGKILL)
        time.sleep(5)
        cluster.start_controller()
        wait_for(lambda: cluster.answers("scontrol", "ping") and cluster.ready(), "the controller to come back")
        go_on(copy, run)
        assert state(cluster, job) == "COMPLETED"
    assert len(copy.met()) == 1
    assert_undisturbed(copy, local)


@pytest.mark.slow
def test_a_preempted_job_is_queued_again(cluster: Cluster, copy: ClusterCopy, local: ClusterCopy) -> None:
    with waiting(copy, "--default-resources", "slurm_partition=low", "mem_mb=1500", "runtime=10") as (run, job):
        urgent = ("sbatch", "--parsable", "-p", "high", "-N", str(len(cluster.nodes)), "--exclusive", "-o", "/dev/null")
        cluster.run(*urgent, "--wrap", "sleep 3")
        assert run.wait_for(lambda: len(copy.met()) > 1), run.text()[-4000:]
        assert copy.met()[1][0] == job
        go_on(copy, run)
    assert_undisturbed(copy, local)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--default-resources", "slurm_partition=nowhere"), "invalid partition specified: nowhere"),
        (("--set-resources", "purify_images:mem_mb=1000000"), "Requested node configuration is not available"),
        (("--set-resources", "purify_images:runtime=600"), "a job may run 480 min there"),
    ],
)
def test_a_request_the_cluster_would_refuse_is_one_sentence(
    cluster: Cluster, copy: ClusterCopy, option: tuple[str, str], expected: str
) -> None:
    before = cluster.run("squeue", "--states=all", "-h")
    with copy.submit(*copy.forget(), options=option) as run:
        assert run.end() == 1
    sentences = [line for line in run.text().splitlines() if "expected" in line]
    assert len(sentences) == 1
    assert "purify_images" in sentences[0] and expected in sentences[0] and " — " in sentences[0]
    assert cluster.run("squeue", "--states=all", "-h") == before


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gres=gpu:1", "gpu=1", "slurm_extra=--gpus-per-task=1"])
def test_a_job_gets_the_gpu_it_asks_for(cluster: Cluster, copy: ClusterCopy, form: str) -> None:
    options = ("--set-resources", "purify_images:slurm_partition=gpu", f"purify_images:{form}")
    with waiting(copy, *options) as (run, job):
        assert copy.met()[0][2] == "0"
        assert cluster.run("squeue", "-h", "-j", job, "-o", "%P") == "gpu"
        run.kill()
