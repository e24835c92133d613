"""Jobs of a configuration as Snakemake plans them, with the settings each receives, and how long they take on cores."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One job: rule, script, settings, whether it has files of a null model, threads, numbers of jobs it waits for."""

    rule: str
    script: str
    params: Mapping[str, Any]
    null: bool
    threads: int
    needs: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Jobs and the whole configuration they were planned from."""

    jobs: tuple[Job, ...]
    config: Mapping[str, Any]


def plan(
    configfiles: Sequence[Path],
    target: str,
    snakefile: Path,
    *,
    forceall: bool,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """Everything that `target` needs (all of it, or what is not there yet); nothing is run.

    changes  settings over those of the files

    Snakemake's own plan, not an imitation: a rule that is added is in it.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings import types as chosen

    with SnakemakeApi(chosen.OutputSettings(quiet={chosen.Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=chosen.ResourceSettings(cores=1),
            config_settings=chosen.ConfigSettings(configfiles=configfiles, config={**(changes or {}), "shards": 1}),
            storage_settings=chosen.StorageSettings(),
            snakefile=snakefile,
        )
        dag = workflow.dag(chosen.DAGSettings(targets={target}, forceall=forceall))
        dag.execute_workflow(executor="dryrun")
        graph = workflow._workflow.dag
        found = [job for job in graph.jobs if graph.needrun(job) and job.rule.script]
        number = {job: i for i, job in enumerate(found)}
        jobs = [
            Job(
                job.rule.name,
                Path(job.rule.script).stem,
                dict(job.params.items()),
                bool(job.input.get("null")),
                job.threads,
                tuple(number[needed] for needed in graph.dependencies[job] if needed in number),
            )
            for job in found
        ]
        return Plan(tuple(jobs), dict(workflow._workflow.config))


def makespan(jobs: Sequence[Job], seconds: Sequence[float], cores: int) -> float:
    """Wall time of jobs on cores when every job starts as soon as its inputs and a core are there."""
    waiting = [set(job.needs) for job in jobs]
    ready = [number for number, needs in enumerate(waiting) if not needs]
    running: list[tuple[float, int]] = []
    now, free, started = 0.0, cores, set(ready)
    while ready or running:
        while ready and min(jobs[ready[0]].threads, cores) <= free:
            number = ready.pop(0)
            free -= min(jobs[number].threads, cores)
            heapq.heappush(running, (now + seconds[number], number))
        now, done = heapq.heappop(running)
        free += min(jobs[done].threads, cores)
        for number, needs in enumerate(waiting):
            needs.discard(done)
            if not needs and number not in started:
                started.add(number)
                ready.append(number)
    return now
