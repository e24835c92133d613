"""What the configuration must say of the attacks that examine the base attack, and of declared gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from snakemake.utils import update_config

from workflow_scripts.configuration import merged, problems

DEFAULT = merged([])
FILE = Path(__file__).parents[1] / "unit" / "odd_purifiers.py"


def found(changes: dict[str, Any]) -> list[str]:
    config = copy.deepcopy(DEFAULT)
    update_config(config, changes)
    return problems(config)


def attack(name: str, **changes: Any) -> dict[str, Any]:
    return {"attacks": {name: changes}}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown challenge": ({"challenge_attack": "chalenge"}, "challenge_attack: expected a known name, got 'chalenge'"),
    "the base attack again": (
        {"challenge_attack": "strong"},
        "challenge_attack: expected another attack than base_attack, challenge_attack, adequacy_attack name",
    ),
    "the same attack twice": (
        {"adequacy_attack": "challenge"},
        "adequacy_attack: expected another attack than base_attack, challenge_attack, adequacy_attack name",
    ),
    "a challenge without the noise": (
        {"challenge_attack": "eot"},
        "attacks.eot.knowledge: expected both, got 'none' — it is the challenge_attack",
    ),
    "a challenge of another budget": (
        attack("challenge", threat={"norm": "linf", "epsilon": 0.2}),
        "attacks.challenge.threat: expected none, got one — the challenge_attack has the configuration's; remove it",
    ),
    "a stronger attack on more images": (
        attack("stronger", images=301),
        "attacks.stronger.images: expected at most 300, those of 'strong', got 301 — lower it",
    ),
    "a challenge listed again": (
        {"run": {"attacks": {"challenge": ["ddpm_150"]}}},
        "run.attacks.challenge: expected attacks beside challenge_attack, got it again",
    ),
    "another kind of base attack": (
        {"base_attack": "square"},
        "attacks.square.kind: expected one of pgd, apgd, sequence, got 'square'",
    ),
    "no margin": (
        {"attack_adequacy": {"margin": 0}},
        "attack_adequacy.margin: expected a number > 0 and < 1, got 0 — raise it",
    ),
    "a limit that is a share": (
        {"reliability": {"unmoved": 2.0}},
        "reliability.unmoved: expected a number >= 0 and <= 1, got 2.0 — lower it",
    ),
    "a misspelt declaration": (
        {"purifiers": {"mine": {"kind": "python", "path": str(FILE), "factory": "make_purifier", "params": {},
                                "derivative": "approximated"}}},
        "purifiers.mine.derivative: expected one of exact, approximate, got 'approximated'",
    ),
    "a declaration of what is exact": (
        {"purifiers": {"ddpm_150": {"derivative": "approximate"}}},
        "purifiers.ddpm_150.derivative: expected a known key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_examined_is_refused(name: str) -> None:
    changes, sentence = CASES[name]
    assert any(each.startswith(sentence) for each in found(changes)), found(changes)


@pytest.mark.parametrize("kind", ["apgd", "sequence"])
def test_the_base_attack_may_be_of_every_kind_with_steps(kind: str) -> None:
    entries = {
        "apgd": {**DEFAULT["attacks"]["apgd"], "images": 300},
        "sequence": {"kind": "sequence", "stages": ["apgd", "quick_margin"], "images": 300, "knowledge": "both"},
    }
    config = copy.deepcopy(DEFAULT)
    config["attacks"]["sequence"]["stages"] = ["apgd"]
    config["attacks"]["strong"] = entries[kind]
    steps = {"undefended": [{"scale": 0.0, "steps": 100}, {"scale": 1.0, "steps": 100}]}
    config["attack_strength"] = {**steps, "defended": steps["undefended"]}
    config["attack_adequacy"]["variations"] = [{"attack": "strong", "steps": 50}]
    assert problems(config) == []


def test_a_purifier_may_declare_that_its_gradient_stands_in_for_one() -> None:
    mine = {"kind": "python", "path": str(FILE), "factory": "make_purifier", "params": {}, "derivative": "approximate"}
    assert found({"purifiers": {"mine": mine}}) == []
