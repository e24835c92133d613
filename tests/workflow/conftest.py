"""A copy of the project whose smoke run is finished, with one more purifier whose answers are known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from filelock import FileLock

if TYPE_CHECKING:
    from tests.workflow.clones import Clone

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
# A linear purifier with these singular values: a tenth at 1.5, the rest from .05 to .4.
PURIFIER = """
import numpy as np
import torch


def make_purifier(params, image_shape, device):
    size = int(np.prod(image_shape))
    rng = np.random.default_rng(params["seed"])
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    amplified = size // 10
    values = np.concatenate([np.full(amplified, 1.5), np.linspace(0.05, 0.4, size - amplified)])
    matrix = torch.tensor(left @ np.diag(values) @ right.T, dtype=torch.float32, device=device)

    def purify(images, noise):
        return (0.5 + (images - 0.5).flatten(1) @ matrix.T.to(images.dtype)).view_as(images)

    return purify
"""

PER_PURIFIER = (
    *("purify_images", "measure_distances", "measure_randomness", "measure_compression", "measure_attack_strength"),
    "measure_attack_adequacy",
    "compute_jacobian",
    "audit_gradients",
)


@dataclass(frozen=True)
class Project:
    """A project folder and the configuration its results were made with."""

    folder: Path
    config: Path

    def snakemake(
        self, *arguments: str, config: dict[str, Any] | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in the folder; `config` is merged over the configuration, `environment` over the tests' own."""
        files = [str(self.config)]
        if config is not None:
            extra = self.folder / "extra.yaml"
            extra.write_text(yaml.safe_dump(config))
            files.append(str(extra))
        command = [str(SNAKEMAKE), "--configfile", *files, "--nolock", *arguments]
        variables = {**os.environ, **(environment or {})}
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, env=variables)

    def planned(self, config: dict[str, Any] | None = None, targets: Sequence[str] = ("results/tables",)) -> set[str]:
        """`rule wildcards` of every job that would run."""
        done = self.snakemake("--summary", "--", *targets, config=config)
        assert done.returncode == 0, done.stdout + done.stderr
        jobs = set()
        for output, _, rule, _, _, plan in (
            line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 5
        ):
            if plan == "update pending":
                path = Path(output)
                wildcards = {"attack_images": [path.stem, path.parent.name], "train_denoiser": [path.parent.name]}
                jobs.add(" ".join([rule, *wildcards.get(rule, [path.stem] if rule in PER_PURIFIER else [])]))
        return jobs

    def path(self, name: str) -> Path:
        """A file of the results."""
        return self.folder / "results" / "smoke" / name


def copy_project(folder: Path) -> Path:
    """Everything git would keep, without results."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = copy_project(tmp_path_factory.mktemp("project"))
    (folder / "linear.py").write_text(PURIFIER)
    config = yaml.safe_load((folder / "config" / "smoke.yaml").read_text())
    linear = {"kind": "python", "path": "linear.py", "factory": "make_purifier", "params": {"seed": 1}}
    config["purifiers"]["linear"] = linear
    for key in ("controls", "randomness", "jacobian"):
        config["run"][key].append("linear")
    (folder / "smoke_linear.yaml").write_text(yaml.safe_dump(config))
    return Project(folder, Path("smoke_linear.yaml"))


def run_once(project: Project, place: Path) -> None:
    """Leave a finished run in `place`; of several test processes the first makes it and the others wait."""
    with FileLock(f"{place}.lock"):
        if place.exists():
            return
        notes = project.folder / "executed"
        notes.mkdir()
        traced = {"PYTHONPATH": str(Path(__file__).parent / "executed"), "EXECUTED_FOLDER": str(notes)}
        done = project.snakemake("--cores", "2", "--", "results/tables", environment=traced)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        shutil.copytree(project.folder, place)


@pytest.fixture(scope="session")
def finished(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Finished run; every job has noted which project code it executed in the folder `executed`."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    run_once(project, place)
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(place, folder)
    return Project(folder, project.config)


@pytest.fixture(scope="session")
def author(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Whoever ran the workflow and pushed the results to a folder."""
    from tests.workflow.clones import share

    place = tmp_path_factory.mktemp("author")
    return share(finished, place / "project", place / "remote")


@pytest.fixture(scope="session")
def reader(author: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Whoever cloned and pulled; tests work on copies."""
    clone = author.clone(tmp_path_factory.mktemp("reader") / "project")
    clone.run("dvc", "pull")
    return clone
