"""Attacks as configured: an entry of `attacks` turned into a call of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from purification.attacks import (
    APGD,
    FAB,
    PGD,
    AttackResult,
    AutoAttack,
    DiffHammer,
    Problem,
    Square,
    apgd_attack,
    auto_attack,
    diffattack_attack,
    diffhammer_attack,
    fab_attack,
    pgd_attack,
    square_attack,
)
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import Journal
from purification.knowledge import shared_noise
from purification.models.placing import Place
from purification.threat import ThreatModel
from workflow_scripts.defences import load_purifier, noise_source
from workflow_scripts.surrogates import surrogate_of


def attacked(
    defence: Defence, entry: Mapping[str, Any], settings: Mapping[str, Any], inputs: Any, dataset: Dataset, place: Place
) -> Defence:
    """The defence of a purifier's entry as an attack sees it: with the surrogate of its gradient, if it takes one."""
    if settings.get("gradient") != "surrogate":
        return defence
    surrogate = load_purifier(surrogate_of(entry, settings), inputs.denoiser, dataset, place)
    return replace(defence, surrogate=surrogate)


def _options(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class of settings; the randomness the attacker does not know is drawn anew in every step."""
    known = {**settings, "redraw": settings["knowledge"] != "both"}
    return {field.name: known[field.name] for field in fields(kind) if field.name in known}


def _pgd(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return pgd_attack(problem, PGD(**_options(PGD, settings)), journal)


def _apgd(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return apgd_attack(problem, APGD(**_options(APGD, settings)), journal)


def _fab(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return fab_attack(problem, FAB(**_options(FAB, settings)), journal)


def _square(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return square_attack(problem, Square(**_options(Square, settings)), journal)


def _auto(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return auto_attack(problem, AutoAttack(**_options(AutoAttack, settings)), journal)


def _own_draws(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    """Draws of the attacker's own, the same in every step: what is made against them meets others (transfer)."""
    return pgd_attack(problem, PGD(**{**_options(PGD, settings), "redraw": False}), journal)


def _diffattack(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return diffattack_attack(problem, PGD(**_options(PGD, settings)), settings["deviation"], journal)


def _diffhammer(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return diffhammer_attack(problem, DiffHammer(**_options(DiffHammer, settings)), journal)


ATTACKS = {
    "pgd": _pgd,
    "apgd": _apgd,
    "fab": _fab,
    "square": _square,
    "autoattack": _auto,
    "own_draws": _own_draws,
    "diffattack": _diffattack,
    "diffhammer": _diffhammer,
}


def run_attack(
    dataset: Dataset,
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: list[int],
    settings: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    memory: float,
    journal: Journal,
) -> AttackResult:
    """One entry of `attacks`; what it does not know of the defence's noise it draws on its own.

    Candidates are compared on the known noise, or else on draws of the role "judge", which nothing else uses.
    """
    seed, known = evaluation["seed"], settings["knowledge"] == "both"
    source, judge = (
        shared_noise(noise_source(seed, role, dataset), knowledge=settings["knowledge"], pool=settings.get("pool", 1))
        for role in ("attack", "judge")
    )
    problem = Problem(
        defence, images, labels, ids,
        threat=ThreatModel(settings["norm"], settings["epsilon"], settings.get("share")),
        source=source,
        start=noise_source(seed, "start", dataset),
        judge=judge,
        judges=settings["draws"] if known else settings.get("judges", 1),
        memory=memory,
    )  # fmt: skip
    return ATTACKS[settings["kind"]](problem, settings, journal)
