"""Clones of a project whose smoke run is finished, shared through git and a DVC remote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.workflow.conftest import Project

SETTINGS = Path("config/default.yaml")
STAGES = ["dataset", "models", "adversarial", "purified", "compression", "fit", "tables", "figures"]
IDENTITY = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


def environment(home: Path) -> dict[str, str]:
    """No configuration but the clone's own, and this interpreter's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    places = {"HOME": str(home), "DVC_GLOBAL_CONFIG_DIR": str(home), "DVC_SYSTEM_CONFIG_DIR": str(home)}
    places["DVC_SITE_CACHE_DIR"] = str(home / "site")
    return {**kept, **IDENTITY, **places, "AWS_EC2_METADATA_DISABLED": "true", "PATH": path}


def merge(settings: Any, changes: Any) -> Any:
    """Dictionaries merged, the rest replaced, as Snakemake merges configuration files."""
    if not (isinstance(settings, dict) and isinstance(changes, Mapping)):
        return changes
    return {**settings, **{key: merge(settings.get(key), value) for key, value in changes.items()}}


@dataclass(frozen=True)
class Clone:
    """A folder with a git and a DVC history in which the plain commands run the smoke configuration."""

    folder: Path

    def run(self, *command: str, check: bool = True) -> str:
        """Everything the command says."""
        done = subprocess.run(
            command, cwd=self.folder, env=environment(self.folder.parent), capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    def refused(self, *command: str) -> str:
        """What a command says that must fail."""
        done = subprocess.run(
            command, cwd=self.folder, env=environment(self.folder.parent), capture_output=True, text=True, check=False
        )
        assert done.returncode != 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self) -> set[str]:
        return Project(self.folder, SETTINGS).planned()

    def up_to_date(self) -> bool:
        """What README's third command says."""
        return "Nothing to be done" in self.run("snakemake", "--cores", "1", "results/tables")

    def configure(self, changes: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), changes), sort_keys=False))

    def commit(self, message: str = "change") -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def clone(self, folder: Path, remote: str | None = None) -> Clone:
        """A clone with git's files only; its remote is set as `make remote` does."""
        self.run("git", "clone", "--quiet", str(self.folder), str(folder))
        other = Clone(folder)
        other.run("dvc", "remote", "add", "--local", "--default", "storage", remote or self.remote())
        return other

    def remote(self) -> str:
        return self.run("dvc", "config", "remote.storage.url").strip()

    def copy(self, folder: Path) -> Clone:
        """The same clone under another path, times kept; not its cache of lookups."""
        ignored = shutil.ignore_patterns("checksums.json", "tmp", "__pycache__")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=ignored)
        return Clone(folder)

    def results(self, name: str) -> Path:
        return self.folder / "results" / "smoke" / name

    def date(self, order: str) -> None:
        """Give every file the same time, times against the order of making, or times in the future."""
        files = [p for p in self.folder.rglob("*") if p.is_file() and not {".git", ".dvc"} & set(p.parts)]
        for path in files:
            parts = path.relative_to(self.folder).parts
            made = next((i for i, stage in enumerate(STAGES, 1) if stage in parts), 9 if "results" in parts else 0)
            shift = {"same": 0, "reversed": -1000 * made, "future": 10**8 + 1000 * made}[order]
            moment = time.time() - 10**5 + shift
            moment = moment if order != "same" else 1.7e9
            os.utime(path, (moment, moment))


def share(finished: Project, folder: Path, remote: Path) -> Clone:
    """A finished run as its author pushes it: configuration in its usual place, recorded by DVC."""
    ignored = shutil.ignore_patterns(".git", "__pycache__", "log", "extra.yaml", "checksums.json")
    shutil.copytree(finished.folder, folder, ignore=ignored)
    author = Clone(folder)
    author.configure(yaml.safe_load((finished.folder / finished.config).read_text()))
    pipeline = folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("    deps:\n", "    deps:\n      - linear.py\n"))
    author.run("git", "init", "--quiet", "--initial-branch", "main")
    author.run("dvc", "remote", "add", "--local", "--default", "storage", str(remote))
    author.commit("before the run")
    author.run("dvc", "repro")
    author.run("dvc", "push")
    author.commit("after the run")
    return author
