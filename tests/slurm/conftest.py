"""One cluster for all tests, a run on this machine and the same run on the cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing_packages
from tests.slurm.runs import ClusterCopy, prepare
from tests.workflow.conftest import copy_project


def start(accounting: bool) -> Cluster:
    """A cluster in a new folder; without the programs there is nothing to test, which is no success."""
    if missing := missing_packages(accounting):
        pytest.exit(f"expected SLURM, got none — apt-get install {' '.join(missing)}", returncode=3)
    return Cluster(Path(tempfile.mkdtemp(prefix="slurm-")), accounting, memory=16000)


def serve(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, as the one that every command of the tests talks to."""
    before = dict(os.environ)
    try:
        cluster.up()
        os.environ.update(cluster.environment)
        yield cluster
    finally:
        cluster.down()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    yield from serve(start(accounting=False))


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> ClusterCopy:
    """A finished run on this machine."""
    copy = prepare(copy_project(tmp_path_factory.mktemp("local")))
    copy.finish()
    return copy


@pytest.fixture(scope="session")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> ClusterCopy:
    """A finished run on the cluster."""
    copy = prepare(copy_project(tmp_path_factory.mktemp("cluster")))
    copy.complete("results/tables")
    return copy


@pytest.fixture
def copy(cluster: Cluster, finished: ClusterCopy, tmp_path: Path) -> Iterator[ClusterCopy]:
    """A copy of the run on the cluster that a test may break; no job of it is left behind."""
    shutil.copytree(finished.folder, tmp_path / "project")
    yield ClusterCopy(tmp_path / "project", finished.name)
    cluster.cancel()
