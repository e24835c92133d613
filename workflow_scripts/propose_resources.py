"""Propose memory and runtime of every rule for a cluster profile, from the `benchmark:` files of a run.

    python -m workflow_scripts.propose_resources results/benchmarks

Snakemake's benchmarks measure a job's own processes; on a cluster the Snakemake processes around it count, too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

PER_FILE = ("render_figures",)  # folders whose files are rules of their own: render_figures_<stem>
MEMORY_FACTOR, MEMORY_ADDED = 1.5, 600  # MB; added: the three Snakemake processes around a job, twice
RUNTIME_FACTOR, RUNTIME_ADDED = 3.0, 2  # minutes
STEP = 100  # MB
HEAD = f"""\
# Largest of each rule's jobs: {MEMORY_FACTOR:g} x its memory + {MEMORY_ADDED} MB, \
{RUNTIME_FACTOR:g} x its wall time + {RUNTIME_ADDED} min; each retry adds as much again.
set-resources:"""


@dataclass(frozen=True)
class Need:
    """What the jobs of one rule needed at most: seconds of wall time and MB of memory; and how many there were."""

    seconds: float
    memory: float
    jobs: int

    @property
    def mem_mb(self) -> int:
        """MB to ask for."""
        return STEP * math.ceil((MEMORY_FACTOR * self.memory + MEMORY_ADDED) / STEP)

    @property
    def runtime(self) -> int:
        """Minutes to ask for."""
        return math.ceil(RUNTIME_FACTOR * self.seconds / 60) + RUNTIME_ADDED


def rule_of(path: Path) -> str:
    """Rule of a benchmark file, by its path below the folder of all: `<rule>.tsv`, `<rule>/<wildcards>.tsv`."""
    folder = path.parts[0]
    return f"{folder}_{path.stem}" if folder in PER_FILE else Path(folder).stem


def measured(folder: Path) -> dict[str, Need]:
    """What the jobs of every rule needed.

    Raises ValueError when there are no benchmark files or one lacks a measurement.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        table = pd.read_csv(path, sep="\t", na_values="-")
        seconds, memory = float(table["s"].max()), float(table["max_rss"].max())
        if not (math.isfinite(seconds) and math.isfinite(memory)):
            raise ValueError(f"expected a time and a memory, got neither in {path} — run the job again for >= 1 s")
        rows.setdefault(rule_of(path.relative_to(folder)), []).append((seconds, memory))
    if not rows:
        raise ValueError(f"expected benchmark files of a run, got none in {folder} — run `make tables` first")
    return {
        rule: Need(max(seconds for seconds, _ in pairs), max(memory for _, memory in pairs), len(pairs))
        for rule, pairs in sorted(rows.items())
    }


def proposal(needs: Mapping[str, Need]) -> Iterator[str]:
    """Lines of a profile; what was measured stands beside what is proposed."""
    yield HEAD
    for rule, need in needs.items():
        jobs = "1 job" if need.jobs == 1 else f"{need.jobs} jobs"
        yield f"  {rule}: # {jobs}, at most {need.memory:.0f} MB and {need.seconds:.0f} s"
        yield f"    mem_mb: {need.mem_mb} * attempt"
        yield f"    runtime: {need.runtime} * attempt"


def main(folder: str) -> None:
    try:
        lines = list(proposal(measured(Path(folder))))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
