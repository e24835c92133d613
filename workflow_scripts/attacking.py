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
    Attack,
    AttackResult,
    AutoAttack,
    DiffHammer,
    Exemplars,
    Problem,
    References,
    Square,
    apgd_attack,
    attack_after,
    auto_attack,
    diffattack_attack,
    diffhammer_attack,
    exemplar_attack,
    fab_attack,
    pgd_attack,
    sequence_attack,
    square_attack,
)
from purification.data import Dataset
from purification.defence import Defence
from purification.errors import NoDerivative
from purification.journal import Journal
from purification.knowledge import shared_noise
from purification.models.placing import Place
from purification.threat import ThreatModel
from workflow_scripts.defences import load_purifier, noise_source
from workflow_scripts.job import logger
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


def _exemplars(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return exemplar_attack(problem, Exemplars(**_options(Exemplars, settings)), journal)


def _attack(settings: Mapping[str, Any]) -> Attack:
    """The attack of an entry as a function of problem and journal."""

    def run(problem: Problem, journal: Journal) -> AttackResult:
        return ATTACKS[settings["kind"]](problem, settings, journal)

    return run


def _sequence(problem: Problem, settings: Mapping[str, Any], journal: Journal) -> AttackResult:
    return sequence_attack(problem, [_attack(stage) for stage in settings["stages"]], journal)


ATTACKS = {
    "pgd": _pgd,
    "apgd": _apgd,
    "fab": _fab,
    "square": _square,
    "autoattack": _auto,
    "own_draws": _own_draws,
    "diffattack": _diffattack,
    "diffhammer": _diffhammer,
    "exemplars": _exemplars,
    "sequence": _sequence,
}


def gradient_of(settings: Mapping[str, Any]) -> str:
    """Gradient mode of an entry, of a sequence those of its stages; "none" of an attack that takes none."""
    modes = {stage["gradient"] for stage in settings.get("stages", [settings]) if "gradient" in stage}
    return ", ".join(sorted(modes)) or "none"


def with_bpda(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with the BPDA gradient wherever it takes one."""
    changed = dict(settings)
    if "gradient" in changed:
        changed["gradient"] = "bpda"
    if "stages" in changed:
        changed["stages"] = [with_bpda(stage) for stage in changed["stages"]]
    return changed


def references_of(dataset: Dataset, settings: Mapping[str, Any], evaluation: Mapping[str, Any]) -> References | None:
    """The first images of the subset, as many as the entry or a stage of it looks among; None where none does.

    They do not depend on which of the images are attacked together.
    """
    among = max(stage.get("among", 0) for stage in [settings, *settings.get("stages", [])])
    if not among:
        return None
    subset = evaluation["subset"]
    images, labels, _ = dataset.take(subset, min(among, len(dataset.subsets[subset])))
    return References(images, labels)


def _problem(
    dataset: Dataset,
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: list[int],
    settings: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    memory: float,
) -> Problem:
    """What is attacked, and the noise that the attacker has.

    Candidates are compared on the known noise, or else on draws of the role "judge", which nothing else uses.
    """
    seed, known = evaluation["seed"], settings["knowledge"] == "both"
    source, judge = (
        shared_noise(noise_source(seed, role, dataset), knowledge=settings["knowledge"], pool=settings.get("pool", 1))
        for role in ("attack", "judge")
    )
    return Problem(
        defence, images, labels, ids,
        threat=ThreatModel(settings["norm"], settings["epsilon"], settings.get("share")),
        source=source,
        start=noise_source(seed, "start", dataset),
        judge=judge,
        judges=settings.get("draws", 1) if known else settings.get("judges", 1),
        memory=memory,
        references=references_of(dataset, settings, evaluation),
    )  # fmt: skip


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
    earlier: Tensor | None = None,
) -> tuple[AttackResult, str]:
    """One entry of `attacks`, and the gradient mode that it took; what it does not know of the noise it draws itself.

    Where autograd cannot follow the purifier, the whole attack is repeated with the BPDA gradient.
    earlier  images that another attack proposed: only those that they leave standing are attacked
    """
    problem = _problem(dataset, defence, images, labels, ids, settings, evaluation, memory)

    def attack(chosen: Mapping[str, Any], kept: Journal) -> AttackResult:
        run = _attack(chosen)
        return run(problem, kept) if earlier is None else attack_after(problem, earlier, run, kept)

    try:
        return attack(settings, journal), gradient_of(settings)
    except NoDerivative as refusal:
        logger.warning("attacking with gradient bpda instead: %s", refusal)
    approximate = with_bpda(settings)
    return attack(approximate, journal.part("bpda")), gradient_of(approximate)
