"""Entries of guided and trained defences that cannot run are refused in sentences; those that can are accepted."""

from __future__ import annotations

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from purification import guidance
from workflow_scripts import configuration_entries
from workflow_scripts.configuration import problems
from workflow_scripts.cost_plan import plan

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
SENTENCE = re.compile(r"[^:]+: expected .+, got .+ — .+")
GUIDANCE = {"guide": "image", "distance": "mse", "reference": "noised", "scale": 2000.0, "assumed": 0.1}
GUIDED = {**DEFAULT["purifiers"]["ddpm_25"], "kind": "guided", "rounds": 2, "guidance": GUIDANCE}


TRAINING = {
    "steps": 10,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "warmup": 1,
    "gradient_clip": 1.0,
    "ema": 0.9,
}
LOW = {"low_fraction": 0.5, "low_below": 200}
EDM = {"log_sigma": [-1.2, 1.2], "sigma_data": 0.5}
BALL = {"iterations": 3, "epsilon": 0.1, "step_size": 1.0}
ADDT = {"iterations": 5, "objective": "class", "mapping": "ranks", "mix": "preserving", "strength": 0.1, "limit": 0.3}
TUNED = {
    "kind": "finetuned",
    "base": "unet",
    "schedule": DEFAULT["denoisers"]["unet"]["schedule"],
    "method": "none",
    "levels": "discrete",
    "training": {**TRAINING, **LOW},
}


ROBUST = {
    **DEFAULT["classifiers"]["residual"],
    "kind": "robust",
    "noise": 0.2,
    "adversary": {"iterations": 3, "epsilon": 0.1, "step_size": 0.5, "weight": 6.0},
}
NETWORK = {"guide": "network", "network": "robust", "label": "predicted", "place": "state", "scale": 1.0}
AGDM = {**GUIDED, "guidance": NETWORK}


def agdm(classifier: dict[str, Any] | None = None, **guidance: Any) -> dict[str, Any]:
    changes = purifier(AGDM, guidance={**NETWORK, **guidance})
    return {**changes, "classifiers": {"robust": classifier or ROBUST}}


def denoiser(**changes: Any) -> dict[str, Any]:
    return {"denoisers": {"mine": {**TUNED, **changes}}}


def purifier(base: dict[str, Any], *without: str, **changes: Any) -> dict[str, Any]:
    entry = {key: value for key, value in {**base, **changes}.items() if key not in without}
    return {"purifiers": {"mine": entry}}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "guidance without rounds": (purifier(GUIDED, "rounds"), "purifiers.mine.rounds: expected"),
    "rounds of a plain purifier": (
        purifier(GUIDED, "guidance", kind="diffusion"),
        "purifiers.mine.rounds: expected no such key",
    ),
    "guided ODE": (
        purifier(DEFAULT["purifiers"]["ode_25"], kind="guided", rounds=1, guidance=GUIDANCE),
        "purifiers.mine.sampler: expected 'ddpm'",
    ),
    "unknown guidance": (
        purifier(GUIDED, guidance={**GUIDANCE, "distance": "l2"}),
        "purifiers.mine.guidance.distance: expected one of mse, ssim",
    ),
    "spacing of an ODE": (
        purifier(DEFAULT["purifiers"]["ode_25"], spacing="leading"),
        "purifiers.mine.spacing: expected no such key",
    ),
    "noise beyond the schedule": (
        purifier(DEFAULT["purifiers"]["ddpm_25"], noise_index=1000),
        "purifiers.mine.noise_index: expected less than 1000",
    ),
    "SSIM of small images": (
        {**purifier(GUIDED, guidance={**GUIDANCE, "distance": "ssim"}), "datasets": {"digits": {"size": 8}}},
        "purifiers.mine.guidance.distance: expected mse for images smaller than 11x11",
    ),
    "unknown guide": (agdm(network="robots"), "purifiers.mine.guidance.network: expected a known name, got 'robots'"),
    "guide of one's own": (
        agdm({"kind": "python", "path": __file__, "factory": "agdm", "params": {}}),
        "purifiers.mine.guidance.network: expected a classifier of kind robust or residual",
    ),
    "image guidance of a network": (agdm(distance="mse"), "purifiers.mine.guidance.distance: expected a known key"),
    "unknown label": (agdm(label="true"), "purifiers.mine.guidance.label: expected one of predicted, expected, none"),
    "robust without adversary": (
        agdm({key: value for key, value in ROBUST.items() if key != "adversary"}),
        "classifiers.robust.adversary: expected",
    ),
    "plain classifier with noise": (
        {"classifiers": {"residual": {"noise": 0.1}}},
        "classifiers.residual.noise: expected no such key",
    ),
    "unknown base": (denoiser(base="unit"), "denoisers.mine.base: expected a known name, got 'unit'"),
    "base without a network": (
        denoiser(base="gaussian"),
        "denoisers.mine.base: expected a denoiser of kind unet, diffusers or edm",
    ),
    "schedule of another": (
        denoiser(schedule={**TUNED["schedule"], "beta_end": 0.01}),
        "denoisers.mine.schedule: expected that of its base 'unet'",
    ),
    "unknown method": (denoiser(method="adtd"), "denoisers.mine.method: expected one of none, addt, linf_addt, adbm"),
    "control with an adversary": (denoiser(adversary=ADDT), "denoisers.mine.adversary: expected no such key"),
    "method without an adversary": (denoiser(method="addt"), "denoisers.mine.adversary: expected"),
    "adversary of another method": (
        denoiser(method="addt", adversary=BALL),
        "denoisers.mine.adversary.epsilon: expected a known key",
    ),
    "levels of another method": (
        denoiser(method="adbm", adversary=BALL),
        "denoisers.mine.training.start: expected",
    ),
    "levels of EDM without their distribution": (
        denoiser(levels="edm", training=TRAINING),
        "denoisers.mine.training.log_sigma: expected",
    ),
    "levels of EDM with those of indices": (
        denoiser(levels="edm", training={**TRAINING, **LOW, **EDM}),
        "denoisers.mine.training.low_fraction: expected no such key",
    ),
    "indices with levels of EDM": (
        denoiser(training={**TRAINING, **LOW, **EDM}),
        "denoisers.mine.training.log_sigma: expected no such key",
    ),
    "a bridge on levels of EDM": (
        denoiser(levels="edm", method="adbm", adversary=BALL, training={**TRAINING, **EDM, "start": [1, 2]}),
        "denoisers.mine.method: expected one of none, addt, linf_addt",
    ),
    "starts in disorder": (
        denoiser(method="adbm", adversary=BALL, training={**TRAINING, "start": [200, 100]}),
        "denoisers.mine.training.start: expected two numbers in order",
    ),
    "warmup too long": (
        denoiser(training={**TRAINING, **LOW, "warmup": 11}),
        "denoisers.mine.training.warmup: expected at most steps = 10",
    ),
}
GOOD = {
    "AGDM": agdm(),
    "guided by an ordinary network": agdm(network="residual"),
    "control": denoiser(),
    "ADDT": denoiser(method="addt", adversary=ADDT),
    "Linf-ADDT": denoiser(method="linf_addt", adversary={**BALL, "limit": 10.0}),
    "ADBM": denoiser(method="adbm", adversary=BALL, training={**TRAINING, "start": [100, 200]}),
    "ADDT in EDM": denoiser(levels="edm", method="addt", adversary=ADDT, training={**TRAINING, **EDM}),
    "guided": purifier(GUIDED),
    "ssim": purifier(GUIDED, guidance={**GUIDANCE, "distance": "ssim"}),
    "ADBM's indices": purifier(DEFAULT["purifiers"]["ddim_100"], noise_index=100),
    "ADDT's indices": purifier(DEFAULT["purifiers"]["ddim_100"], t_star=101, steps=11, spacing="leading"),
}


def merged(changes: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(DEFAULT)
    update_config(config, copy.deepcopy(changes))
    return config


@pytest.mark.parametrize("case", CASES)
def test_a_defence_that_cannot_run_is_refused_in_a_sentence(case: str) -> None:
    changes, sentence = CASES[case]
    found = problems(merged(changes))
    assert any(line.startswith(sentence) for line in found), found
    assert all(SENTENCE.fullmatch(line) for line in found), found


@pytest.mark.parametrize("case", GOOD)
def test_a_defence_that_can_run_is_accepted(case: str) -> None:
    assert problems(merged(GOOD[case])) == []


def test_the_window_of_ssim_has_one_value() -> None:
    assert configuration_entries.WINDOW == guidance.WINDOW


def test_the_defences_of_the_project_are_accepted_and_judged_alike() -> None:
    config = merged(yaml.safe_load((ROOT / "config" / "defences.yaml").read_text()))
    assert problems(config) == []
    run = config["run"]
    alike = ("eot", "bpda", "forward", "reverse")
    assert all(run["attacks"][name] == run["varied"] for name in alike)
    assert {*run["comparison"], *run["comparison"].values()} == set(run["varied"]) <= set(run["sweep"])
    assert {config["attacks"][name]["images"] for name in ("fixed", *alike)} == {200}
    assert [config["attacks"][name]["knowledge"] for name in ("forward", "reverse")] == ["forward", "reverse"]
    tuned = {name: entry for name, entry in config["denoisers"].items() if entry["kind"] == "finetuned"}
    shared = ("steps", "batch_size", "learning_rate", "ema")
    assert len({tuple(entry["training"][key] for key in shared) for entry in tuned.values()}) == 1
    assert {entry["method"] for entry in tuned.values()} == {"none", "addt", "adbm"}


def test_the_loss_curves_of_everything_that_is_trained_are_drawn() -> None:
    jobs = plan([ROOT / "config" / "defences.yaml"], "results/tables", ROOT / "Snakefile", forceall=True).jobs
    drawn = next(job for job in jobs if job.rule == "render_figures_training").needs
    trainings = {number for number, job in enumerate(jobs) if "train_" in job.rule or "finetune_" in job.rule}
    assert set(drawn) == trainings
    assert Counter(jobs[number].rule for number in drawn)["finetune_denoiser"] == 4
