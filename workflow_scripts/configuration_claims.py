"""What the claims need of a configuration: the headline, the attacks by name, the points of the budget curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EXACT = ("replay", "autograd")  # gradient modes that are no approximation
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
    for name in (base, *config["run"]["attacks"]):
        if name in ROWS:
            key = "base_attack" if name == base else f"run.attacks.{name}"
            yield f"{key}: expected an attack beside {', '.join(ROWS)}, got {name!r} — its rows would be lost"
    if base in config["run"]["attacks"]:
        yield f"run.attacks.{base}: expected attacks beside base_attack, got it again — remove it, it runs everywhere"
    if (mode := attacks[base].get("gradient", "replay")) not in EXACT:
        yield f"attacks.{base}.gradient: expected replay or autograd, got {mode!r} — the base attack must be exact"
    for name, key, wanted in (("eot", "knowledge", "none"), ("bpda", "gradient", "bpda")):
        if name in attacks and attacks[name].get(key) != wanted:
            had = attacks[name].get(key)
            yield f"attacks.{name}.{key}: expected {wanted}, got {had!r} — the claims rely on the name"


def _budget_problems(config: Mapping[str, Any]) -> Iterator[str]:
    steps = config["attacks"][config["base_attack"]].get("steps")
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
