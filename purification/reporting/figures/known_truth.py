"""How far protocols are from the truth, defence by defence."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from purification.reporting.figures import style
from purification.reporting.known_truth import GROUPS, bias, main_rows, ordered

LIMIT = 90.0  # points: the ends of the axes
GOLDEN = 0.618  # steps by it fill an interval evenly
SPREAD = 0.6  # of the height of a line that points may take


def known_truth(rows: pd.DataFrame) -> Figure:
    """Reported minus true accuracy of every defence under every protocol, by group, with the mean and its interval.

    rows  as in `reporting.known_truth`
    """
    shown = main_rows(rows)
    shown = shown.assign(error=100.0 * (shown.reported - shown.truth))
    with style.context():
        return _draw(shown, bias(rows))


def _draw(shown: pd.DataFrame, means: pd.DataFrame) -> Figure:
    names = ordered(shown.protocol)
    groups = [group for group in GROUPS if group in set(shown.group)]
    figure, axes = style.panels(1, len(groups), height=1.1 + 0.26 * len(names), sharey=True, sharex=True)
    for axis, group, letter in zip(axes.flat, groups, "abcd", strict=False):
        _group(axis, shown[shown.group == group], means[means.group == GROUPS[group]], names)
        style.title(axis, letter, GROUPS[group].replace(", ", ",\n     "))
    style.key(figure, _handles(), 3)
    style.note(figure, "reported minus true accuracy in points; bars: mean over defences with its 95 % interval")
    return figure


def _group(axis: Axes, own: pd.DataFrame, means: pd.DataFrame, names: list[str]) -> None:
    axis.axvline(0.0, color=style.FAINT, linewidth=0.8, zorder=0)
    places = own.assign(y=own.protocol.map(names.index) + _offsets(own))
    colours = {False: style.BLUE, True: style.ORANGE}
    sns.scatterplot(
        places, x="error", y="y", hue="marked", palette=colours, s=9, alpha=0.7, linewidth=0, legend=False, ax=axis
    )
    for row in means.itertuples():
        y = names.index(row.protocol)
        axis.hlines(y, row.bias_low, row.bias_high, color=style.INK, linewidth=1.4, zorder=4)
        axis.plot(row.bias, y, marker="|", markersize=9, markeredgewidth=1.6, color=style.INK, zorder=5)
    axis.set(xlim=(-LIMIT, LIMIT), xlabel="points", ylabel="", ylim=(len(names) - 0.5, -0.5))
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _offsets(own: pd.DataFrame) -> pd.Series:
    """Vertical places within a line that keep equal errors apart, the same in every run."""
    return (own.groupby("protocol").cumcount() * GOLDEN % 1.0 - 0.5) * SPREAD


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color=style.BLUE, marker="o", linestyle="none", markersize=3.5, label="a defence"),
        Line2D([], [], color=style.ORANGE, marker="o", linestyle="none", markersize=3.5, label="one that ours marks"),
        Line2D([], [], color=style.INK, marker="|", markersize=8, label="mean, 95 % interval"),
    ]
