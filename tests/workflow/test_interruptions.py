"""A run that is killed again and again ends with the bytes of a run that nothing disturbed."""

from __future__ import annotations

import random
import shutil
import time

import pytest

from tests.workflow.conftest import Project, copy_project
from tests.workflow.runs import Copy, save_every_step, smallest

KILLS = 25
AIMED = ("Fitting robust accuracy", "Rendering tables", "Drawing figure", "Checking the results")


@pytest.fixture(scope="module")
def undisturbed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The finished run with its tables and figures drawn from the purifiers of the smallest configuration."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(finished.folder, folder)
    copy = Copy(folder, "smoke")
    copy.configure(smallest("results/smoke"))
    text = copy.finish()
    assert "Purifying" not in text and "Attacking" not in text
    return copy


def killed(copy: Copy, moment: int | str, delay: float) -> bool:
    """Kill a run some seconds after a moment; whether it came to that before everything was done."""
    with copy.start() as run:
        reached = run.wait_for(lambda: run.reached(moment))
        time.sleep(delay)
        running = run.process.poll() is None
        assert running or run.end() == 0, run.text()[-6000:]
        run.kill()
    return reached and running


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A run that was killed again and again, at moments drawn from a seed, then finished."""
    copy, rng = Copy(copy_project(tmp_path_factory.mktemp("survivor")), "killed"), random.Random(0)
    save_every_step(copy.folder)
    copy.configure(smallest("results/killed"))
    # jobs finished before the kill: few enough that the aimed kills still find something to hit
    for moment in (*(rng.choice((0, 0, 1, 1, 2)) for _ in range(KILLS - len(AIMED))), *AIMED):
        while not killed(copy, moment, rng.uniform(0, 1.0 if moment in AIMED else 2.5)):
            shutil.rmtree(copy.results)
        copy.note()
    copy.finish(cores=1)
    return copy


def test_a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not(survivor: Copy, undisturbed: Copy) -> None:
    """In another folder, too, and with one core at last instead of two."""
    assert survivor.kills >= 25
    outputs, expected = survivor.outputs(), undisturbed.outputs()
    assert len(outputs) > 80 and outputs == {name: expected.get(name) for name in outputs}


def test_no_kill_leaves_anything_but_whole_results(survivor: Copy) -> None:
    final = survivor.outputs()
    assert len(survivor.seen) > 30
    assert {name: {final[name]} for name in survivor.seen} == survivor.seen


def test_kills_hit_many_kinds_of_jobs(survivor: Copy) -> None:
    kinds = {name.partition("/")[0] for name in survivor.hit}
    assert len(kinds) >= 5, survivor.hit


def test_nothing_is_left_over(survivor: Copy) -> None:
    files = [path for path in survivor.results.rglob("*") if path.is_file()]
    assert [path for path in files if path.name.startswith(".") and path.suffix != ".lock"] == []
    journals = [path.name for path in files if "journal" in path.relative_to(survivor.results).parts]
    assert journals == ["run.lock"]
    assert "Nothing to be done" in survivor.finish()


def test_two_runs_at_once_in_two_folders_do_not_disturb_each_other(survivor: Copy, undisturbed: Copy) -> None:
    """With one core each; the run they are compared with had two cores and another folder."""
    pair = [Copy(survivor.folder, "left"), Copy(survivor.folder, "right")]
    for copy in pair:
        copy.configure(smallest(f"results/{copy.name}"))
    targets = [[f"results/{copy.name}/purified/{name}.parquet" for name in ("identity", "ddpm_25")] for copy in pair]
    with pair[0].start(*targets[0], cores=1) as one, pair[1].start(*targets[1], cores=1) as two:
        assert (one.end(), two.end()) == (0, 0), (one.text() + two.text())[-6000:]
    left, right = (copy.outputs() for copy in pair)
    expected = undisturbed.outputs()
    assert len(left) >= 15 and left == right == {name: expected.get(name) for name in left}
