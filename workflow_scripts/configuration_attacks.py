"""Contradictions inside the entries of `attacks`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from workflow_scripts.configuration_schema import shown
from workflow_scripts.configuration_sequences import attacks_of_the_run

CLASSES = {"digits": 10}  # of data sets whose settings do not say
RANKED = {"dlr": 3, "targeted_dlr": 4}  # classes that a loss ranks
STEPPED = ("pgd", "apgd", "sequence")  # kinds that the base attack may be of
ALONE = ("pgd", "own_draws", "diffattack", "diffhammer")  # kinds with one candidate per run
ROUNDING = 1e-9  # of steps x step_size: ten times 0.1 is no less than one
Entry = Mapping[str, Any]


def _randomness_problems(entry: Entry) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) about the noise the attacker knows and draws."""
    if entry.get("stop_when_broken") and (entry["knowledge"] != "both" or entry["draws"] != 1):
        yield (
            "stop_when_broken",
            "expected false unless knowledge is both and draws is 1, got true — "
            "stopping at a lucky draw of a random defence reports chance as success",
        )
    several = entry["knowledge"] != "both" and (_runs(entry) > 1 or entry["kind"] not in ALONE)
    if several and "judges" not in entry:
        yield (
            "judges",
            "expected the number of draws on which several runs are compared, got none — add the key, or one "
            "candidate would win by its own luck",
        )
    if "judges" in entry and not several:
        yield (
            "judges",
            f"expected none, got {entry['judges']} — remove it: nothing is compared, or all on the noise that is known",
        )


def _runs(entry: Entry) -> int:
    """How many runs the images of an attack are chosen from."""
    return int(entry.get("restarts", 1)) * int(entry.get("targets", 1))


def _target_problems(entry: Entry) -> Iterator[tuple[str, str]]:
    targeted = entry.get("loss", "").startswith("targeted")
    if targeted and "targets" not in entry:
        yield "targets", f"expected a number with loss {entry['loss']!r}, got none — add the key"
    if "loss" in entry and not targeted and "targets" in entry:
        yield "targets", f"expected none with loss {entry['loss']!r}, got {entry['targets']} — remove it"


def _ranked_classes(entry: Entry) -> int:
    """How many classes the losses of an attack rank."""
    if entry["kind"] == "autoattack":
        return RANKED["targeted_dlr" if entry["version"] == "standard" else "dlr"]
    return RANKED.get(entry.get("loss", ""), 2)


def _class_problems(entry: Entry, classes: float) -> Iterator[tuple[str, str]]:
    """An attack whose loss ranks more classes than there are."""
    ranked = _ranked_classes(entry)
    if ranked <= classes:
        return
    if entry["kind"] == "autoattack":
        advice = "run apgd, fab and square instead, one after another"
        yield "kind", f"expected another than autoattack, whose loss ranks {ranked} classes, with {classes} — {advice}"
    else:
        instead = "targeted_margin" if entry["loss"].startswith("targeted") else "margin"
        yield "loss", f"expected one for {classes} classes, got {entry['loss']!r}, which ranks {ranked} — use {instead}"


def _radius_problems(entry: Entry) -> Iterator[tuple[str, str]]:
    radii = entry.get("radii", [1])
    if radii != sorted(radii, reverse=True) or radii[-1] != 1:
        yield "radii", f"expected numbers that fall to 1, got {shown(radii)} — write [3, 2, 1], or remove the key"
    if len(radii) > 1 and entry["knowledge"] != "both":
        wanted = "expected none unless knowledge is both"
        yield "radii", f"{wanted}, got {shown(radii)} with {entry['knowledge']} — remove the key"


def _knowledge_of(entry: Entry) -> Iterator[tuple[str, str]]:
    """Attacks that make sense for known randomness only, or for unknown."""
    wanted = {"fab": "both", "standard": "both", "rand": "none"}.get(entry.get("version", entry["kind"]))
    if wanted and entry["knowledge"] != wanted:
        name = f"{entry['kind']} {entry.get('version', '')}".strip()
        yield "knowledge", f"expected {wanted} with {name}, got {entry['knowledge']!r} — change it, or use apgd"
    if entry.get("version") == "standard" and entry["draws"] != 1:
        yield "draws", f"expected 1 with autoattack standard, got {entry['draws']} — the known noise is one draw"


def reach_problems(entry: Entry) -> Iterator[tuple[str, str]]:
    """Steps that together are shorter than the budget; a random start lies as often on the far side as on the near."""
    reach = entry.get("steps", 1) * entry.get("step_size", math.inf)
    if reach < 1 - ROUNDING:
        yield (
            "step_size",
            f"expected steps x step_size of at least 1, got {entry['steps']} x {entry['step_size']:g} = {reach:.3g} of "
            "the budget — raise it, step_size is in units of epsilon",
        )


def _start_problems(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry["restarts"] > 1 and not entry["random_start"]:
        yield "restarts", f"expected 1 without random_start, got {entry['restarts']} — they would all be the same run"


def _surrogate_guidance_problems(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    key = f"attacks.{name}.surrogate_guidance"
    if (mode := entry.get("gradient")) != "surrogate":
        yield f"{key}: expected none without gradient surrogate, got one with {mode} — remove it"
    varied = any(variation["attack"] == name for variation in config["attack_adequacy"]["variations"])
    attacked = [
        *config["run"]["attacks"].get(name, []),
        *(["identity"] if name == config["transfer_attack"] else []),
        *(config["run"]["attack_adequacy"] if varied else []),
    ]
    plain = [each for each in attacked if "label" not in config["purifiers"][each].get("guidance", {})]
    if plain:
        yield f"{key}: expected purifiers guided by a network only, got {shown(plain)} — attack these without it"


def _surrogate_problems(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if ("surrogate_steps" in entry) != (entry.get("gradient") == "surrogate"):
        wanted = "a number of steps with gradient surrogate and none without it"
        got = f"{entry.get('surrogate_steps', 'none')} with {entry.get('gradient', 'no gradient')}"
        yield f"attacks.{name}.surrogate_steps: expected {wanted}, got {got} — add or remove it"
    if "surrogate_guidance" in entry:
        yield from _surrogate_guidance_problems(config, name, entry)
    for purifier in config["run"]["attacks"].get(name, []) if "surrogate_steps" in entry else []:
        steps = config["purifiers"][purifier].get("steps", math.inf)
        if entry["surrogate_steps"] > steps:
            had = f"got {entry['surrogate_steps']} — lower it, a surrogate is cheaper than what it stands for"
            yield f"attacks.{name}.surrogate_steps: expected at most the {steps} steps of {purifier}, {had}"


def _knowledge_problems(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    known, knowledge = config["evaluation"]["known_images"], entry["knowledge"]
    if ("pool" in entry) != (knowledge == "semi"):
        wanted = "a number of draws with knowledge semi and none without it"
        yield f"attacks.{name}.pool: expected {wanted}, got {entry.get('pool', 'none')} — add or remove it"
    if knowledge in ("none", "both"):
        return
    if entry["images"] > known:
        had = f"got {entry['images']} — it is judged under its own knowledge there, lower it"
        yield f"attacks.{name}.images: expected at most evaluation.known_images = {known}, {had}"
    for purifier in config["run"]["attacks"].get(name, []):
        if purifier not in config["run"]["varied"]:
            had = f"got {shown(config['run']['varied'])} — an attack with knowledge {knowledge} is judged there only"
            yield f"run.varied: expected {purifier!r} of run.attacks.{name} among them, {had}"


def attack_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per contradiction inside an attack; names are known to exist."""
    dataset = config["datasets"][config["dataset"]]
    classes = dataset.get("classes") or CLASSES.get(dataset["kind"], math.inf)
    chosen = attacks_of_the_run(config)
    for name, entry in config["attacks"].items():
        found = [*_randomness_problems(entry), *_target_problems(entry), *_knowledge_of(entry)]
        found += [*reach_problems(entry), *_radius_problems(entry)]
        if name in chosen:
            found += _class_problems(entry, classes)
        if entry["kind"] == "pgd":
            found += _start_problems(entry)
        if name == config["base_attack"] and entry["knowledge"] != "both":
            found.append(("knowledge", f"expected both, got {entry['knowledge']!r} — it is the base attack"))
        if name == config["base_attack"] and entry["kind"] not in STEPPED:
            had = f"got {entry['kind']!r} — attack_strength varies the base attack's steps"
            found.append(("kind", f"expected one of {', '.join(STEPPED)}, {had}"))
        if name == config["base_attack"] and "threat" in entry:
            found.append(
                ("threat", "expected none, got one — the base attack has the configuration's threat; remove it")
            )
        yield from _surrogate_problems(config, name, entry)
        yield from _knowledge_problems(config, name, entry)
        yield from (f"attacks.{name}.{key}: {sentence}" for key, sentence in found)
