"""Attacks propose images; `ThreatModel` projects and checks, and robustness is judged on draws no attack has seen."""

from purification.attacks.apgd import APGD, apgd_attack
from purification.attacks.autoattack import AutoAttack, auto_attack
from purification.attacks.choosing import Attack, attack_after, sequence_attack
from purification.attacks.diffattack import diffattack_attack
from purification.attacks.diffhammer import DiffHammer, diffhammer_attack
from purification.attacks.exemplars import Exemplars, exemplar_attack
from purification.attacks.fab import FAB, fab_attack
from purification.attacks.pgd import PGD, pgd_attack
from purification.attacks.problem import AttackResult, Problem, References
from purification.attacks.square import Square, square_attack

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "DiffHammer",
    "Exemplars",
    "Problem",
    "References",
    "Square",
    "apgd_attack",
    "attack_after",
    "auto_attack",
    "diffattack_attack",
    "diffhammer_attack",
    "exemplar_attack",
    "fab_attack",
    "pgd_attack",
    "sequence_attack",
    "square_attack",
]
