"""What the evaluation checks about its own attack and gradients (claim A17)."""

from __future__ import annotations

import numpy as np

from purification.reporting.adequacy import adequacy_checks
from purification.reporting.reliability import audits
from purification.reporting.rows import Rows, fixed_correct


def attack_checks(rows: Rows) -> dict[str, tuple[bool, str]]:
    """Parts of A17: name -> (holds, what was seen)."""
    curve = rows.budget_curve(rows.headline)
    usual = rows.settings["attacks"][rows.base_attack]["steps"]
    same_steps, same_size = curve[curve.steps == usual], curve[curve.scale == 1.0].sort_values("steps")
    largest, zero = same_steps.scale.max(), curve[curve.scale == 0.0].robust
    chance = 1.0 / rows.frames["purified"].label.nunique()
    big = float(same_steps[same_steps.scale == largest].robust.iloc[0])
    clean = float(fixed_correct(rows.purified(rows.headline, "clean")[: int(curve.robust_n.max())]).mean())
    noise_margin = 1.0 / float(curve.robust_n.max())
    checks = {
        f"budget x{largest:g} at or below chance": (big <= chance, f"{big:.3f} against {chance:.3f}"),
        "zero budget equals clean": (
            bool(len(zero)) and float(zero.iloc[0]) == clean,
            f"{zero.tolist()} against {clean:.3f}",
        ),
        "no gain from more steps": (
            bool((np.diff(same_size.robust) <= noise_margin).all()),
            ", ".join(f"{s}: {r:.3f}" for s, r in zip(same_size.steps, same_size.robust, strict=True)),
        ),
    }
    checks |= _zero_strength(rows)
    return checks | adequacy_checks(rows) | _gradients(rows)


def _gradients(rows: Rows) -> dict[str, tuple[bool, str]]:
    """Worst audit among the purifiers that the claims rest on; every purifier's own is in table `reliability`."""
    limits, run = rows.settings["reliability"], rows.settings["run"]
    table = audits(rows.frames["audit"], limits).set_index("purifier")
    relied = table.loc[[name for name in dict.fromkeys([*run["sweep"], "identity"]) if name in table.index]]
    missing = len({*run["sweep"], "identity"} - {*table.index})
    seen = {name: (bool((relied[name] <= limit).all()), relied[name].max(), limit) for name, limit in limits.items()}
    checks = {name: (ok, f"{worst:.2g}, limit {limit:g}") for name, (ok, worst, limit) in seen.items()}
    return checks | {"gradients audited": (not missing, f"{len(relied)} purifiers, {missing} missing")}


def _zero_strength(rows: Rows) -> dict[str, tuple[bool, str]]:
    """t* = 0 must reproduce the undefended classifier image by image."""
    zero = [
        n
        for n, e in rows.settings["purifiers"].items()
        if e.get("t_star") == 0 and n in rows.settings["run"]["controls"]
    ]
    seen = {}
    for name in zero:
        a, b = rows.purified(name, rows.base_attack), rows.purified("identity", rows.base_attack)
        seen[f"{name} equals the base attack"] = (a.fixed.tolist() == b.fixed.tolist(), f"{len(a)} images")
    return seen
