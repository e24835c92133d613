"""What each addition to an attack takes from the accuracy of the headline purifier."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.ladder import ladder as ladder_table
from purification.reporting.rows import Rows

COLOURS = {"varied": style.BLUE, "fixed": style.RED}  # judged on fresh draws, on the frozen one; a mixture else


def ladder(rows: Rows, extras: Extras) -> Figure:
    """Accuracy rung by rung, and the points that each rung takes from the one above it."""
    if "purified" not in rows.frames or rows.purified(rows.headline, "clean").empty:
        return style.nothing()
    table = ladder_table(rows)
    figure, axes = style.panels(1, 2, height=0.9 + 0.28 * max(len(table), 3), width_ratios=[1.25, 1], sharey=True)
    _accuracies(axes[0, 0], rows, table)
    _steps(axes[0, 1], table)
    who, count = style.label(rows, rows.headline), style.images(int(table.robust_n.iloc[0]))
    bars = "bars: 95 % over images, draws nested"
    crosses = "grey crosses: random noise as large as the budget, judged in the same way"
    style.note(figure, f"{who}; the same {count} on every rung; {bars}; {crosses}")
    return figure


def _accuracies(axis: Axes, rows: Rows, table: pd.DataFrame) -> None:
    style.title(axis, "a", "accuracy")
    for y, row in enumerate(table.itertuples()):
        colour = style.GREEN if row.attack == "clean" else COLOURS.get(row.judged_by, style.PINK)
        axis.axhline(y, color=style.FAINT, linewidth=0.4, zorder=0, linestyle=(0, (1, 2)))
        axis.plot(row.random, y, marker="x", markersize=4, color=style.NULL, linestyle="none")
        axis.hlines(y, row.robust_low, row.robust_high, color=colour, linewidth=1.2)
        axis.plot(row.robust, y, marker="o", markersize=4, color=colour)
        axis.annotate(f"{row.robust:.2f}", (1.04, y), va="center", fontsize=6.5, annotation_clip=False)
    axis.set(yticks=range(len(table)), ylim=(len(table) - 0.5, -0.5), xlim=(-0.03, 1.03), xlabel="accuracy")
    axis.set_yticklabels([rung_label(rows, row) for row in table.to_dict("records")])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _steps(axis: Axes, table: pd.DataFrame) -> None:
    style.title(axis, "b", "taken from the rung above")
    axis.axvline(0, color=style.FAINT, linewidth=0.8, zorder=0)
    for y, row in list(enumerate(table.itertuples()))[1:]:
        axis.hlines(y, row.points_low, row.points_high, color=style.INK, linewidth=1.2)
        axis.plot(row.points, y, marker="o", markersize=4, color=style.INK)
        axis.annotate(f"{row.points:+.0f}", (1.03, y), xycoords=("axes fraction", "data"), va="center", fontsize=6.5)
    axis.set(xlabel="percentage points")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def rung_label(rows: Rows, row: dict[str, object]) -> str:
    """What an attack has: its gradient, or its name where it has several stages, its draws, and what it knows."""
    if row["attack"] == "clean":
        return "no attack"
    gradient = {"replay": "exact", "autograd": "exact"}.get(str(row["gradient"]), str(row["gradient"]))
    shown = gradient or str(row["attack"])
    known = {
        "none": "1 draw" if row["draws"] == 1 else f"EOT over {row['draws']}",
        "semi": f"knows a pool of {row['pool']}",
        "both": "knows the noise",
    }
    return f"{shown}, {known.get(str(row['knowledge']), str(row['knowledge']) + ' noise known')}"
