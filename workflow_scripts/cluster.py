"""What a SLURM cluster would refuse, asked before anything is submitted."""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SHOWN = 3  # names of rules in a sentence
HIDDEN = ("_cores", "_nodes", "tmpdir", "mem", "mem_mib")  # what Snakemake adds


def _command(job: Any, settings: Any) -> list[str]:
    """The submission that the executor would make of a job, as a question: nothing is queued."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    account, partition = (job.resources.get(f"slurm_{name}") for name in ("account", "partition"))
    fixed = {
        "run_uuid": "test",
        "slurm_logfile": "/dev/null",
        "comment_str": "",
        "account": f" -A {shlex.quote(str(account))}" if account else "",
        "partition": f" -p {shlex.quote(str(partition))}" if partition else "",
        "workdir": None,
    }
    call = get_submit_command(job, fixed, settings=settings) + set_gres_string(job)
    return [*shlex.split(call), "--test-only", "--wrap=true"]


def _answer(command: list[str]) -> str:
    """Why SLURM refuses a submission; empty when it does not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [
        line.removeprefix("sbatch: ").removeprefix("error: ").strip()
        for line in done.stderr.splitlines()
        if line.strip()
    ]
    return "; ".join(dict.fromkeys(filter(None, lines))) if done.returncode else ""


def _minutes(limit: str) -> float:
    """Minutes of a time as SLURM writes it: `infinite`, `days-hours:minutes:seconds` and what is short for it."""
    if not limit[:1].isdigit():
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, 0, *map(int, clock.split(":"))][-3:]
    return 1440 * int(days or 0) + 60 * hours + minutes + seconds / 60


def _longest() -> dict[str, float]:
    """Minutes that a job may ask for by partition, the default one also under no name."""
    done = subprocess.run(["sinfo", "-h", "-o", "%P %l"], capture_output=True, text=True, check=False)
    found = dict(line.split() for line in done.stdout.splitlines())
    named = {name.rstrip("*"): _minutes(limit) for name, limit in found.items()}
    default = [_minutes(limit) for name, limit in found.items() if name.endswith("*")]
    return {**named, "": default[0]} if default else named


def _never(resources: Any, longest: Mapping[str, float]) -> str:
    """Why a submission that SLURM takes would wait forever; empty when it would not."""
    names = str(resources.get("slurm_partition") or "").split(",")
    most = max((longest.get(name, math.inf) for name in names), default=math.inf)
    return f"a job may run {most:g} min there" if (resources.get("runtime") or 0) > most else ""


def _rules(job: Any) -> set[str]:
    return {each.rule.name for each in (job.jobs if job.is_group() else [job])}


def refusals(jobs: Iterable[Any], settings: Any) -> Iterator[str]:
    """A sentence for each reason why the cluster would not take jobs; `jobs` are Snakemake's jobs or groups of them."""
    if shutil.which("sbatch") is None:
        yield "expected the command sbatch, got none — run on a node of the cluster where jobs can be submitted"
        return
    asked: dict[tuple[str, ...], list[Any]] = {}
    for job in jobs:
        asked.setdefault(tuple(_command(job, settings)), []).append(job)
    refused: dict[str, list[Any]] = {}
    longest = _longest()
    for command, alike in asked.items():
        if answer := _answer(list(command)) or _never(alike[0].resources, longest):
            refused.setdefault(answer, []).extend(alike)
    for answer, found in refused.items():
        rules = sorted(set[str]().union(*map(_rules, found)))
        others = f" and {len(rules) - SHOWN} more rules" if len(rules) > SHOWN else ""
        wanted = {name: value for name, value in found[0].resources.items() if value and name not in HIDDEN}
        request = ", ".join(f"{name} {value}" for name, value in sorted(wanted.items()))
        yield (
            f"{', '.join(rules[:SHOWN])}{others}: expected a request that the cluster takes, got {request} "
            f"({answer}) — change it in the profile"
        )
