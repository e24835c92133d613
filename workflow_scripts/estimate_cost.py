"""Forecast hours and memory of a configuration from a probe of about a minute, before anything runs.

python -m workflow_scripts.estimate_cost --cores 2 my.yaml
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from purification.data import Dataset, select
from workflow_scripts.configuration import merged
from workflow_scripts.cost_passes import Passes, measure_passes
from workflow_scripts.cost_plan import Plan, makespan, plan
from workflow_scripts.cost_probe import Cost, Laboratory, measure
from workflow_scripts.cost_standins import stand_ins
from workflow_scripts.cost_units import WORK, Context, Unit
from workflow_scripts.input_files import PUBLISHED_DENOISERS, places_used

ROOT = Path(__file__).parents[1]
TARGET = "results/tables"
PROBE = 45.0  # seconds that all units together should take
SAMPLE = 2048  # images that probes are given
BYTES = 256_000_000  # at most, of random images
TRAINING = ("train", "null_model")  # units that hold all training images
DISPATCH = 0.4  # ASSUME: seconds Snakemake takes to start and finish a job
# what a job does before its script begins, and what it has cost
START = """
import time
from snakemake import script
import workflow_scripts.{}
from workflow_scripts.cost_memory import peak_memory
print(time.process_time(), peak_memory())
"""


@dataclass(frozen=True)
class Forecast:
    """One row per job: rule, seconds, memory in bytes; wall time of all on `cores`; what passes of networks cost."""

    jobs: pd.DataFrame
    wall: float
    cores: int
    passes: tuple[str, ...] = ()

    def stages(self) -> pd.DataFrame:
        """One row per rule, and their total."""
        groups = self.jobs.groupby("rule", sort=False)
        table = pd.DataFrame(
            {
                "jobs": groups.size(),
                "s per job": groups.seconds.mean(),
                "longest, s": groups.seconds.max(),
                "core-hours": groups.seconds.sum() / 3600,
                "MB per job": groups.memory.max() / 1e6,
            }
        )
        total = [len(self.jobs), self.jobs.seconds.mean(), self.jobs.seconds.max(), self.jobs.seconds.sum() / 3600]
        table.loc["all"] = [*total, self.jobs.memory.max() / 1e6]
        return table.astype({"jobs": int})

    def sentence(self, name: str) -> str:
        """What to expect in one line."""
        together = self.jobs.memory.nlargest(self.cores).sum() / 1e9
        return (
            f"{name}: {duration(self.wall)} on {self.cores} cores, {self.jobs.memory.max() / 1e9:.1f} GB per job, "
            f"{together:.1f} GB in all"
        )


def duration(seconds: float) -> str:
    """Minutes, or hours from two on."""
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def start_of(script: str) -> Cost:
    """Processor time and memory of a job that imports its script and does nothing."""
    command = [sys.executable, "-c", START.format(script)]
    seconds, memory = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return Cost(float(seconds), float(memory))


Measured = Mapping[str, Mapping[torch.dtype, Passes]]


def probing(processes: int) -> Pool:
    """Processes for one task each, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workflow_scripts.cost_probe"])
    return context.Pool(processes, maxtasksperchild=1)


def pass_costs(units: Sequence[Unit], config: Mapping[str, Any], data: Dataset) -> Measured:
    """Passes of the published denoisers that units use, one network at a time: none shares the memory."""
    with probing(1) as pool:
        return {text: pool.apply(measure_passes, place) for text, place in published(units, config, data).items()}


def unit_costs(
    units: Sequence[Unit], config: Mapping[str, Any], data: Dataset, cores: int, passes: Measured
) -> dict[Unit, Cost]:
    """Measured cost of every unit, each in a process of its own, as many at once as there are cores."""
    lab = Laboratory(config, data, PROBE * cores / max(len(units), 1) / 3, passes)
    with probing(cores) as pool:
        return dict(zip(units, pool.map(partial(measure, lab=lab), units, chunksize=1), strict=True))


def published(units: Sequence[Unit], config: Mapping[str, Any], data: Dataset) -> dict[str, tuple[Any, ...]]:
    """Entries as JSON of the published denoisers that units use -> arguments of `measure_passes`."""
    found: dict[str, tuple[Any, ...]] = {}
    for purifier in (json.loads(unit.purifier) for unit in units if unit.purifier):
        entry = config["denoisers"].get(purifier.get("denoiser"), {})
        entry = config["denoisers"].get(entry.get("base"), entry)
        if entry.get("kind") in PUBLISHED_DENOISERS:
            side = purifier.get("size", data.shape[-1])
            found[json.dumps(entry, sort_keys=True)] = (entry, data.shape, side)
    return found


def random_sample(config: Mapping[str, Any]) -> tuple[Dataset, float, int]:
    """What `read_sample` gives, of images that are not there: random ones of the entry's size."""
    entry = config["datasets"][config["dataset"]]
    shape = (entry.get("channels", 3), entry["size"], entry["size"])
    count = min(SAMPLE, BYTES // (4 * math.prod(shape)))
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    classes = entry.get("classes", 10)
    data = Dataset(images, torch.arange(count) % classes, {"train": list(range(count))}, classes=classes)
    return data, 0.0, 4 * entry["splits"]["train"] * math.prod(shape)


def read_sample(config: Mapping[str, Any]) -> tuple[Dataset, float, int]:
    """The first images, seconds that reading all of them takes, and bytes of the training images in memory."""
    begin = time.process_time()
    chosen = select(config["datasets"][config["dataset"]], config["seed"])
    images = torch.from_numpy(np.stack(list(islice(chosen.rows(), SAMPLE))))
    seconds = (time.process_time() - begin) * len(chosen.labels) / len(images)
    index = list(range(len(images)))
    data = Dataset(images, torch.from_numpy(chosen.labels[: len(images)]), {"train": index}, classes=chosen.classes)
    floats, labels, _ = data.take("train")
    data = Dataset(floats, labels, {"train": index}, classes=chosen.classes)
    return data, seconds, 4 * len(chosen.subsets["train"]) * floats[0].numel()


def forecast(made: Plan, cores: int, *, there: bool = True) -> Forecast:
    """Count the units of every job, measure each once, put the jobs on cores; `there`: the images can be read."""
    processes = min(cores, len(os.sched_getaffinity(0)))
    data, reading, training = (read_sample if there else random_sample)(made.config)
    context = Context(made.config, data.shape)
    works = [WORK[job.script](job, context) for job in made.jobs]
    with ThreadPoolExecutor(processes) as pool:
        scripts = sorted({job.script for job in made.jobs})
        starts = dict(zip(scripts, pool.map(start_of, scripts), strict=True))
    units = sorted({unit for work in works for unit in work}, key=str)
    passes = pass_costs(units, made.config, data)
    costs = unit_costs(units, made.config, data, processes, passes)
    rows = []
    for job, work in zip(made.jobs, works, strict=True):
        own = reading if job.rule == "prepare_dataset" else 0.0
        held = training if any(unit.kind in TRAINING for unit in work) else 0
        seconds = starts[job.script].seconds + own + sum(count * costs[unit].seconds for unit, count in work.items())
        memory = starts[job.script].memory + held + max((costs[unit].memory for unit in work), default=0.0)
        rows.append({"rule": job.rule, "seconds": seconds, "memory": memory})
    table = pd.DataFrame(rows)
    said = tuple(found[torch.float32].sentence(json.loads(text)["kind"]) for text, found in passes.items())
    return Forecast(table, makespan(made.jobs, list(table.seconds + DISPATCH), cores), cores, said)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configfile", nargs="*", type=Path, help="configuration files, merged over config/default.yaml")
    parser.add_argument("--cores", default="all", help="cores of the run (default: all)")
    parser.add_argument("--left", action="store_true", help="only what is not there yet")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the forecast."""
    options = arguments(argv)
    cores = len(os.sched_getaffinity(0)) if options.cores == "all" else int(options.cores)
    asked = merged(options.configfile)
    with tempfile.TemporaryDirectory() as folder:
        changes, absent = stand_ins(asked, Path(folder))
        made = plan(options.configfile, TARGET, ROOT / "Snakefile", forceall=not options.left, changes=changes)
    name = options.configfile[-1].name if options.configfile else "default.yaml"
    if not made.jobs:
        print(f"{name}: nothing to be done")
        return
    used = {path for _, path in places_used(asked)}
    if absent := [path for path in absent if path in used]:
        print(f"not there: {', '.join(absent)} — random images and weights of the same sizes take their place")
    result = forecast(made, cores, there=asked["dataset"] not in changes.get("datasets", {}))
    print(result.stages().to_string(float_format="{:.2f}".format))
    for line in (*result.passes, result.sentence(name)):
        print(line)


if __name__ == "__main__":
    main()
