"""A cluster with an accounting database, where `sacct` says how jobs end."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from tests.slurm.conftest import serve, start
from tests.slurm.runs import ClusterCopy
from tests.slurm.test_faults import SMALL


@pytest.mark.slow
def test_sacct_watches_jobs_and_gives_the_reason_of_a_failure(copy: ClusterCopy, local: ClusterCopy) -> None:
    copy.obstruct(megabytes=500)
    options = ("--slurm-status-command", "sacct", "--set-resources", SMALL)
    with contextmanager(serve)(start(accounting=True)) as cluster:
        text = copy.complete(*copy.forget(), options=options)
        (first, *_), (second, *_) = copy.met()
        ends = [cluster.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ReqMem") for job in (first, second)]
    assert ends == ["FAILED|700M", "COMPLETED|1400M"]
    assert f"SLURM-job '{first}' failed, SLURM status is: 'FAILED'" in text
    assert "status command is not 'sacct'" not in text
    assert copy.outputs() == local.outputs()
