"""The forecast counts what jobs really do, plans what Snakemake plans, and extrapolates what it cannot run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from adversarial_files import write_images
from torch import Tensor

from purification import defence as defences
from purification.data import Dataset
from purification.defence import Defence
from purification.models.denoisers import Denoiser
from purification.models.loading import PUBLISHED
from purification.purifiers import Purifier, make_purifier
from purification.schedule import Schedule
from workflow_scripts import attacking, clouds, compute_jacobian, fit_null_model
from workflow_scripts.attack_images import attack_images
from workflow_scripts.compute_jacobian import SPECTRA
from workflow_scripts.compute_jacobian import compute_jacobian as jacobians
from workflow_scripts.cost_plan import Job, makespan, plan
from workflow_scripts.cost_probe import NETWORKS, PROBES, TRAININGS, Laboratory, measure
from workflow_scripts.cost_units import ATTACKS, WORK, Context, Unit, Work, entry_of
from workflow_scripts.estimate_cost import Forecast, duration
from workflow_scripts.measure_compression import measure_compression
from workflow_scripts.measure_randomness import measure_randomness
from workflow_scripts.purify_images import purify_images

ROOT = Path(__file__).parents[2]
SCHEDULE = {"beta_start": 1e-4, "beta_end": 2e-2, "train_steps": 1000}
DDPM: dict[str, Any] = {
    **{"kind": "diffusion", "denoiser": "unet", "sampler": "ddpm", "variance": "fixed_small", "t_star": 40, "steps": 3},
    **{"forward_noise": True, "clip": "none", "clamp_output": False, "schedule": SCHEDULE},
}
ATTACK: dict[str, Any] = {
    **{"kind": "pgd", "knowledge": "none", "images": 7, "steps": 3, "step_size": 0.5, "random_start": False},
    **{"loss": "ce", "gradient": "replay", "draws": 2, "select": "last", "stop_when_broken": False},
    **{"norm": "linf", "epsilon": 0.1, "restarts": 1},
}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test", "norm": "linf", "epsilon": 0.1}
CONFIG: dict[str, Any] = {
    **{"batch_size": 4, "gradient_batch_size": 3, "null_denoiser": "gaussian", "transfer_attack": "transfer"},
    "attacks": {"fixed": {"images": 5}, "transfer": {"images": 6}},
}
CONTEXT = Context(CONFIG, (1, 4, 4))


def job(script: str, null: bool = False, **params: Any) -> Job:
    return Job(script, script, params, null, 1, ())


def total(work: Work, *kinds: str) -> int:
    return sum(count for unit, count in work.items() if unit.kind in kinds)


# --- nothing is forgotten


def test_every_script_of_a_rule_has_a_cost() -> None:
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert set(re.findall(r"workflow_scripts/(\w+)\.py", text)) == set(WORK)


def test_every_kind_of_attack_has_a_cost() -> None:
    assert set(ATTACKS) == set(attacking.ATTACKS)


@pytest.mark.parametrize(
    ("entry", "known"),
    [("denoiser", {*NETWORKS}), ("classifier", {"python", *TRAININGS, *PUBLISHED} - {*NETWORKS})],
    ids=["denoiser", "classifier"],
)
def test_every_kind_of_network_can_be_made_untrained(entry: str, known: set[str]) -> None:
    schema = yaml.safe_load((ROOT / "config" / "schema.yaml").read_text())
    assert known == set(schema["$defs"][entry]["properties"]["kind"]["enum"])


@pytest.mark.parametrize("files", [[], ["config/smoke.yaml"]], ids=["default", "smoke"])
def test_the_plan_is_snakemakes_own(files: list[str]) -> None:
    made = plan([ROOT / name for name in files], "results/tables", ROOT / "Snakefile", forceall=True)
    command = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--quiet", "rules", "--cores", "1"]
    if files:
        command += ["--configfile", *files]
    said = subprocess.run([*command, "--", "results/tables"], cwd=ROOT, capture_output=True, text=True, check=True)
    counts = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", said.stdout + said.stderr, re.MULTILINE)}
    counts.pop("total")
    assert counts and Counter(job.rule for job in made.jobs) == counts
    assert {unit.kind for job in made.jobs for unit in WORK[job.script](job, Context(made.config, (1, 16, 16)))} <= set(
        PROBES
    )


# --- units are what jobs really do


@pytest.fixture
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    return Dataset(torch.rand(20, 1, 4, 4, generator=generator), torch.arange(20) % 3, {"test": list(range(20))})


@pytest.fixture
def purifier() -> Purifier:
    denoiser = Denoiser(lambda u, level: torch.tanh(u + u.roll(1, -1)), Schedule(**SCHEDULE))
    return make_purifier(DDPM, denoiser, (1, 4, 4), torch.device("cpu"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often batches are purified, differentiated and classified from here on."""
    counted: Counter[str] = Counter()

    def count(place: Any, name: str, kind: str) -> None:
        original = getattr(place, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[kind] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(place, name, counting)

    count(defences, "gradient", "gradient")
    count(defences, "purify", "purify")
    count(clouds, "purify", "purify")
    count(compute_jacobian.jacobian, "gradient", "pull")
    count(compute_jacobian.jacobian, "push", "push")
    return counted


def guarded(purifier: Purifier) -> Defence:
    weights = torch.linspace(-1, 1, 48).sin().view(16, 3)
    return Defence(purifier, lambda x: x.flatten(1) @ weights.to(x.dtype), 4, gradient_batch_size=3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"draws": 1},
        {"steps": 1, "images": 3},
        {"gradient": "bpda"},
        {"restarts": 2, "random_start": True, "judges": 1},
        {"loss": "targeted_margin", "targets": 2, "judges": 1},
    ],
    ids=str,
)
def test_gradients_of_an_attack(
    dataset: Dataset, purifier: Purifier, calls: Counter[str], tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = {**ATTACK, **changes}
    attack_images(dataset, guarded(purifier), settings, EVALUATION, 1e9, output=tmp_path / "x")
    work = WORK["attack_images"](job("attack_images", purifier=DDPM, settings=settings), CONTEXT)
    assert total(work, "gradient") == calls["gradient"]
    assert {unit.option for unit in work} == {settings["gradient"]}


def test_gradients_of_diffhammer(dataset: Dataset, purifier: Purifier, calls: Counter[str], tmp_path: Path) -> None:
    hammer = {"kind": "diffhammer", "rounds": 2, "temperature": 5.0, "reach": 1.0, "smoothing": 0.5}
    settings = {**ATTACK, **hammer}
    attack_images(dataset, guarded(purifier), settings, EVALUATION, 1e9, output=tmp_path / "x")
    work = WORK["attack_images"](job("attack_images", purifier=DDPM, settings=settings), CONTEXT)
    assert total(work, "gradient") == calls["gradient"] and {unit.option for unit in work} == {"bpda", "replay"}


def test_an_attack_that_stops_early_costs_less_but_every_step_something() -> None:
    full = WORK["attack_images"](job("attack_images", purifier=DDPM, settings={**ATTACK, "images": 300}), CONTEXT)
    stopping = {**ATTACK, "images": 300, "stop_when_broken": True}
    less = WORK["attack_images"](job("attack_images", purifier=DDPM, settings=stopping), CONTEXT)
    few = WORK["attack_images"](job("attack_images", purifier=DDPM, settings={**stopping, "images": 1}), CONTEXT)
    assert total(few, "gradient") == 8 <= total(less, "gradient") < total(full, "gradient")


def test_batches_of_a_judgement(dataset: Dataset, purifier: Purifier, calls: Counter[str], tmp_path: Path) -> None:
    images, _, ids = dataset.take("test", 6)
    for name, n, step in (("fixed", 5, 0.1), ("transfer", 6, -0.1)):
        write_images((images[:n] + torch.where(images[:n] < 0.5, 0.1, step)).clamp(0, 1), ids[:n], tmp_path / name)
    known = {"known_images": 3, "known_draws": 2, "pool": 2, "pools": {"fixed": 3}, "threats": {}}
    settings = {**EVALUATION, "images": 6, "draws": 3, "samples": 2, **known}
    attacks = {name: tmp_path / name for name in ("fixed", "transfer")}
    purify_images(dataset, guarded(purifier), attacks, settings, rows=tmp_path / "rows", samples=tmp_path / "samples")
    work = WORK["purify_images"](job("p", purifier=DDPM, attacks=list(attacks), evaluation=settings), CONTEXT)
    assert total(work, "purify") == calls["purify"]


@pytest.mark.parametrize(
    ("script", "measure_rows", "settings"),
    [
        ("measure_compression", measure_compression, {"images": 3, "samples": 6, "probe_scales": [0.5, 1.0]}),
        ("measure_compression", measure_compression, {"images": 2, "samples": 3, "probe_scales": [1.0]}),
        ("measure_randomness", measure_randomness, {"images": 3, "samples": 5}),
    ],
    ids=["batches", "part of a batch", "randomness"],
)
@pytest.mark.parametrize("null", [False, True])
def test_batches_of_a_cloud(
    dataset: Dataset, purifier: Purifier, calls: Counter[str], tmp_path: Path,
    script: str, measure_rows: Callable[..., None], settings: Mapping[str, Any], null: bool,
) -> None:  # fmt: skip
    twins = {"trained": purifier, **({"null": purifier} if null else {})}
    settings = {**EVALUATION, **settings}
    measure_rows(dataset, twins, settings, output=tmp_path / "rows")
    work = WORK[script](job(script, null, purifier=DDPM, settings=settings), CONTEXT)
    assert total(work, "purify") == calls["purify"]
    assert len({unit.purifier for unit in work}) == 1 + null


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_products_of_a_jacobian(
    spectrum: str, dataset: Dataset, purifier: Purifier, calls: Counter[str], tmp_path: Path
) -> None:
    settings = {**EVALUATION, "images": 2, "probes": 5, "iterations": 3, "small_scale": 0.1, "gradient_batch_size": 3}
    settings |= {"spectrum": spectrum, "directions": 2}
    jacobians(dataset, {"trained": purifier}, settings, 1e9, output=tmp_path / "rows")
    work = WORK["compute_jacobian"](job("j", purifier=DDPM, settings=settings), CONTEXT)
    for kind in ("pull", "push"):
        assert total(work, kind) == calls[kind]


@pytest.mark.parametrize("settings", [{"steps": 7}, {"training": {"steps": 7}, "base": "unet"}], ids=str)
def test_steps_of_a_training(settings: dict[str, Any]) -> None:
    context = Context({**CONFIG, "denoisers": {"unet": {"network": {"layers_per_block": 1}}}}, (1, 4, 4))
    assert total(WORK["train_denoiser"](job("t", settings=settings), context), "train") == 7


def test_purifiers_of_equal_cost_are_measured_once() -> None:
    assert entry_of({**DDPM, "t_star": 10}) == entry_of({**DDPM, "t_star": 700})
    others = ({"t_star": 0}, {"steps": 2}, {"variance": "fixed_large"}, {"clip": "clamp"}, {"denoiser": "gaussian"})
    assert len({entry_of({**DDPM, **change}) for change in ({}, *others)}) == 6


# --- extrapolation


@pytest.mark.parametrize("allowance", [1e9, 20.0], ids=["in full", "from fewer images"])
@pytest.mark.parametrize("steps", [3, 50])
def test_what_is_not_run_is_extrapolated(
    monkeypatch: pytest.MonkeyPatch, dataset: Dataset, allowance: float, steps: int
) -> None:
    """With a clock that counts (2 + 3 images) per denoising step and 7 per call, the forecast of any size is exact."""
    now, largest = 0.0, 0

    def epsilon(u: Tensor, level: Any) -> Tensor:
        nonlocal now, largest
        now, largest = now + 2.0 + 3.0 * len(u), max(largest, len(u))
        return 0.1 * u

    def clocked(lab: Laboratory, run: Callable[[], object]) -> float:
        before = now
        run()
        return 7.0 + now - before

    monkeypatch.setattr(Laboratory, "seconds", clocked)
    monkeypatch.setitem(NETWORKS, "unet", lambda entry, lab, dtype: epsilon)
    config = {"seed": 0, "device": "cpu", "denoisers": {"unet": {"kind": "unet"}}}
    unit = Unit("purify", entry_of({**DDPM, "t_star": 100, "steps": steps}), 64)
    cost = measure(unit, Laboratory(config, dataset, allowance))
    assert cost.seconds == pytest.approx(7 + steps * (2 + 3 * 64))
    assert largest == (64 if allowance > 20 else 2)


@pytest.mark.parametrize("steps", [3, 50])
def test_the_path_of_a_resized_purifier_is_forecast(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setitem(NETWORKS, "unet", lambda entry, lab, dtype: lambda u, level: 0.1 * u)
    dataset = Dataset(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), {"test": list(range(4))}, classes=2)
    config = {"seed": 0, "device": "cpu", "denoisers": {"unet": {"kind": "unet"}}}
    unit = Unit("path", entry_of({**DDPM, "t_star": 100, "steps": steps, "size": 16}), 4)
    assert measure(unit, Laboratory(config, dataset, 1.0)).seconds > 0


@pytest.mark.parametrize("kind", ["gaussian", "stationary"])
def test_a_null_model_is_fitted_as_its_entry_says(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The covariance of whole pictures of ImageNet's size fits no memory."""
    called = Counter[str]()
    for name in ("gaussian", "stationary"):
        monkeypatch.setattr(fit_null_model, f"fit_{name}", lambda *given, name=name: called.update([name]))
    settings = {"kind": kind, "size": 4, "schedule": SCHEDULE}
    dataset = Dataset(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), {"train": [0, 1]}, classes=2)
    (unit,) = WORK["fit_null_model"](job("fit_null_model", settings=settings), CONTEXT)
    assert measure(unit, Laboratory({"seed": 0, "device": "cpu"}, dataset, 1.0)).seconds > 0
    assert set(called) == {kind}


# --- what is said


@pytest.mark.parametrize(
    ("seconds", "needs", "threads", "cores", "expected"),
    [
        ([3, 4], [(), ()], [1, 1], 2, 4),
        ([3, 4], [(), ()], [1, 1], 1, 7),
        ([3, 4], [(), (0,)], [1, 1], 2, 7),
        ([3, 4, 5], [(), (), (0,)], [1, 1, 1], 2, 8),
        ([3, 4], [(), ()], [2, 2], 2, 7),
        ([3, 4], [(), ()], [8, 1], 2, 7),
        ([2, 2, 1], [(), (), (0, 1)], [1, 1, 1], 8, 3),
    ],
)
def test_wall_time_of_jobs_on_cores(
    seconds: list[float], needs: list[tuple[int, ...]], threads: list[int], cores: int, expected: float
) -> None:
    jobs = [Job("r", "s", {}, False, n, waits) for waits, n in zip(needs, threads, strict=True)]
    assert makespan(jobs, seconds, cores) == expected


def test_the_forecast_is_a_table_and_a_sentence() -> None:
    rows = [("train", 100.0, 5e8), ("attack", 30.0, 3e8), ("attack", 50.0, 4e8)]
    made = Forecast(pd.DataFrame(rows, columns=["rule", "seconds", "memory"]), 840.0, 2)
    table = made.stages()
    assert list(table.index) == ["train", "attack", "all"]
    assert list(table.loc["attack"]) == [2, 40.0, 50.0, 80 / 3600, 400.0]
    assert list(table.loc["all"]) == [3, 60.0, 100.0, 180 / 3600, 500.0]
    assert made.sentence("my.yaml") == "my.yaml: 14 min on 2 cores, 0.5 GB per job, 0.9 GB in all"
    assert duration(7100) == "118 min" and duration(7200) == "2.0 h"
