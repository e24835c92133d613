"""A run that is held at a chosen moment: stopped, doubled, left without its Snakemake, or failing in one job."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from typing import Any

import pytest

from tests.workflow.conftest import SNAKEMAKE, copy_project
from tests.workflow.runs import Copy, Run, save_every_step, smallest

# Holds inside the attack, after its first state is in the journal, for as long as a file is there.
HELD = """
import time
from pathlib import Path


def make_purifier(params, image_shape, device):
    def purify(images, noise):
        while params["hold"] and Path("hold").exists() and any(Path("results/stopped/journal").rglob("state")):
            Path("held").touch()
            time.sleep(0.02)
        return images * params["strength"]

    return purify
"""
FAILING = """
def make_purifier(params, image_shape, device):
    def purify(images, noise):
        raise ValueError("expected fair weather, got rain")

    return purify
"""
REPAIRED = FAILING.replace('raise ValueError("expected fair weather, got rain")', "return images")


def purifier(path: str, **params: Any) -> dict[str, Any]:
    return {"kind": "python", "path": path, "factory": "make_purifier", "params": params}


def adversarial(name: str) -> str:
    return f"results/stopped/adversarial/strong/{name}.safetensors"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Dataset, classifier and the attack on a purifier that nothing holds."""
    copy = Copy(copy_project(tmp_path_factory.mktemp("stopped")), "stopped")
    save_every_step(copy.folder)
    (copy.folder / "held.py").write_text(HELD)
    (copy.folder / "failing.py").write_text(FAILING)
    free = {f"free_{strength}": purifier("held.py", hold=False, strength=strength / 10) for strength in (9, 5)}
    copy.configure(smallest("results/stopped", **free))
    copy.finish(*map(adversarial, free))
    return copy


def hold(copy: Copy, run: Run) -> None:
    """Wait until the run is inside its attack."""
    assert run.wait_for((copy.folder / "held").exists), run.text()[-4000:]


@pytest.fixture
def held(copy: Copy) -> Copy:
    """The same with another purifier, whose attack will stop in the middle."""
    entries = {
        "held": purifier("held.py", hold=True, strength=0.9),
        "free_9": purifier("held.py", hold=False, strength=0.9),
    }
    copy.configure(smallest("results/stopped", **entries))
    (copy.folder / "hold").touch()
    for path in (copy.folder / "held", copy.folder / adversarial("held")):
        path.unlink(missing_ok=True)
    return copy


def test_a_second_run_is_refused_and_a_killed_attack_resumes_in_the_middle(held: Copy) -> None:
    with held.start(adversarial("held")) as run:
        hold(held, run)
        with held.start("results/stopped/compression/free_9.parquet", name="second") as second:
            assert second.end() != 0
        sentence = f"expected no other run in results/stopped, got process {run.process.pid} — wait for it, end it"
        assert sentence in second.text(), second.text()[-3000:]
        assert run.process.poll() is None
        run.kill()
    assert not (held.folder / adversarial("held")).exists()
    (held.folder / "hold").unlink()
    held.finish(adversarial("held"))
    assert "attack: resuming at" in (held.results / "logs/attack_images/strong/held.log").read_text()
    assert (held.folder / adversarial("held")).read_bytes() == (held.folder / adversarial("free_9")).read_bytes()
    assert list((held.results / "journal").rglob("state")) == []


def test_a_journal_of_other_settings_is_not_resumed(held: Copy) -> None:
    with held.start(adversarial("held")) as run:
        hold(held, run)
        run.kill()
    held.configure(smallest("results/stopped", held=purifier("held.py", hold=False, strength=0.5)))
    held.finish(adversarial("held"))
    assert "ignoring" in (held.results / "logs/attack_images/strong/held.log").read_text()
    assert (held.folder / adversarial("held")).read_bytes() == (held.folder / adversarial("free_5")).read_bytes()


def test_a_job_left_behind_by_a_killed_snakemake_does_not_spoil_the_next_run(held: Copy) -> None:
    """Not even when the next run asks for something else: its job waits until the other has ended."""
    with held.start(adversarial("held")) as run:
        hold(held, run)
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        assert run.alive()
        held.configure(smallest("results/stopped", held=purifier("held.py", hold=False, strength=0.5)))
        with held.start(adversarial("held"), name="second") as second:
            assert second.wait_for(lambda: "waiting for another process" in second.text()), second.text()[-3000:]
            (held.folder / "hold").unlink()
            assert second.end() == 0, second.text()[-3000:]
        while run.alive():
            time.sleep(0.02)
    assert (held.folder / adversarial("held")).read_bytes() == (held.folder / adversarial("free_5")).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_fails_leaves_no_process_and_is_finished_by_the_next(held: Copy, number: signal.Signals) -> None:
    """SIGINT as a terminal sends it, to every process; SIGTERM to Snakemake, which lets running jobs finish."""
    rows = "results/stopped/purified/held.parquet"
    (held.folder / rows).unlink(missing_ok=True)
    with held.start(rows) as run:
        hold(held, run)
        if number == signal.SIGINT:
            os.killpg(run.process.pid, number)
        else:
            os.kill(run.process.pid, number)
            assert run.wait_for(lambda: "Will exit after finishing currently running jobs" in run.text())
            (held.folder / "hold").unlink()
        assert run.end() != 0
        assert not run.alive()
    assert not (held.folder / rows).exists()
    (held.folder / "hold").unlink(missing_ok=True)
    held.finish(rows)
    assert (held.folder / adversarial("held")).read_bytes() == (held.folder / adversarial("free_9")).read_bytes()


def messages(text: str) -> set[str]:
    return set(re.findall(r"^Job \d+: (.*)$", text, re.MULTILINE))


def test_a_failed_job_says_why_and_how_to_run_it_alone_while_the_others_finish(held: Copy) -> None:
    entries = {"failing": purifier("failing.py"), "free_9": purifier("held.py", hold=False, strength=0.9)}
    held.configure(smallest("results/stopped", **entries))
    targets = [f"results/stopped/purified/{name}.parquet" for name in entries]
    with held.start(*targets, cores=1) as run:
        assert run.end() != 0
    said = "failing.py, make_purifier: expected it to run, got ValueError in line 4: expected fair weather, got rain"
    assert f"rule attack_images failed: {said}" in run.text()
    assert [(held.folder / target).exists() for target in targets] == [False, True]
    command = re.search(r"to run this job alone: (snakemake .*)", run.text())
    assert command, run.text()[-3000:]
    _, *arguments = shlex.split(command.group(1))
    with held.launch([str(SNAKEMAKE), *arguments], "alone") as alone:
        assert alone.end() != 0
    assert messages(alone.text()) == {"Attacking failing with strong"}
    (held.folder / "failing.py").write_text(REPAIRED)
    assert messages(held.finish(*targets)) == {
        "Attacking failing with strong",
        "Attacking failing with challenge",
        "Purifying with failing under fixed and varied randomness",
    }
