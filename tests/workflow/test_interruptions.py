"""A run that is killed, stopped or doubled: the next one finishes with the bytes of a run that nothing disturbed."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import SNAKEMAKE, copy_project

KILLS = 25
AIMED = ("Fitting robust accuracy", "Rendering tables", "Drawing figure", "Checking the results")
LINE = re.compile(r"^(?:local)?(?:rule|job) |^Job \d+: ", re.IGNORECASE)
NOT_DATA = ("logs", "benchmarks", "journal", "report.html")  # report.html and benchmarks hold times


def smallest(results: str, **purifiers: dict[str, Any]) -> dict[str, Any]:
    """The smoke configuration with as few jobs as still need every rule."""
    config: dict[str, Any] = yaml.safe_load((Path("config") / "smoke.yaml").read_text())
    only = {key: ["ddpm_200"] for key in ("distances", "randomness", "jacobian")}
    config["run"] |= {"controls": ["identity", *purifiers], **only}
    return {**config, "results": results, "purifiers": purifiers}


@dataclass
class Run:
    """A run of Snakemake in a session of its own, so that all of its processes can be found and killed."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def jobs(self) -> int:
        return sum(bool(LINE.match(line)) for line in self.text().splitlines())

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> bool:
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

    def end(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to every process of the run, and wait until they are gone."""
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
    def start(self, *targets: str, cores: int = 2, name: str | None = None) -> Iterator[Run]:
        log = self.folder / f"{name or self.name}.out"
        command = [str(SNAKEMAKE), "--cores", str(cores), "--configfile", f"{name or self.name}.yaml", "--"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *(targets or ("results/tables",))],
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        run = Run(self.folder, process, log)
        try:
            yield run
        finally:
            if run.alive():
                run.kill()

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


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Copy, Copy]:
    """Two results folders made at once in one copy of the project, with one core each."""
    folder = copy_project(tmp_path_factory.mktemp("pair"))
    left, right = Copy(folder, "left"), Copy(folder, "right")
    for copy in (left, right):
        copy.configure(smallest(f"results/{copy.name}"))
    with left.start(cores=1) as one, right.start(cores=1) as two:
        assert (one.end(), two.end()) == (0, 0), (one.text() + two.text())[-6000:]
    return left, right


def save_every_step(folder: Path) -> None:
    path = folder / "workflow_scripts" / "journal.py"
    changed = path.read_text().replace("INTERVAL = 10.0", "INTERVAL = 0.0").replace("SHARE = 50.0", "SHARE = 0.0")
    assert changed.count(" = 0.0 ") == 2
    path.write_text(changed)


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A run that was killed again and again, at moments drawn from a seed, then finished."""
    copy, rng = Copy(copy_project(tmp_path_factory.mktemp("survivor")), "killed"), random.Random(0)
    save_every_step(copy.folder)
    copy.configure(smallest("results/killed"))
    moments: list[int | str] = [rng.randrange(5) for _ in range(KILLS - len(AIMED))]
    for moment in (*moments, *AIMED):
        with copy.start() as run:
            if isinstance(moment, str):
                reached = run.wait_for(lambda run=run, moment=moment: moment in run.text())
            else:
                reached = run.wait_for(lambda run=run, moment=moment: run.jobs() >= moment)
            assert reached, run.text()[-6000:]
            time.sleep(rng.uniform(0, 2.5))
            run.kill()
        copy.note()
    copy.finish()
    return copy


def test_two_runs_at_once_in_two_folders_do_not_disturb_each_other(pair: tuple[Copy, Copy]) -> None:
    left, right = (copy.outputs() for copy in pair)
    assert len(left) > 80 and left == right


def test_a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not(survivor: Copy, pair: tuple[Copy, Copy]) -> None:
    """Also: another folder and another number of cores."""
    assert survivor.kills >= 25
    assert survivor.outputs() == pair[0].outputs()


def test_no_kill_leaves_anything_but_whole_results(survivor: Copy) -> None:
    final = survivor.outputs()
    assert len(survivor.seen) > 30
    assert {name: {final[name]} for name in survivor.seen} == survivor.seen


def test_kills_hit_many_kinds_of_jobs(survivor: Copy) -> None:
    kinds = {name.partition("/")[0] for name in survivor.hit}
    assert len(kinds) >= 5, survivor.hit


def test_nothing_is_left_over(survivor: Copy) -> None:
    files = [path for path in survivor.results.rglob("*") if path.is_file()]
    assert [path for path in files if path.name.startswith(".")] == []
    journals = [path.name for path in files if "journal" in path.relative_to(survivor.results).parts]
    assert journals == ["run.lock"]
    assert "Nothing to be done" in survivor.finish()
