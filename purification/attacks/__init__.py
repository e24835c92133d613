"""Attacks propose images; `ThreatModel` projects and checks, and robustness is judged on draws no attack has seen."""

from purification.attacks.pgd import PGD, pgd_attack
from purification.attacks.problem import AttackResult, Problem

__all__ = ["PGD", "AttackResult", "Problem", "pgd_attack"]
