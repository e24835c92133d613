"""Attacks as configured: an entry of `attacks` turned into a call of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from purification.attacks import PGD, AttackResult, attack
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import Journal
from purification.threat import ThreatModel
from workflow_scripts.defences import noise_source


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
    """One entry of `attacks`; knowledge "both" shares the fixed noise, "none" draws its own."""
    seed, device, known = evaluation["seed"], evaluation["device"], settings["knowledge"] == "both"
    options = {field.name: settings[field.name] for field in fields(PGD) if field.name in settings}
    return attack(
        defence, images, labels, ids,
        threat=ThreatModel(settings["norm"], settings["epsilon"]),
        pgd=PGD(**options, redraw=not known),
        source=noise_source(seed, "fixed" if known else "attack", dataset, device),
        start=noise_source(seed, "start", dataset, device),
        memory=memory,
        journal=journal,
    )  # fmt: skip
