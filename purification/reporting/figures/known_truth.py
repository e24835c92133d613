"""How far protocols are from the truth, defence by defence."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from purification.reporting.figures import style
from purification.reporting.known_truth import GROUPS, OURS, bias, main_rows, ordered

LIMIT = 75.0  # points: the ends of the axes


def known_truth(rows: pd.DataFrame) -> Figure:
    """Reported minus true accuracy of every defence under every protocol, by group, with the mean and its interval.

    rows  as in `reporting.known_truth`
    """
    shown = main_rows(rows)
    shown = shown.assign(error=100.0 * (shown.reported - shown.truth))
    names = ordered(shown.protocol)
    means = bias(rows)
    groups = [group for group in GROUPS if group in set(shown.group)]
    figure, axes = style.panels(1, len(groups), height=0.9 + 0.3 * len(names), sharey=True)
    with style.context():
        for axis, group, letter in zip(axes.flat, groups, "abcd", strict=False):
            _group(axis, shown[shown.group == group], means[means.group == GROUPS[group]], names)
            style.title(axis, letter, GROUPS[group])
    style.key(figure, _handles(), 3)
    style.note(figure, "bars: mean over defences with its 95 % interval; marked: the audit says not to trust the number")
    return figure


def _group(axis: Axes, own: pd.DataFrame, means: pd.DataFrame, names: list[str]) -> None:
    axis.axvline(0.0, color=style.FAINT, linewidth=0.8, zorder=0)
    for marked, colour in ((False, style.BLUE), (True, style.ORANGE)):
        some = own[own.marked == marked] if marked else own[~own.marked | (own.protocol != OURS)]
        some = some[some.protocol == OURS] if marked else some
        if len(some):
            sns.stripplot(
                some, x="error", y="protocol", order=names, jitter=0.22, size=2.6, alpha=0.6, color=colour, ax=axis,
                legend=False,
            )  # fmt: skip
    for row in means.itertuples():
        y = names.index(row.protocol)
        axis.hlines(y, row.bias_low, row.bias_high, color=style.INK, linewidth=1.4, zorder=4)
        axis.plot(row.bias, y, marker="|", markersize=9, markeredgewidth=1.6, color=style.INK, zorder=5)
    axis.set(xlim=(-LIMIT, LIMIT), xlabel="reported − true, points", ylabel="", ylim=(len(names) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _handles() -> list[Line2D]:
    dot = {"marker": "o", "linestyle": "none", "markersize": 3.5}
    return [
        Line2D([], [], color=style.BLUE, label="a defence", **dot),
        Line2D([], [], color=style.ORANGE, label="a defence that ours marks", **dot),
        Line2D([], [], color=style.INK, marker="|", markersize=8, label="mean"),
    ]
