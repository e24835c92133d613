"""A copy of the project whose jobs run on the cluster, and a purifier in it that can be told to get in the way."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.workflow.conftest import ROOT, SNAKEMAKE
from tests.workflow.runs import Copy, Run

NAME = "smoke"
TABLES = ("claims", "robustness", "controls", "paired", "settings")
# A blur. The file `obstacle.json`, no input of any job, makes a job hold memory, take time, or wait for a file.
PURIFIER = """
import json
import os
import time
from pathlib import Path

import torch.nn.functional as F


def meet(obstacle):
    with Path("met").open("a") as file:
        known = ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")
        file.write(" ".join(os.environ.get(name) or "none" for name in known) + "\\n")
    held = b"x" * (obstacle.get("megabytes", 0) * 2**20)
    time.sleep(obstacle.get("seconds", 0) + (4 if held else 0))
    while "until" in obstacle and not Path(obstacle["until"]).exists():
        time.sleep(0.1)


def make_purifier(params, image_shape, device):
    if Path("obstacle.json").exists():
        meet(json.loads(Path("obstacle.json").read_text()))

    def purify(images, noise):
        noisy = images + params["sigma"] * noise.normal("forward")
        return F.avg_pool2d(F.pad(noisy, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)

    return purify
"""


def configuration() -> dict[str, Any]:
    """The smoke configuration with that purifier."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    entry = {"kind": "python", "path": "cumbersome.py", "factory": "make_purifier", "params": {"sigma": 0.1}}
    config.setdefault("purifiers", {})["cumbersome"] = entry
    config["run"]["controls"].append("cumbersome")
    return {**config, "results": f"results/{NAME}"}


@dataclass
class ClusterCopy(Copy):
    """A copy whose jobs are submitted with `profiles/slurm`."""

    def submit(self, *targets: str, options: tuple[str, ...] = (), name: str = "") -> AbstractContextManager[Run]:
        """Run Snakemake as on a cluster, with status checks as often as a test needs them."""
        quick = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]
        command = [str(SNAKEMAKE), "--profile", "profiles/slurm", *quick, *options]
        return self.launch([*command, "--configfile", f"{self.name}.yaml", "--", *targets], name or self.name)

    def complete(self, *targets: str, options: tuple[str, ...] = (), name: str = "") -> str:
        with self.submit(*targets, options=options, name=name) as run:
            assert run.end(1500) == 0, run.text()[-8000:]
        return run.text()

    def obstruct(self, **obstacle: Any) -> None:
        """Let the jobs of the purifier `cumbersome` meet an obstacle from now on."""
        (self.folder / "obstacle.json").write_text(json.dumps(obstacle))

    def met(self) -> list[tuple[str, str, str]]:
        """Job number, node and GPU of every job that met the obstacle."""
        path = self.folder / "met"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(job, node, gpu) for job, node, gpu in map(str.split, lines)]

    def forget(self) -> tuple[str, ...]:
        """Delete the purified images of `cumbersome` and the tables; what to ask for to have them again."""
        for path in (self.results / "purified").glob("cumbersome.*"):
            path.unlink()
        shutil.rmtree(self.results / "tables", ignore_errors=True)
        return tuple(f"results/{NAME}/tables/{table}.csv" for table in TABLES)


def prepare(folder: Path) -> ClusterCopy:
    copy = ClusterCopy(folder, NAME)
    (folder / "cumbersome.py").write_text(PURIFIER)
    copy.configure(configuration())
    return copy
