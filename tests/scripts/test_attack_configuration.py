"""Entries of attacks that contradict themselves or each other are refused in one sentence that names the key."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from workflow_scripts.configuration import problems
from workflow_scripts.configuration_attacks import CLASSES
from workflow_scripts.cost_plan import plan

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
SENTENCE = re.compile(r"[^:]+: expected .+, got .+ — .+")
PGD = {**DEFAULT["attacks"]["fixed"], "images": 100}
SEQUENCE = {"kind": "sequence", "knowledge": "both", "images": 100, "stages": ["first", "second"]}
L2 = {"norm": "l2", "epsilon": 1.0}


def refused(run: tuple[str, ...] = (), **attacks: Any) -> list[str]:
    """What is wrong with the default configuration with `attacks` beside its own; those in `run` are run."""
    entries = {"first": PGD, "second": {**PGD, "loss": "margin"}, **attacks}
    config = copy.deepcopy(DEFAULT)
    update_config(config, {"attacks": entries, "run": {"attacks": {name: ["ddpm_150"] for name in run}}})
    return problems(config)


GOOD: dict[str, dict[str, Any]] = {
    "a sequence": {"other": SEQUENCE},
    "a sequence with a threat that all stages have": {
        "first": {**PGD, "threat": L2},
        "second": {**PGD, "threat": L2},
        "other": {**SEQUENCE, "threat": L2},
    },
    "a sequence of all kinds": {"other": {**SEQUENCE, "stages": ["fixed", "bpda", "apgd_t", "fab_t", "square"]}},
    "a sequence with AutoAttack": {"other": {**SEQUENCE, "stages": ["first", "autoattack"]}},
    "after another": {"other": {**PGD, "after": "first"}},
    "a sequence after another": {"other": {**SEQUENCE, "after": "first"}},
    "after one that is after one": {"second": {**PGD, "after": "first"}, "other": {**PGD, "after": "second"}},
    "after one on more images": {"first": {**PGD, "images": 101}, "other": {**PGD, "after": "first"}},
    "a stage's own images and predecessor": {
        "second": {**PGD, "images": 3, "after": "first"},
        "other": SEQUENCE,
    },
    "steps that just reach the budget": {"other": {**PGD, "steps": 10, "step_size": 0.1}},
}


@pytest.mark.parametrize("name", GOOD)
def test_attacks_that_fit_are_accepted(name: str) -> None:
    assert refused(**GOOD[name]) == []


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown stage": (
        {"other": {**SEQUENCE, "stages": ["firts"]}},
        "attacks.other.stages: expected a known name, got 'firts' — did you mean 'first'?",
    ),
    "no stage": ({"other": {**SEQUENCE, "stages": []}}, "attacks.other.stages: expected at least 1"),
    "a stage twice": ({"other": {**SEQUENCE, "stages": ["first", "first"]}}, "attacks.other.stages: expected every"),
    "settings of another kind": ({"other": {**SEQUENCE, "steps": 20}}, "attacks.other.steps: expected a known key"),
    "a sequence on unknown noise": (
        {"other": {**SEQUENCE, "knowledge": "none"}},
        "attacks.other.knowledge: expected 'both' with kind 'sequence', got 'none'",
    ),
    "a sequence in a sequence": (
        {"third": SEQUENCE, "other": {**SEQUENCE, "stages": ["third"]}},
        "attacks.other.stages: expected attacks of other kinds, got the sequence 'third' — name its stages",
    ),
    "a sequence of itself": (
        {"other": {**SEQUENCE, "stages": ["other"]}},
        "attacks.other.stages: expected attacks of other kinds, got the sequence 'other'",
    ),
    "a stage on unknown noise": (
        {"other": {**SEQUENCE, "stages": ["eot"]}},
        "attacks.other.stages: expected attacks with knowledge both, got 'eot' with none",
    ),
    "a stage on several draws": (
        {"first": {**PGD, "draws": 2, "stop_when_broken": False}, "other": SEQUENCE},
        "attacks.other.stages: expected attacks with draws: 1, got 'first' with 2",
    ),
    "a stage that goes on": (
        {"first": {**PGD, "stop_when_broken": False}, "other": SEQUENCE},
        "attacks.other.stages: expected attacks with stop_when_broken: true, got 'first' without",
    ),
    "a stage with a surrogate": (
        {"first": {**PGD, "gradient": "surrogate", "surrogate_steps": 2}, "other": SEQUENCE},
        "attacks.other.stages: expected attacks without a surrogate, got 'first'",
    ),
    "a stage with a threat of its own": (
        {"first": {**PGD, "threat": L2}, "other": SEQUENCE},
        "attacks.other.stages: expected attacks with the threat of the sequence, got another of 'first'",
    ),
    "after nothing known": (
        {"other": {**PGD, "after": "firts"}},
        "attacks.other.after: expected a known name, got 'firts' — did you mean 'first'?",
    ),
    "after itself": (
        {"other": {**PGD, "after": "other"}},
        "attacks.other.after: expected an attack that does not come after 'other', got 'other'",
    ),
    "after one with another threat": (
        {"first": {**PGD, "threat": L2}, "other": {**PGD, "after": "first"}},
        "attacks.other.after: expected an attack with the same threat, got 'first' with another",
    ),
    "after one on unknown noise": (
        {"other": {**PGD, "after": "eot"}},
        "attacks.other.after: expected two attacks with knowledge both, got 'eot' with none",
    ),
    "on unknown noise after one": (
        {"other": {**DEFAULT["attacks"]["eot"], "images": 50, "after": "first"}},
        "attacks.other.after: expected two attacks with knowledge both, got 'other' with none",
    ),
    "the base attack after one": (
        {"strong": {"after": "first"}, "first": {**PGD, "images": 300}},
        "attacks.strong.after: expected none for the base attack, got 'first'",
    ),
    "radii that grow": (
        {"apgd": {"radii": [1, 2]}},
        "attacks.apgd.radii: expected numbers that fall to 1, got [1, 2] — write [3, 2, 1]",
    ),
    "radii that end early": (
        {"autoattack": {"radii": [3, 2]}},
        "attacks.autoattack.radii: expected numbers that fall to 1, got [3, 2]",
    ),
    "larger balls on unknown noise": (
        {"apgd": {"knowledge": "none", "stop_when_broken": False, "judges": 2, "radii": [2, 1]}},
        "attacks.apgd.radii: expected none unless knowledge is both, got [2, 1] with none",
    ),
    "a budget out of reach": (
        {"other": {**PGD, "step_size": 0.00784}},
        "attacks.other.step_size: expected steps x step_size of at least 1, got 20 x 0.00784 = 0.157 of the budget — "
        "raise it, step_size is in units of epsilon",
    ),
    "a budget out of reach from a random start": (
        {"other": {**PGD, "random_start": True, "step_size": 0.049}},
        "attacks.other.step_size: expected steps x step_size of at least 1, got 20 x 0.049 = 0.98",
    ),
    "a budget out of the reach of DiffHammer": (
        {"hammer": {"steps": 3, "step_size": 0.1}},
        "attacks.hammer.step_size: expected steps x step_size of at least 1, got 3 x 0.1 = 0.3",
    ),
    "a budget out of the reach of DiffAttack": (
        {"deviated": {"steps": 3}},
        "attacks.deviated.step_size: expected steps x step_size of at least 1, got 3 x 0.125 = 0.375",
    ),
    "a budget out of the reach of own draws": (
        {"own_draw": {"steps": 7}},
        "attacks.own_draw.step_size: expected steps x step_size of at least 1, got 7 x 0.125 = 0.875",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_attacks_that_contradict_are_named_in_one_sentence(name: str) -> None:
    attacks, sentence = BAD[name]
    (found,) = refused(**attacks)
    assert found.startswith(sentence), found
    assert SENTENCE.fullmatch(found), found


def test_an_attack_that_runs_after_one_on_fewer_images_is_named() -> None:
    """Also where only a later one is run; not where none of them is."""
    few = {"first": {**PGD, "images": 99}, "second": {**PGD, "after": "first"}, "other": {**PGD, "after": "second"}}
    assert refused(**few) == []
    for name in ("second", "other"):
        (found,) = refused((name,), **few)
        wanted = "attacks.second.after: expected an attack on at least 100 images, got 'first' on 99"
        assert found.startswith(wanted), found
        assert SENTENCE.fullmatch(found), found


def test_an_attack_after_another_waits_for_it_and_a_sequence_holds_the_settings_of_its_stages(tmp_path: Path) -> None:
    """Of every purifier its own earlier attack; what a stage says of images and predecessors is left out."""
    attacks = {"first": PGD, "second": {**PGD, "loss": "margin", "after": "first"}, "other": SEQUENCE}
    changes = {"attacks": attacks, "run": {"attacks": {"second": ["ddpm_150", "ddpm_25"], "other": ["ddpm_150"]}}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(changes))
    files = [ROOT / "config" / "smoke.yaml", tmp_path / "more.yaml"]
    jobs = plan(files, "results/tables", ROOT / "Snakefile", forceall=True).jobs
    made = [job for job in jobs if job.rule == "attack_images"]
    later = [job for job in made if job.params["settings"].get("after") == "first"]
    assert len(later) == 2
    for job in later:
        (earlier,) = [jobs[number] for number in job.needs if jobs[number].rule == "attack_images"]
        assert earlier.params["settings"]["loss"] == "ce" and "after" not in earlier.params["settings"]
        assert earlier.params["purifier"] == job.params["purifier"]
    sequences = [job.params["settings"]["stages"] for job in made if "stages" in job.params["settings"]]
    (stages,) = [found for found in sequences if [stage.get("loss") for stage in found] == ["ce", "margin"]]
    assert all({"images", "after"}.isdisjoint(stage) and stage["epsilon"] == 0.1 for stage in stages)


def test_two_attacks_after_each_other_are_both_named() -> None:
    first, second = {**PGD, "after": "second"}, {**PGD, "after": "first"}
    found = refused(first=first, second=second)
    assert [sentence.split(":")[0] for sentence in found] == ["attacks.first.after", "attacks.second.after"]


def test_a_detector_s_attack_out_of_reach_is_named() -> None:
    config = copy.deepcopy(DEFAULT)
    attacks = {"linf_known": {"steps": 2}}
    update_config(config, {"run": {"anomaly": ["zeros"]}, "anomaly": {"zeros": {"attacks": attacks}}})
    (found,) = problems(config)
    assert found.startswith("anomaly.zeros.attacks.linf_known.step_size: expected steps x step_size of at least 1")


@pytest.mark.parametrize(("loss", "classes", "instead"), [("dlr", 2, "margin"), ("targeted_dlr", 3, "targeted_margin")])
def test_a_loss_that_ranks_more_classes_than_there_are_is_refused_where_it_is_run(
    loss: str, classes: int, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLASSES, "digits", classes)
    targets = {"targets": 9} if loss.startswith("targeted") else {}
    entry = {**PGD, "loss": loss, **targets}
    assert refused(other=entry) == []
    (found,) = refused(longer_climb={**DEFAULT["attacks"]["longer_climb"], "loss": loss, **targets})
    assert found == (
        f"attacks.longer_climb.loss: expected one for {classes} classes, got {loss!r}, "
        f"which ranks {classes + 1} — use {instead}"
    )
