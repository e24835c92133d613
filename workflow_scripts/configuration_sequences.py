"""Contradictions between attacks: the stages of a sequence, and attacks that go on after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Entry = Mapping[str, Any]


def attacks_of_the_run(config: Mapping[str, Any]) -> set[str]:
    """Names of the attacks that are run, the stages of sequences and those they go on after among them."""
    attacks = config["attacks"]
    roles = [config[f"{role}_attack"] for role in ("base", "challenge", "adequacy", "transfer")]
    variations = [variation["attack"] for variation in config["attack_adequacy"]["variations"]]
    named = {*roles, *config["run"]["attacks"], *config["run"]["ladder"], *variations}
    for name in list(named):
        named |= _find_earlier(attacks, name)
    stages = {stage for name in named for stage in attacks[name].get("stages", [])}
    return named | stages


def _find_earlier(attacks: Mapping[str, Entry], name: str) -> set[str]:
    """Attacks that one goes on after, at whatever distance."""
    found: set[str] = set()
    at = attacks[name].get("after")
    while at is not None and at not in found:
        found.add(at)
        at = attacks[at].get("after")
    return found


def attack_references(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, name of an attack that an entry of `attacks` holds)."""
    for name, entry in config["attacks"].items():
        if "after" in entry:
            yield f"attacks.{name}.after", entry["after"]
        for stage in entry.get("stages", []):
            yield f"attacks.{name}.stages", stage


def _stage_problem(stage: str, entry: Entry) -> str | None:
    """What is wrong with an attack as a stage: (what was expected, what was got, what to do)."""
    if entry["kind"] == "sequence":
        return f"expected attacks of other kinds, got the sequence {stage!r} — name its stages"
    if entry["knowledge"] != "both":
        return f"expected attacks with knowledge both, got {stage!r} with {entry['knowledge']} — remove it"
    if entry.get("draws", 1) != 1:
        return f"expected attacks with draws: 1, got {stage!r} with {entry['draws']} — the known noise is one draw"
    if not entry.get("stop_when_broken", True):
        return f"expected attacks with stop_when_broken: true, got {stage!r} without — set it, or remove the stage"
    if entry.get("gradient") == "surrogate":
        return f"expected attacks without a surrogate, got {stage!r} — the stages share one purifier; remove it"
    return None


def _sequence_problems(config: Mapping[str, Any], name: str, entry: Entry) -> Iterator[str]:
    attacks = config["attacks"]
    for stage in entry["stages"]:
        if problem := _stage_problem(stage, attacks[stage]):
            yield f"attacks.{name}.stages: {problem}"
        elif _threat(config, attacks[stage]) != _threat(config, entry):
            wanted = "attacks with the threat of the sequence"
            yield f"attacks.{name}.stages: expected {wanted}, got another of {stage!r} — write the same"


def _threat(config: Mapping[str, Any], entry: Entry) -> Any:
    return entry.get("threat", config["threat"])


def _after_problems(config: Mapping[str, Any], name: str, entry: Entry, *, runs: bool) -> Iterator[str]:
    attacks, key = config["attacks"], f"attacks.{name}.after"
    earlier = attacks[entry["after"]]
    if name in _find_earlier(attacks, name):
        yield f"{key}: expected an attack that does not come after {name!r}, got {entry['after']!r} — remove one"
    if name == config["base_attack"]:
        yield f"{key}: expected none for the base attack, got {entry['after']!r} — it is measured alone, remove it"
    for attack, known in ((name, entry["knowledge"]), (entry["after"], earlier["knowledge"])):
        if known != "both":
            yield f"{key}: expected two attacks with knowledge both, got {attack!r} with {known} — remove the key"
    if runs and earlier["images"] < entry["images"]:
        had = f"got {entry['after']!r} on {earlier['images']}"
        yield f"{key}: expected an attack on at least {entry['images']} images, {had} — lower attacks.{name}.images"
    if _threat(config, earlier) != _threat(config, entry):
        yield f"{key}: expected an attack with the same threat, got {entry['after']!r} with another — write the same"


def sequence_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per contradiction between two attacks; names are known to exist."""
    chosen = attacks_of_the_run(config)
    for name, entry in config["attacks"].items():
        if entry["kind"] == "sequence":
            yield from _sequence_problems(config, name, entry)
        if "after" in entry:
            yield from _after_problems(config, name, entry, runs=name in chosen)
