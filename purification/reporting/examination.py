"""What the evaluation checks about its own attack and gradients (claim A17)."""

from __future__ import annotations

import numpy as np

from purification.reporting.rows import Rows, fixed_correct

AUDIT_LIMITS = {"replay_difference": 1e-4, "finite_difference": 1e-2, "repeat_difference": 0.0, "zero_gradient": 0.0}


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
    for name, limit in AUDIT_LIMITS.items():
        worst = float(rows.frames["audit"][name].quantile(0.95 if name == "finite_difference" else 1.0))
        checks[name] = (worst <= limit, f"{worst:.2g}, limit {limit:g}")
    return checks


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
