"""Cost of comparing Snakemake's records with the files, on a run with nothing to do: at most 3 s at 10,000 results.

python tests/bench_records.py    seconds at the first call after a pull, and at every later one
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

from workflow_scripts.records import SETTLED, reconcile

GOAL_SECONDS = 3
STAGES = ("adversarial", "purified", "compression")
TABLES = 46
PATTERN = re.compile(r"results/(?:adversarial|purified|compression|tables)/(?:[a-z]+_\d+)\.parquet$")


def write(name: str, inputs: dict[str, str]) -> str:
    """A result of 10 kB and its record of 5 kB and more, as Snakemake writes it; the result's checksum."""
    content = name.encode() * (10_000 // len(name))
    Path(name).write_bytes(content)
    record = {"rule": "bench", "params": ["x" * 5000], "starttime": time.time(), "input_checksums": inputs}
    Path(".snakemake/metadata", base64.urlsafe_b64encode(name.encode()).decode()).write_text(json.dumps(record))
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def populate(count: int) -> None:
    """Chains of results, each made from the one before, and tables that read the last of every chain."""
    for folder in (".snakemake/metadata", *(f"results/{stage}" for stage in (*STAGES, "tables"))):
        Path(folder).mkdir(parents=True)
    last: dict[str, str] = {}
    for index in range((count - TABLES) // len(STAGES)):
        inputs: dict[str, str] = {}
        for stage in STAGES:
            name = f"results/{stage}/ddpm_{index}.parquet"
            inputs = {name: write(name, inputs)}
        last |= inputs
    for index in range(TABLES):
        write(f"results/tables/table_{index}.parquet", last)


def main() -> None:
    for count in (400, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            populate(count)
            time.sleep(SETTLED)
            for call in ("first", "later"):
                begin, busy = time.perf_counter(), time.process_time()
                reconcile(Path(".snakemake"), Path("results"), lambda path: bool(PATTERN.match(path)))
                wall, own = time.perf_counter() - begin, time.process_time() - busy
                print(f"{count:6d} results, {call} call: {wall:.2f} s, {own:.2f} s of it busy; goal {GOAL_SECONDS}")
            os.chdir("/")


if __name__ == "__main__":
    main()
