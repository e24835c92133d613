"""The smoke run on a cluster of two nodes gives the bytes that a run on this machine gives."""

from __future__ import annotations

from tests.slurm.cluster import Cluster
from tests.slurm.runs import ClusterCopy


def test_a_run_on_the_cluster_is_byte_identical_to_a_local_one(local: ClusterCopy, finished: ClusterCopy) -> None:
    expected, got = local.outputs(), finished.outputs()
    assert len(expected) > 100
    assert got == expected


def test_jobs_ran_on_all_nodes_and_many_in_one_submission(cluster: Cluster, finished: ClusterCopy) -> None:
    text = (finished.folder / f"{finished.name}.out").read_text()
    name = text.split("SLURM run ID: ")[1].split()[0]
    submissions = cluster.run("squeue", "--states=all", "-h", "--name", name, "-o", "%N").split()
    assert set(submissions) == set(cluster.nodes)
    jobs = text.count("\nFinished jobid")
    assert jobs > 60
    assert len(submissions) < jobs / 2


def test_a_second_call_has_nothing_to_do(finished: ClusterCopy) -> None:
    assert "Nothing to be done" in finished.complete("results/tables", name="again")
