"""What is wrong with an attack because of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EXACT = ("replay", "autograd")


def _one_run(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["restarts"] != 1 or "targets" in entry:
        got = f"got {entry['restarts']} and {entry.get('targets', 'none')} — it runs once"
        yield f"attacks.{name}.restarts: expected 1, and no targets, with kind {entry['kind']}, {got}"


def _own_draws(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["knowledge"] != "none":
        had = f"got {entry['knowledge']!r} — draws that the defence shares are no transfer"
        yield f"attacks.{name}.knowledge: expected none for kind own_draws, {had}"
    yield from _one_run(name, entry)


def _diffattack(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    yield from _one_run(name, entry)
    if entry["gradient"] not in EXACT:
        yield f"attacks.{name}.gradient: expected replay or autograd for kind diffattack, got {entry['gradient']!r}"
    for purifier in config["run"]["attacks"].get(name, []):
        chosen = config["purifiers"][purifier]
        if chosen["kind"] == "guided" or "size" in chosen:
            had = f"got {purifier} — its states have no noised image of their size to deviate from"
            yield f"run.attacks.{name}: expected no guided or resized purifiers for kind diffattack, {had}"


def _diffhammer(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if (norm := entry.get("threat", config["threat"])["norm"]) not in ("linf", "l2"):
        yield f"attacks.{name}.kind: expected another attack than diffhammer with norm {norm} — it needs linf or l2"


def _nothing(config: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    yield from ()


KINDS = {"own_draws": _own_draws, "diffattack": _diffattack, "diffhammer": _diffhammer}


def kind_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Contradictions within attacks, and attacks whose kind cannot stand where the configuration puts it."""
    for name, entry in config["attacks"].items():
        if ("deviation" in entry) != (entry["kind"] == "diffattack"):
            had = f"got {entry.get('deviation', 'none')} with {entry['kind']} — add or remove it"
            yield f"attacks.{name}.deviation: expected a weight with kind diffattack and none without it, {had}"
        yield from KINDS.get(entry["kind"], _nothing)(config, name, entry)
