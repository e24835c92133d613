"""What attackers of increasing knowledge leave, and what budget and steps they need."""

from __future__ import annotations

from itertools import cycle
from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification import statistics
from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import WORST_KNOWN, Rows, varied_correct
from purification.statistics import Estimate

Rung = tuple[str, str, str, str]  # what is shown, attack, estimand, colour


def robustness(rows: Rows, extras: Extras) -> Figure:
    """Accuracy of the purifiers that met more than the base attack, from no attack to known randomness."""
    chosen = attacked(rows)
    found = {(p, rung): _accuracy(rows, p, rung) for p in chosen for rung in _ladder(rows)}
    rungs = [rung for rung in _ladder(rows) if any(found[p, rung] for p in chosen)]
    figure, axes = style.lines(max(len(chosen), 1), height=1.0 + 0.21 * max(len(rungs), 3))
    if not chosen:
        style.empty(axes[0, 0], "no rows")
    for axis, letter, purifier in zip(axes.flat, cycle(ascii_lowercase), chosen, strict=False):
        style.title(axis, letter, style.label(rows, purifier))
        _rungs(axis, [(rung, found[purifier, rung]) for rung in rungs])
        if axis not in axes[:, 0]:
            axis.set_yticklabels([])
    undefended = rows.worst_known("identity") if _has(rows, "identity", rows.base_attack) else None
    tail = (
        f"; undefended classifier under all attacks that know the noise: {undefended.value:.3f}" if undefended else ""
    )
    style.note(figure, f"right: value (images); bars: 95 % score intervals over images, draws nested{tail}")
    return figure


def _ladder(rows: Rows) -> list[Rung]:
    """Weakest attacker first."""
    worst, votes = (rows.settings["evaluation"][name] for name in ("worst_of", "votes"))
    return [
        ("no attack, mean of draws", "clean", "mean", style.GREEN),
        ("random signs, mean of draws", "random", "mean", style.GREEN),
        ("transfer, mean of draws", "transfer", "mean", style.GREEN),
        ("attack on other noise, mean of draws", rows.plain_attack, "mean", style.BLUE),
        (f"EOT, majority of {votes}", "eot", "majority", style.BLUE),
        ("EOT, mean of draws", "eot", "mean", style.BLUE),
        (f"EOT, right in all {worst}", "eot", "worst", style.BLUE),
        ("BPDA, noise known", "bpda", "fixed", style.RED),
        ("exact gradient, noise known", rows.plain_attack, "fixed", style.RED),
        ("all attacks, noise known", rows.base_attack, WORST_KNOWN, style.RED),
    ]


def _accuracy(rows: Rows, purifier: str, rung: Rung) -> Estimate | None:
    """Accuracy of a purifier on a rung; None without rows or with too few draws for the estimand."""
    _, attack, estimand, _ = rung
    if not _has(rows, purifier, attack):
        return None
    if estimand == "fixed":
        return rows.fixed(purifier, attack)
    if estimand == WORST_KNOWN:
        return rows.worst_known(purifier)
    frame, evaluation = rows.purified(purifier, attack), rows.settings["evaluation"]
    correct, votes = varied_correct(frame), evaluation["votes"]
    if estimand == "mean":
        return statistics.rate(statistics.average_robustness(correct))
    if correct.shape[1] < max(evaluation["worst_of"], votes):
        return None
    if estimand == "worst":
        return statistics.rate(statistics.worst_of(correct, evaluation["worst_of"]))
    seen, labels, options = np.stack(frame.varied.to_list()), frame.label.to_numpy(), evaluation["vote_subsets"]
    return statistics.rate(statistics.majority_vote(seen, labels, votes, subsets=options, seed=rows.settings["seed"]))


def _has(rows: Rows, purifier: str, attack: str) -> bool:
    return "purified" in rows.frames and not rows.purified(purifier, attack).empty


def attacked(rows: Rows) -> list[str]:
    """Purifiers judged on more than what every purifier meets; the headline if there is none."""
    usual = {"clean", "random", "transfer", rows.base_attack, rows.settings["challenge_attack"]}
    names = list(rows.frames["purified"].purifier.unique()) if "purified" in rows.frames else []
    return [p for p in names if set(rows.attacks_on(p)) - usual] or [p for p in names if p == rows.headline]


def _rungs(axis: Axes, ladder: list[tuple[Rung, Estimate | None]]) -> None:
    for y, ((_, _, _, colour), estimate) in enumerate(ladder):
        axis.axhline(y, color=style.FAINT, linewidth=0.4, zorder=0, linestyle=(0, (1, 2)))
        if estimate:
            axis.hlines(y, estimate.low, estimate.high, color=colour, linewidth=1.2)
            axis.plot(estimate.value, y, marker="o", markersize=4, color=colour)
            text = f"{estimate.value:.2f}  ({estimate.n})"
            axis.annotate(text, (1.06, y), va="center", fontsize=6.5, annotation_clip=False)
    axis.set(yticks=range(len(ladder)), ylim=(len(ladder) - 0.5, -0.5), xlim=(-0.03, 1.03), xlabel="accuracy")
    axis.set_yticklabels([text for (text, _, _, _), _ in ladder])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def budget(rows: Rows, extras: Extras) -> Figure:
    """Accuracy of the undefended classifier against the budget, and of the headline against the attack's steps."""
    measured = set(rows.frames["attack_strength"].purifier) if "attack_strength" in rows.frames else set()
    curves = {p: rows.budget_curve(p) for p in ("identity", rows.headline) if p in measured}
    if not curves:
        return style.nothing()
    figure, axes = style.panels(1, 2, height=2.5, width_ratios=[1.5, 1], sharey=True)
    usual = rows.base_steps
    style.title(axes[0, 0], "a", f"budget of the attack, {usual} steps")
    for purifier, curve in curves.items():
        _against(axes[0, 0], rows, purifier, curve[(curve.steps == usual) | (curve.scale == 0)], "epsilon")
    _budget_axis(axes[0, 0], rows, {p: curve[curve.steps == usual] for p, curve in curves.items()})
    style.title(axes[0, 1], "b", "steps of the attack, budget ε")
    own = curves.get(rows.headline, pd.DataFrame({"scale": []}))
    _against(axes[0, 1], rows, rows.headline, own[own.scale == 1.0], "steps")
    if len(own):
        steps = sorted(own[own.scale == 1.0].steps)
        axes[0, 1].set(xlabel="steps (their total length is constant)", xscale="log")
        axes[0, 1].set_xticks(steps, labels=[str(s) for s in steps])
        axes[0, 1].minorticks_off()
    count = max(int(curve.robust_n.max()) for curve in curves.values())
    style.note(figure, f"{style.images(count)}; noise known to the attacker; bars: 95 % Wilson intervals")
    return figure


def _against(axis: Axes, rows: Rows, purifier: str, curve: pd.DataFrame, column: str) -> None:
    if curve.empty:
        return style.empty(axis, "no rows")
    bare = purifier == "identity"
    colour, marker, dashes = (style.INK, "o", "-") if bare else (style.BLUE, "s", (0, (1, 1.5)))
    name = f"undefended{style.dagger(rows, purifier)}" if bare else style.label(rows, purifier)
    curve = curve.sort_values(column)
    axis.plot(curve[column], curve.robust, color=colour, marker=marker, markersize=3.5, linestyle=dashes, label=name)
    axis.vlines(curve[column], curve.robust_low, curve.robust_high, color=colour, linewidth=0.9)
    return None


def _budget_axis(axis: Axes, rows: Rows, curves: dict[str, pd.DataFrame]) -> None:
    """Budgets up to the threat model's; what was measured beyond is written instead of drawn."""
    threat = rows.settings["threat"]
    epsilon, norm = float(threat["epsilon"]), style.NORMS.get(threat["norm"], threat["norm"])
    axis.axvline(epsilon, color=style.FAINT, linewidth=0.8, zorder=0)
    axis.annotate("ε", (epsilon, 1.0), (3, 0), textcoords="offset points", va="top", color=style.NULL)
    axis.set(xlabel=f"budget ({norm}, pixels in [0, 1])", ylabel="robust accuracy", ylim=(0, 1.02))
    axis.set_xlim(0, 1.08 * epsilon)
    axis.legend(loc="lower left")
    beyond = [
        f"{style.label(rows, purifier)} at {point.scale:g} ε: {point.robust:.2f}"
        for purifier, curve in curves.items()
        for point in curve[curve.scale > 1.0].itertuples()
    ]
    if beyond:
        axis.text(0.02, 0.28, "\n".join(beyond), transform=axis.transAxes, fontsize=7, color=style.NULL)
