"""A cluster with an accounting database, where `sacct` says how jobs end; SLURM's own log says why."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.conftest import serve, start
from tests.slurm.runs import ClusterCopy
from tests.slurm.test_faults import SMALL


@pytest.mark.slow
def test_sacct_watches_jobs_and_the_log_of_a_failed_one_says_why(copy: ClusterCopy, local: ClusterCopy) -> None:
    copy.obstruct(megabytes=500)
    options = ("--slurm-status-command", "sacct", "--set-resources", SMALL)
    with contextmanager(serve)(start(accounting=True)) as cluster:
        text = copy.complete(*copy.forget(), options=options)
        (first, *_), (second, *_) = copy.met()
        ends = [cluster.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ReqMem") for job in (first, second)]
    assert ends == ["FAILED|700M", "COMPLETED|1400M"]
    (log,) = re.findall(rf"log: (\S+/{first}\.log) \(check log", text)
    assert "exceeded memory limit" in Path(log).read_text()
    assert copy.outputs() == local.outputs()
