"""What the evaluation checks about its own attack and gradients (claim A17)."""

from __future__ import annotations

import pandas as pd

from purification import statistics
from purification.reporting.adequacy import adequacy_checks
from purification.reporting.rows import Rows, fixed_correct
from purification.reporting.self_check import SelfCheck, holds, no_drop


def attack_checks(rows: Rows) -> dict[str, SelfCheck]:
    """The checks behind A17, by name."""
    return _strength(rows) | _zero_strength(rows) | adequacy_checks(rows) | _evidence(rows)


def _strength(rows: Rows) -> dict[str, SelfCheck]:
    """The base attack on the headline with other budgets and other numbers of steps."""
    frame = rows.frames.get("attack_strength")
    if frame is None:
        return {"budgets and steps": SelfCheck("inconclusive", "not measured")}
    own = frame[frame.purifier == rows.headline]
    usual = own[own.steps == rows.base_steps]
    return _large_budget(rows, usual) | _no_budget(rows, own) | _more_steps(rows, own)


def _large_budget(rows: Rows, usual: pd.DataFrame) -> dict[str, SelfCheck]:
    chance = 1.0 / rows.frames["purified"].label.nunique()
    if usual.empty:
        return {"largest budget at or below chance": SelfCheck("inconclusive", "not measured")}
    largest = usual.scale.max()
    correct = usual[usual.scale == largest].correct
    found = statistics.wilson(int(correct.sum()), len(correct))
    seen = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] against {chance:.3f}, {found.n} images"
    verdict = "pass" if found.value <= chance else "fail" if found.low > chance else "inconclusive"
    return {f"budget x{largest:g} at or below chance": SelfCheck(verdict, seen)}


def _no_budget(rows: Rows, own: pd.DataFrame) -> dict[str, SelfCheck]:
    """Without a budget the attack leaves what the clean images give, image by image."""
    name = "zero budget equals clean"
    none = own[own.scale == 0.0].set_index("image").correct
    clean = rows.purified(rows.headline, "clean").set_index("image")
    right = (clean.fixed == clean.label).reindex(none.index)
    both = right.notna()
    if not both.any():
        return {name: SelfCheck("inconclusive", "not measured")}
    different = int((none[both].astype(bool) != right[both].astype(bool)).sum())
    return {name: holds(different == 0, f"{different} of {int(both.sum())} images differ")}


def _more_steps(rows: Rows, own: pd.DataFrame) -> dict[str, SelfCheck]:
    """More steps, steps times step size as it is, take less than the margin: an attack they help was too weak."""
    budget = own[own.scale == 1.0]
    usual = budget[budget.steps == rows.base_steps].set_index("image").correct.astype(float)
    checks = {}
    for steps in sorted(step for step in budget.steps.unique() if step > rows.base_steps):
        more = budget[budget.steps == steps].set_index("image").correct.astype(float)
        drop = statistics.difference((usual - more).dropna())
        name = f"{steps} steps against {rows.base_steps}"
        checks[name] = no_drop(drop, rows.settings["attack_adequacy"]["margin"])
    return checks or {"more steps": SelfCheck("inconclusive", "not measured")}


def _evidence(rows: Rows) -> dict[str, SelfCheck]:
    """No purifier that the claims rest on is marked."""
    if not rows.verdicts:
        return {"gradients audited": SelfCheck("inconclusive", "not measured")}
    relied = list(dict.fromkeys([*rows.settings["run"]["sweep"], "identity"]))
    found = [name for name in relied if name in rows.unreliable]
    seen = f"{len(found)} of {len(relied)} purifiers are marked" + (f": {', '.join(found)}" if found else "")
    return {"no purifier of the claims is marked": holds(not found, seen)}


def _zero_strength(rows: Rows) -> dict[str, SelfCheck]:
    """t* = 0 must reproduce the undefended classifier image by image."""
    seen = {}
    for name, entry in rows.settings["purifiers"].items():
        if entry.get("t_star") != 0 or name not in rows.settings["run"]["controls"]:
            continue
        own = rows.purified(name, rows.base_attack)
        bare = rows.purified("identity", rows.base_attack)
        same = fixed_correct(own).tolist() == fixed_correct(bare).tolist() and own.fixed.tolist() == bare.fixed.tolist()
        seen[f"{name} equals the base attack"] = holds(same, f"{len(own)} images")
    return seen
