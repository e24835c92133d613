"""What attackers of increasing knowledge leave, and what budget and steps they need."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification import statistics
from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows, fixed_correct, varied_correct
from purification.statistics import Estimate

Rung = tuple[str, Estimate, str]


def robustness(rows: Rows, extras: Extras) -> Figure:
    """Accuracy of the purifiers that met more than the base attack, from no attack to known randomness."""
    chosen = _attacked(rows)
    ladders = {purifier: list(_ladder(rows, purifier)) for purifier in chosen}
    height = 1.0 + 0.21 * max((len(ladder) for ladder in ladders.values()), default=3)
    figure, axes = style.panels(1, max(len(chosen), 1), height=height, sharex=True)
    if not chosen:
        style.empty(axes[0, 0], "no rows")
    order = list(dict.fromkeys(text for ladder in ladders.values() for text, _, _ in ladder))
    for axis, letter, (purifier, ladder) in zip(axes[0], "abcdefgh", ladders.items(), strict=False):
        style.title(axis, letter, style.label(rows, purifier))
        _rungs(axis, ladder, order, labelled=axis is axes[0, 0])
    undefended = rows.fixed("identity", rows.base_attack) if _has(rows, "identity", rows.base_attack) else None
    tail = f"; undefended classifier under the same attack: {undefended.value:.3f}" if undefended else ""
    style.note(
        figure,
        f"n images at the right; bars: 95 % (Wilson for fixed noise, bootstrap over images for fresh draws){tail}",
    )
    return figure


def _has(rows: Rows, purifier: str, attack: str) -> bool:
    return "purified" in rows.frames and not rows.purified(purifier, attack).empty


def _attacked(rows: Rows) -> list[str]:
    """Purifiers judged on an attack beyond the base attack; the headline if there is none."""
    usual = {"clean", "random", "transfer", rows.base_attack}
    names = list(rows.frames["purified"].purifier.unique()) if "purified" in rows.frames else []
    return [p for p in names if set(rows.attacks_on(p)) - usual] or [p for p in names if p == rows.headline]


def _ladder(rows: Rows, purifier: str) -> Iterator[Rung]:
    """Rungs (text, accuracy, colour), weakest attacker first; those without rows are left out."""
    evaluation = rows.settings["evaluation"]
    worst, votes = evaluation["worst_of"], evaluation["votes"]

    def fresh(attack: str) -> Estimate:
        return rows.mean(statistics.average_robustness(varied_correct(rows.purified(purifier, attack))))

    for attack, text in {"clean": "clean", "random": "random signs", "transfer": "transfer"}.items():
        if _has(rows, purifier, attack):
            yield f"{text}, mean of draws", fresh(attack), style.GREEN
    if _has(rows, purifier, rows.base_attack):
        yield "known-noise attack, other noise", fresh(rows.base_attack), style.BLUE
    if _has(rows, purifier, "eot"):
        frame = rows.purified(purifier, "eot")
        labels, draws = frame.label.to_numpy(), np.stack(frame.varied.to_list())
        if draws.shape[1] >= votes:
            majority = statistics.majority_vote(
                draws, labels, votes, subsets=evaluation["vote_subsets"], seed=rows.settings["seed"]
            )
            yield f"EOT, majority of {votes}", rows.mean(majority), style.BLUE
        yield "EOT, mean of draws", fresh("eot"), style.BLUE
        if draws.shape[1] >= worst:
            yield f"EOT, right in all {worst}", rows.mean(statistics.worst_of(varied_correct(frame), worst)), style.BLUE
    for attack, text in {"bpda": "BPDA, noise known", rows.base_attack: "exact gradient, noise known"}.items():
        if _has(rows, purifier, attack):
            yield text, rows.fixed(purifier, attack), style.RED


def _rungs(axis: Axes, ladder: list[Rung], order: list[str], *, labelled: bool) -> None:
    for text, estimate, colour in ladder:
        y = order.index(text)
        axis.hlines(y, estimate.low, estimate.high, color=colour, linewidth=1.2)
        axis.plot(estimate.value, y, marker="o", markersize=4, color=colour)
        axis.annotate(
            f"{estimate.value:.2f}  ({estimate.n})", (1.03, y), va="center", fontsize=6.5, annotation_clip=False
        )
    for y in range(len(order)):
        axis.axhline(y, color=style.FAINT, linewidth=0.4, zorder=0, linestyle=(0, (1, 2)))
    axis.set(yticks=range(len(order)), ylim=(len(order) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel="accuracy")
    axis.set_yticklabels(order if labelled else [])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def budget(rows: Rows, extras: Extras) -> Figure:
    """Accuracy of the undefended classifier against the budget, and of the headline against the attack's steps."""
    figure, axes = style.panels(1, 2, height=2.5, width_ratios=[1.5, 1])
    measured = set(rows.frames["attack_strength"].purifier) if "attack_strength" in rows.frames else set()
    curves = {p: rows.budget_curve(p) for p in ("identity", rows.headline) if p in measured}
    usual = rows.settings["attacks"][rows.base_attack]["steps"]
    style.title(axes[0, 0], "a", f"budget ({usual} steps)")
    for purifier, curve in curves.items():
        _against(axes[0, 0], curve[curve.steps == usual], "epsilon", *_style_of(rows, purifier))
    _budget_axis(axes[0, 0], rows)
    style.title(axes[0, 1], "b", "steps (full budget)")
    own = curves.get(rows.headline, pd.DataFrame())
    if own.empty:
        style.empty(axes[0, 1], "no rows")
    else:
        _against(axes[0, 1], own[own.scale == 1.0], "steps", *_style_of(rows, rows.headline))
        steps = sorted(own[own.scale == 1.0].steps)
        axes[0, 1].set(xlabel="steps of the attack", xscale="log", xticks=steps, ylim=(0, 1.02))
        axes[0, 1].set_xticks(steps, labels=[str(s) for s in steps])
        axes[0, 1].minorticks_off()
    count = max((int(curve.robust_n.max()) for curve in curves.values()), default=0)
    style.note(
        figure, f"{style.images(count)}; noise known to the attacker; steps × step size is constant; bars: 95 % Wilson"
    )
    return figure


def _style_of(rows: Rows, purifier: str) -> tuple[str, str, str]:
    return (style.INK, "o", "undefended") if purifier == "identity" else (style.BLUE, "s", style.label(rows, purifier))


def _against(axis: Axes, curve: pd.DataFrame, column: str, colour: str, marker: str, name: str) -> None:
    curve = curve.sort_values(column)
    axis.plot(curve[column], curve.robust, color=colour, marker=marker, markersize=3.5, label=name)
    axis.vlines(curve[column], curve.robust_low, curve.robust_high, color=colour, linewidth=0.9)


def _budget_axis(axis: Axes, rows: Rows) -> None:
    epsilon = float(rows.settings["threat"]["epsilon"])
    axis.axvline(epsilon, color=style.FAINT, linewidth=0.8, zorder=0)
    axis.annotate("ε", (epsilon, 1.0), (3, -2), textcoords="offset points", va="top", color=style.NULL)
    axis.set(
        xlabel=f"budget, {rows.settings['threat']['norm']} norm (pixel range 1)",
        ylabel="robust accuracy",
        ylim=(0, 1.02),
        xlim=(0, None),
    )
    if axis.get_lines():
        axis.legend(loc="upper right")
