"""What the claims need of a configuration: the headline, the attacks by name, the points of the budget curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EXACT = ("replay", "autograd")  # gradient modes that are no approximation
ALWAYS = ("base_attack", "challenge_attack", "adequacy_attack")  # keys of attacks that run where no list says it
ROWS = ("clean", "random", "transfer")  # names of rows that are no attack on the purifier (purify_images)


def _headline_problems(config: Mapping[str, Any]) -> Iterator[str]:
    headline, null = config["run"]["headline"], config["null_denoiser"]
    entry = config["purifiers"][headline]
    if config["denoisers"][null]["kind"] not in ("gaussian", "stationary"):
        yield f"null_denoiser: expected a denoiser of kind gaussian, got {null!r} — the null model is a Gaussian"
    if entry["kind"] != "diffusion" or entry["denoiser"] == null:
        yield (
            f"run.headline: expected a diffusion purifier with a denoiser beside the null model, got {headline!r} — "
            "the claims compare it with its null model"
        )
    elif entry["t_star"] == 0:
        yield f"run.headline: expected a purifier with t_star > 0, got {headline!r} with 0 — it purifies nothing"
    if config["purifiers"].get("identity", {"kind": "identity"})["kind"] != "identity":
        yield "purifiers.identity.kind: expected identity, got another kind — the name stands for no purifier"
    for name in sorted({*config["run"]["sweep"]} & {*config["run"]["controls"]}):
        yield f"run.controls: expected no purifier of run.sweep, got {name!r} — a point of the fit is no control"


def _attack_problems(config: Mapping[str, Any]) -> Iterator[str]:
    attacks, base = config["attacks"], config["base_attack"]
    keys = {f"run.attacks.{name}": name for name in config["run"]["attacks"]}
    keys |= {key: config[key] for key in ALWAYS}
    for key, name in keys.items():
        if name in ROWS:
            yield f"{key}: expected an attack beside {', '.join(ROWS)}, got {name!r} — its rows would be lost"
    for key in ALWAYS:
        if key != "base_attack" and (name := config[key]) in config["run"]["attacks"]:
            had = f"got it again — remove it, {key} says where it runs"
            yield f"run.attacks.{name}: expected attacks beside {key}, {had}"
    yield from _beside_problems(config)
    for name in (base, *attacks[base].get("stages", [])):
        if (mode := attacks[name].get("gradient", "replay")) not in EXACT:
            yield f"attacks.{name}.gradient: expected replay or autograd, got {mode!r} — the base attack must be exact"
    for name, key, wanted in (("eot", "knowledge", "none"), ("bpda", "gradient", "bpda")):
        if name in attacks and attacks[name].get(key) != wanted:
            had = attacks[name].get(key)
            yield f"attacks.{name}.{key}: expected {wanted}, got {had!r} — the claims rely on the name"


def _beside_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """The challenge and the stronger attack are compared with the base attack, image by image."""
    attacks, base = config["attacks"], config["base_attack"]
    for key in ALWAYS[1:]:
        name = config[key]
        entry = attacks[name]
        if name in [config[other] for other in ALWAYS if other != key]:
            yield f"{key}: expected another attack than {', '.join(ALWAYS)} name, got {name!r} — name another"
        if entry["knowledge"] != "both":
            yield f"attacks.{name}.knowledge: expected both, got {entry['knowledge']!r} — it is the {key}"
        if "threat" in entry:
            yield f"attacks.{name}.threat: expected none, got one — the {key} has the configuration's; remove it"
        if entry["images"] > attacks[base]["images"]:
            had = f"got {entry['images']} — lower it"
            yield f"attacks.{name}.images: expected at most {attacks[base]['images']}, those of {base!r}, {had}"


def base_steps(config: Mapping[str, Any]) -> int | None:
    """Steps of the base attack, or of its first stage that has steps; None without any."""
    entry = config["attacks"][config["base_attack"]]
    stages = [entry, *(config["attacks"][name] for name in entry.get("stages", []))]
    return next((stage["steps"] for stage in stages if "steps" in stage), None)


def _budget_problems(config: Mapping[str, Any]) -> Iterator[str]:
    steps = base_steps(config)
    needs = {
        f"steps = {steps}, those of {config['base_attack']!r}": lambda point: point["steps"] == steps,
        "scale = 0": lambda point: point["scale"] == 0,
    }
    for name, points in config["attack_strength"].items():
        for need, holds in needs.items():
            if not any(map(holds, points)):
                yield f"attack_strength.{name}: expected an entry with {need}, got none — add one for the claims"


def claim_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per thing the claims would miss; names are known to exist."""
    yield from _headline_problems(config)
    yield from _attack_problems(config)
    yield from _budget_problems(config)
