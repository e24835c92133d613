"""Runs of Snakemake that can be watched, stopped and killed, and what they leave behind."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.workflow.conftest import ROOT, SNAKEMAKE

NOT_DATA = ("logs", "benchmarks", "journal", "report.html", "checksums.txt")  # times, and hashes of them


def smallest(results: str, **purifiers: dict[str, Any]) -> dict[str, Any]:
    """The smoke configuration with as few jobs as still need every rule."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    only = {key: ["ddpm_150"] for key in ("distances", "randomness", "jacobian")}
    config["run"] |= {"controls": ["identity", *purifiers], **only}
    return {**config, "results": results, "purifiers": {**config["purifiers"], **purifiers}}


def listen_to_interrupts() -> None:
    """Let a child process end on SIGINT, also where its parent ignores it (as processes in the background do)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Run:
    """A run of Snakemake in a session of its own, so that all of its processes can be found and killed."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def reached(self, moment: int | str) -> bool:
        """Whether so many jobs are finished, or the run has said this."""
        text = self.text()
        return text.count("\nFinished jobid") >= moment if isinstance(moment, int) else moment in text

    def wait_for(self, condition: Callable[[], bool], seconds: float = 600) -> bool:
        """Whether the condition came true before the run ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()[-4000:]
            if self.process.poll() is not None:
                return condition()
            time.sleep(0.02)
        return True

    def alive(self) -> bool:
        """Whether any process of the run is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def end(self, seconds: float = 600) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to every process of the run, and wait until they are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while self.alive():
            time.sleep(0.01)


@dataclass
class Copy:
    """A copy of the project and the run of one configuration in it."""

    folder: Path
    name: str
    kills: int = 0
    hit: set[str] = field(default_factory=set)
    seen: dict[str, set[str]] = field(default_factory=dict)

    @contextmanager
    def launch(self, command: list[str], name: str) -> Iterator[Run]:
        """Run a command in the folder; whatever is left of it is killed at the end of the block."""
        log = self.folder / f"{name}.out"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=listen_to_interrupts,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        run = Run(self.folder, process, log)
        try:
            yield run
        finally:
            if run.alive():
                run.kill()

    def start(self, *targets: str, cores: int = 2, name: str = "") -> AbstractContextManager[Run]:
        """Run Snakemake in the folder; a second one beside the first needs a name for its output."""
        command = [str(SNAKEMAKE), "--cores", str(cores), "--configfile", f"{self.name}.yaml", "--"]
        return self.launch([*command, *(targets or ("results/tables",))], name or self.name)

    def finish(self, *targets: str, cores: int = 2) -> str:
        with self.start(*targets, cores=cores) as run:
            assert run.end() == 0, run.text()[-6000:]
        return run.text()

    def configure(self, config: dict[str, Any]) -> None:
        (self.folder / f"{self.name}.yaml").write_text(yaml.safe_dump(config))

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.name

    def incomplete(self) -> set[str]:
        """Outputs that Snakemake has marked as unfinished, relative to the folder."""
        markers = (self.folder / ".snakemake" / "incomplete").rglob("*")
        names = [str(path.relative_to(self.folder / ".snakemake" / "incomplete")) for path in markers if path.is_file()]
        return {base64.b64decode(name.replace("/", "").removesuffix("=") + "==").decode() for name in names}

    def outputs(self) -> dict[str, str]:
        """Hash of everything that counts as a result, by its path below the results folder."""
        found, incomplete = {}, self.incomplete()
        for path in self.results.rglob("*"):
            name = path.relative_to(self.results)
            hidden = any(part.startswith(".") for part in name.parts)
            finished = str(path.relative_to(self.folder)) not in incomplete
            if path.is_file() and finished and not hidden and name.parts[0] not in NOT_DATA:
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def note(self) -> None:
        """Write down what a kill has left."""
        self.kills += 1
        for name, content in self.outputs().items():
            self.seen.setdefault(name, set()).add(content)
        self.hit |= {"/".join(Path(name).parts[2:4]) for name in self.incomplete()}


def save_every_step(folder: Path) -> None:
    """Let the journals of a copy of the project be written at every chance."""
    path = folder / "workflow_scripts" / "journal.py"
    changed = path.read_text().replace("INTERVAL = 10.0", "INTERVAL = 0.0").replace("SHARE = 50.0", "SHARE = 0.0")
    assert changed.count(" = 0.0 ") == 2
    path.write_text(changed)
