"""Journals on disk are used by the same job only and never trusted when damaged; locks end with their process."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from adversarial_files import write_images

from purification.data import Dataset, load_dataset
from purification.defence import Defence
from purification.journal import Journal
from purification.measure.whole_audit import Twins
from purification.models.denoisers import Denoiser
from purification.purifiers import Purifier, make_purifier
from purification.schedule import Schedule
from workflow_scripts.audit_gradients import audit_gradients
from workflow_scripts.compute_jacobian import compute_jacobian
from workflow_scripts.job import job, replacing, replacing_in
from workflow_scripts.journal import FileJournal, collect_rows, digest, resuming
from workflow_scripts.locking import Run
from workflow_scripts.measure_compression import measure_compression
from workflow_scripts.measure_distances import measure_distances
from workflow_scripts.measure_randomness import measure_randomness

STATE = {"x": torch.tensor([0.1, -0.0, torch.inf]), "turn": torch.tensor(7), "mask": torch.tensor([True, False])}
KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def journal(tmp_path: Path) -> FileJournal:
    return FileJournal(tmp_path / "journal", KEY, interval=0.0)


def test_a_state_comes_back_with_its_bits_and_types(journal: FileJournal, tmp_path: Path) -> None:
    assert journal.load() == {}
    journal.save(lambda: STATE)
    loaded = FileJournal(journal.folder, KEY).load()
    assert loaded.keys() == STATE.keys()
    for name, value in STATE.items():
        assert loaded[name].dtype == value.dtype and loaded[name].numpy().tobytes() == value.numpy().tobytes()
    assert [path.name for path in journal.folder.iterdir()] == ["state"]


def test_a_state_of_other_settings_is_not_used(journal: FileJournal, caplog: pytest.LogCaptureFixture) -> None:
    journal.save(lambda: STATE)
    assert FileJournal(journal.folder, OTHER).load() == {}
    assert "made with other settings, code or inputs" in caplog.text


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated by one byte": lambda content: content[:-1],
    "truncated in the header": lambda content: content[:70],
    "empty": lambda content: b"",
    "one bit of the state": lambda content: flip(content, len(content) - 1),
    "one bit of the checksum": lambda content: flip(content, 100),
    "one bit of the key": lambda content: flip(content, 0),
    "zeros, as after a power loss": lambda content: bytes(len(content)),
    "something appended": lambda content: content + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_state_is_not_used(
    journal: FileJournal, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    journal.save(lambda: STATE)
    path = journal.folder / "state"
    path.write_bytes(damage(path.read_bytes()))
    assert journal.load() == {}
    assert f"ignoring {path}" in caplog.text


def test_a_state_is_written_when_time_is_up_or_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("workflow_scripts.journal.time.monotonic", lambda: now)
    journal, asked = FileJournal(tmp_path, KEY, interval=10.0), []

    def state() -> dict[str, torch.Tensor]:
        nonlocal now
        asked.append(now)
        now += 1.0  # a slow disk: one second per write
        return STATE

    for second in range(5, 120, 5):
        now = max(now, float(second))
        journal.save(state)
    assert asked == [10.0, 65.0]  # then not before 50 times the duration of the last write
    journal.save(state, last=True)
    assert len(asked) == 3


def test_parts_are_journals_of_their_own(journal: FileJournal) -> None:
    journal.part("0").save(lambda: STATE)
    assert journal.load() == journal.part("1").load() == {}
    assert journal.part("0").load().keys() == STATE.keys()


def test_a_full_disk_costs_the_journal_and_not_the_job(
    journal: FileJournal, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    journal.folder.write_text("a file where the folder should be")
    journal.save(lambda: STATE)
    assert "could not write the journal" in caplog.text


def wired(folder: Path, **changes: Any) -> Any:
    """A stand-in for the object that Snakemake gives a script."""
    (folder / "input").write_text(changes.pop("content", "images"))
    fields: dict[str, Any] = {
        "config": {"results": str(folder / "results")}, "rule": "attack_images", "wildcards": ["fixed", "ddpm_25"],
        "params": {"settings": {"steps": 5, "epsilon": 0.1}, "code": "abc"}, "input": [str(folder / "input")],
        "output": ["results/x.safetensors"], "log": [str(folder / "job.log")], "threads": 1,
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def test_a_journal_outlives_a_failure_and_ends_with_success(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), resuming(wired(tmp_path)) as kept:
        kept.save(lambda: STATE, last=True)
        raise RuntimeError
    with resuming(wired(tmp_path)) as kept:
        assert kept.load().keys() == STATE.keys()
        assert kept.folder == tmp_path / "results" / "journal" / "attack_images" / "fixed" / "ddpm_25"
    with resuming(wired(tmp_path)) as kept:
        assert kept.load() == {} and not kept.folder.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"settings": {"steps": 6, "epsilon": 0.1}, "code": "abc"}},
        {"params": {"settings": {"steps": 5, "epsilon": 0.1 + 1e-16}, "code": "abc"}},
        {"params": {"settings": {"steps": 5, "epsilon": 0.1}, "code": "abd"}},
        {"content": "other images"},
        {"rule": "measure_attack_strength"},
    ],
    ids=str,
)
def test_a_journal_depends_on_everything_the_job_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    one, other = (
        digest(case.rule, case.params, case.input) for case in (wired(tmp_path), wired(tmp_path)) if case is not None
    )
    assert one == other
    case = wired(tmp_path, **changes)
    assert digest(case.rule, case.params, case.input) != one


def test_a_failed_job_shows_the_end_of_its_log_and_how_to_run_it_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PURIFICATION_CONFIGFILES", "'my config.yaml'")
    with pytest.raises(SystemExit), job(wired(tmp_path)):
        for number in range(1000):
            logging.getLogger("purification").info("line %d of the loop", number)
        raise ValueError("expected steps <= 5, got 6 — lower steps")
    shown = capsys.readouterr().err
    assert "line 999 of the loop" in shown and "line 900 of the loop" not in shown
    assert shown.rstrip().endswith("rule attack_images failed: expected steps <= 5, got 6 — lower steps")
    command = "snakemake --cores 1 --configfile 'my config.yaml' -- results/x.safetensors"
    assert f"to run this job alone: {command}\n" in shown
    assert len((tmp_path / "job.log").read_text().splitlines()) > 1000


def test_a_job_waits_for_a_process_that_still_works_on_it(tmp_path: Path) -> None:
    program = (
        "import sys, types; from workflow_scripts.job import job\n"
        "with job(types.SimpleNamespace(log=[sys.argv[1]], threads=1)):\n"
        "    print('working', flush=True); sys.stdin.readline(); open(sys.argv[1] + sys.argv[2], 'w')"
    )
    log = tmp_path / "job.log"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(log), ".first"], **pipes) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == b"working\n"
        log.unlink()  # as Snakemake does before it starts the job again
        # nothing holds the second one back but the first
        command = [sys.executable, "-c", program, str(log), ".second"]
        with subprocess.Popen(command, **{**pipes, "stdin": subprocess.DEVNULL}) as second:
            assert second.stderr and second.stdout
            assert second.stderr.readline().startswith(b"waiting for another process")
            first.communicate(b"go on\n")
            assert second.stdout.readline() == b"working\n"
            assert Path(f"{log}.first").exists()
    assert first.returncode == second.returncode == 0


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from workflow_scripts.job import replacing, replacing_in\n"
        "with replacing(sys.argv[1] + '/rows.parquet') as a, replacing_in(Path(sys.argv[1])) as b:\n"
        "    a.write_text('half'); (b / 'weights').write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    assert not (tmp_path / "rows.parquet").exists() and len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "rows.parquet") as temporary:
        temporary.write_text("whole")
    with replacing_in(tmp_path) as folder:
        assert list(folder.iterdir()) == []
        (folder / "config.json").write_text("whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "rows.parquet": "whole",
        "config.json": "whole",
    }


def test_a_second_run_is_refused_until_the_first_has_ended_in_any_way(tmp_path: Path) -> None:
    path = tmp_path / "results" / "journal" / "run.lock"
    program = (
        "import sys; from pathlib import Path; from workflow_scripts.locking import Run\n"
        "run = Run(Path(sys.argv[1])); run.start(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        planned_meanwhile = Run(path)
        with pytest.raises(ValueError, match=rf"expected no other run in .*results, got process {holder.pid} — wait"):
            planned_meanwhile.start()
        holder.kill()
        holder.wait()
    planned_meanwhile.start()


def test_a_plan_made_before_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    stale, other = Run(path), Run(path)
    other.start()
    other.file.close()
    with pytest.raises(ValueError, match="got a run in between — start this one again"):
        stale.start()
    stale.file.close()
    Run(path).start()


# --- measurements

SETTINGS: dict[str, Any] = {
    **{"seed": 0, "device": "cpu", "batch_size": 4, "gradient_batch_size": 4, "subset": "test", "norm": "linf"},
    **{"epsilon": 0.1, "images": 5, "samples": 3, "probe_scales": [0.5, 1.0]},
    **{"spectrum": "full", "directions": 2, "probes": 3, "iterations": 2, "small_scale": 0.1},
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset({"kind": "digits", "size": 8, "splits": {"train": 10, "validation": 10, "test": 10}}, 0)


@pytest.fixture(scope="module")
def twins(dataset: Dataset) -> dict[str, Purifier]:
    """A purifier and its twin, whose denoiser bends and mixes pixels."""
    entry = {"kind": "diffusion", "sampler": "ddpm", "variance": "fixed_small", "t_star": 50, "steps": 2}
    options = {"forward_noise": True, "clip": "none", "clamp_output": False}
    made = {}
    for name, factor in (("trained", 0.7), ("null", 0.2)):
        denoiser = Denoiser(lambda u, level, f=factor: torch.tanh(f * u + u.roll(1, -1)), Schedule(1e-4, 0.02, 1000))
        made[name] = make_purifier({**entry, **options}, denoiser, dataset.shape, torch.device("cpu"))
    return made


def distances(
    dataset: Dataset, twins: dict[str, Purifier], settings: dict[str, Any], *, output: Path, journal: Journal
) -> None:
    images, _, ids = dataset.take("test", settings["images"])
    adversarial = output.with_name("adversarial.safetensors")
    write_images((images + 0.1).clamp(0, 1), ids, adversarial)
    measure_distances(dataset, twins, adversarial, settings, output=output, journal=journal)


def spectra(
    dataset: Dataset, twins: dict[str, Purifier], settings: dict[str, Any], *, output: Path, journal: Journal
) -> None:
    compute_jacobian(dataset, twins, {**settings, "images": 2}, 1e9, output=output, journal=journal)


class Stopped(Exception):
    """The process ends here."""


class Stopping(FileJournal):
    """A journal that writes every state and ends the process after one of them."""

    left: int

    def save(self, state: Callable[[], dict[str, torch.Tensor]], *, last: bool = False) -> None:
        super().save(state, last=True)
        self.left -= 1
        if self.left == 0:
            raise Stopped


def audits(
    dataset: Dataset, twins: dict[str, Purifier], settings: dict[str, Any], *, output: Path, journal: Journal
) -> None:
    weights = torch.linspace(-1, 1, 640).sin().view(64, 10)
    defence = Defence(twins["trained"], lambda x: x.flatten(1) @ weights.to(x.dtype), 2)
    plain, closeness = Twins(defence, defence), {"directions": 2, "changes": 2}
    common = {"kind": "pgd", "knowledge": "both", "norm": "linf", "epsilon": 0.1, "loss": "ce"}
    attacks = {gradient: {**common, "gradient": gradient} for gradient in ("replay", "bpda")}
    seen = dict.fromkeys(attacks, plain)
    audit_gradients(dataset, plain, seen, attacks, {**settings, **closeness}, 1e9, output=output, journal=journal)


MEASUREMENTS = {
    "audit": (audits, 3),
    "compression": (measure_compression, 10),
    "randomness": (measure_randomness, 10),
    "distances": (distances, 12),
    "Jacobian": (spectra, 4),
}


@pytest.mark.parametrize("kind", MEASUREMENTS)
def test_an_interrupted_measurement_goes_on_to_the_same_bytes(
    tmp_path: Path, dataset: Dataset, twins: dict[str, Purifier], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped after every item in turn, it never works on an item twice and ends with the bytes of an unbroken run."""
    measure, items = MEASUREMENTS[kind]
    whole, output = tmp_path / "whole.parquet", tmp_path / "rows.parquet"
    unbroken = Stopping(tmp_path / "unbroken", KEY)
    unbroken.left = -1
    measure(dataset, twins, SETTINGS, output=whole, journal=unbroken)
    assert -1 - unbroken.left == items
    for done in range(items):
        journal = Stopping(tmp_path / "journal", KEY)
        journal.left = 1
        with pytest.raises(Stopped):
            measure(dataset, twins, SETTINGS, output=output, journal=journal)
        assert len(FileJournal(journal.folder, KEY).load()) == done + 1 and not output.exists()
    measure(dataset, twins, SETTINGS, output=output, journal=FileJournal(tmp_path / "journal", KEY))
    assert output.read_bytes() == whole.read_bytes()


def test_rows_that_were_kept_are_taken_from_the_journal(journal: FileJournal) -> None:
    """A journal with other rows than the work would give shows whether they are worked out again."""
    first = collect_rows([1, 2], lambda item: pd.DataFrame({"x": [item], "y": [[0.1 * item] * 2]}), "rows", journal)
    again = collect_rows([1, 2, 3], lambda item: pd.DataFrame({"x": [-item], "y": [[0.0]]}), "rows", journal)
    assert list(first.x) == [1, 2] and list(again.x) == [1, 2, -3]
    assert list(again.y[1]) == [0.2, 0.2]
