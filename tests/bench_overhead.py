"""What a job costs beside its work, and how many must share a submission for that to stay below a tenth.

    python tests/bench_overhead.py [--cluster] [--benchmarks results/benchmarks] [--faster 100]

start      CPU time of Python alone, with torch, and with all that an attack imports
job        a Snakemake job that does nothing: the slope between runs of 1 and of 1 + MORE such jobs
submission jobs that do nothing through `profiles/slurm` (`--cluster`): until the start, on the node, in a group
forecast   the work of every rule's jobs at CIFAR-10 size: the times in the benchmark files of a run, less the start,
           times the cost of one evaluation of a network for CIFAR-10 (35.7 M parameters, 32x32x3) over that of the
           run's own, times 100 steps (t* = 100 without respacing) over its own
`--faster` is how many times as fast as this machine's core an accelerator evaluates the network for CIFAR-10.
Medians with the smallest and largest; SLURM's own times are whole seconds. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pandas as pd
import torch
import yaml
from diffusers import UNet2DModel

from workflow_scripts.propose_resources import rule_of

ROOT = Path(__file__).parents[1]
SETTINGS = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
REPEATS, MORE, SUBMISSIONS, SHARE = 5, 20, 6, 0.1
STEPS = 100
WITHOUT_SAMPLING = ("prepare", "train", "fit", "render", "check", "list")
CIFAR10 = {  # google/ddpm-cifar10-32
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
}
EMPTY = """
rule all:
    input: expand("{{index}}", index=range({count}))
rule empty:
    output: "{{index}}"
    group: "empty"
    script: "empty.py"
"""
JOB = "from pathlib import Path\nPath(snakemake.output[0]).touch()\n"


def seconds(action: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Wall times of an action."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return times


def cpu_seconds(program: str) -> list[float]:
    """CPU times of a Python program of its own process; unlike wall times they are the same on a busy machine."""
    times = []
    for _ in range(REPEATS):
        before = os.times()
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
        after = os.times()
        times.append(sum(after[2:4]) - sum(before[2:4]))
    return times


def show(name: str, times: Sequence[float]) -> float:
    """Print median and range; returns the median."""
    middle = statistics.median(times)
    print(f"{name:<64} {middle:6.2f} s  [{min(times):.2f}, {max(times):.2f}]")
    return middle


def snakemake(count: int, options: Sequence[str]) -> str:
    """What a run of `count` jobs that do nothing says; in a new folder below the project, for nodes must see it."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        Path(folder, "Snakefile").write_text(EMPTY.format(count=count))
        Path(folder, "empty.py").write_text(JOB)
        command = [sys.executable, "-m", "snakemake", "--directory", folder, "--snakefile", f"{folder}/Snakefile"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr


def local_job() -> float:
    """Seconds that one more job adds to a run on this machine."""
    one, many = (seconds(lambda n=count: snakemake(n, ["--cores", "1"]), 3) for count in (1, 1 + MORE))
    return show("a local Snakemake job that does nothing", [(b - a) / MORE for a, b in zip(one, many, strict=True)])


def submissions(count: int, *options: str) -> list[tuple[float, float]]:
    """Seconds from submission to start and from start to end of each submission of a run, as SLURM knows them."""
    profile = ["--profile", str(ROOT / "profiles" / "slurm"), "--default-resources", "mem_mb=1000", "runtime=5"]
    quick = ["--jobs", "1", "--slurm-init-seconds-before-status-checks", "5"]
    said = snakemake(count, [*profile, *quick, *options])
    name = said.split("SLURM run ID: ")[1].split()[0]
    query = ["squeue", "-h", "--states=all", "--name", name, "-o", "%V %S %e"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    times = [[datetime.fromisoformat(word) for word in line.split()] for line in lines]
    return [((start - submit).total_seconds(), (end - start).total_seconds()) for submit, start, end in times]


def cluster_job() -> tuple[float, float]:
    """Node time of a submission that does nothing, and what each further job in it adds."""
    waits, alone = zip(*submissions(SUBMISSIONS), strict=True)
    show("from submission to start, on an idle cluster", waits)
    one = show("a submission that does nothing, on the node", alone)
    grouped = [node for _, node in submissions(1 + MORE, "--group-components", "empty=100")]
    return one, show("one more job in a submission", [(each - one) / MORE for each in grouped])


def evaluation(network: UNet2DModel, channels: int, batch: int) -> float:
    """Seconds of one evaluation of a network, per image, in a batch, on one thread."""
    network.eval().requires_grad_(False)
    images = torch.zeros(batch, channels, network.config.sample_size, network.config.sample_size)
    with torch.inference_mode():
        network(images, 1)
        return statistics.median(seconds(lambda: network(images, 1))) / batch


def growth(faster: float) -> float:
    """How many times as much a purification costs at CIFAR-10 size."""
    own = SETTINGS["denoisers"]["unet"]["network"]
    size = SETTINGS["datasets"][SETTINGS["dataset"]]["size"]
    steps = SETTINGS["purifiers"][SETTINGS["run"]["headline"]]["steps"]
    small = evaluation(UNet2DModel(sample_size=size, in_channels=1, out_channels=1, **own), 1, SETTINGS["batch_size"])
    large = evaluation(UNet2DModel(**CIFAR10), 3, 4) / faster
    print(f"one evaluation per image: {1e3 * small:.3f} ms on digits, {1e3 * large:.3f} ms for CIFAR-10")
    return large / small * STEPS / steps


def work(folder: Path, start: float, factor: float) -> dict[str, list[float]]:
    """Seconds of work at CIFAR-10 size of the jobs of every rule that samples."""
    rows: dict[str, list[float]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        rule = rule_of(path.relative_to(folder))
        if not rule.startswith(WITHOUT_SAMPLING):
            spent = float(pd.read_csv(path, sep="\t", na_values="-")["cpu_time"].iloc[0])
            rows.setdefault(rule, []).append(factor * max(spent - start, 0.1))
    return rows


def forecast(rows: dict[str, list[float]], one: float, more: float) -> None:
    """Share of overhead of every rule's jobs, alone and with as many in a submission as bring it below the goal."""
    print(f"  {'':<26} jobs  work, median  overhead alone  < {100 * SHARE:.0f} % with so many in a submission")
    for rule, times in sorted(rows.items()):
        middle = statistics.median(times)
        fixed = {n: one + (n - 1) * more for n in range(1, 101)}
        enough = [n for n, cost in fixed.items() if cost / (cost + n * middle) < SHARE]
        share = 100 * one / (one + middle)
        print(f"  {rule:<26} {len(times):4d}  {middle:10.0f} s  {share:12.1f} %  {min(enough, default='-'):>5}")
    total, lost = sum(map(sum, rows.values())), one * sum(map(len, rows.values()))
    print(
        f"  all: {total / 3600:.1f} h of work, overhead {100 * lost / (total + lost):.2f} % with one job per submission"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--benchmarks", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--faster", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    show("Python alone", cpu_seconds("pass"))
    show("Python and torch", cpu_seconds("import torch"))
    start = show("Python and all that an attack imports", cpu_seconds("import workflow_scripts.attack_images"))
    one = more = local_job()
    if options.cluster:
        one, more = cluster_job()
    if options.benchmarks.is_dir():
        factor = growth(options.faster)
        print(f"overhead {one + start:.1f} s per submission, {more + start:.1f} s per further job; work x {factor:.1f}")
        forecast(work(options.benchmarks, start, factor), one + start, more + start)


if __name__ == "__main__":
    main()
