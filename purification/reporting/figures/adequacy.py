"""Whether more steps, restarts and draws make the attacks stronger, and how many draws their gradient needs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification.reporting.adequacy import AXES, along, attack_adequacy, gradient_noise
from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows

COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.RED)
MARKS: dict[str, tuple[str, str]] = {
    "cosine": ("o", style.BLUE),
    "same_sign": ("s", style.GREEN),
    "relative_variance": ("^", style.RED),
}


def adequacy(rows: Rows, extras: Extras) -> Figure:
    """Accuracy (top) and loss (bottom) along each setting of the attack; the gradient's noise beside them."""
    frame = rows.frames.get("attack_adequacy", pd.DataFrame({"purifier": []}))
    if frame[frame.purifier == rows.headline].empty:
        return style.nothing()
    table = attack_adequacy(rows)
    table = table[table.purifier == rows.headline]
    names = [name for name in AXES if list(along(table, name))]
    figure, axes = style.panels(2, len(names) + 1, height=3.6, sharex="col")
    for column, (letter, name) in enumerate(zip("abc", names, strict=False)):
        style.title(axes[0, column], letter, f"{name} of the attack")
        _column(axes[:, column], table, name)
    if names:
        axes[0, 0].set_ylabel("robust accuracy")
        axes[1, 0].set_ylabel("cross-entropy")
    _noise(axes[0, -1], axes[1, -1], rows, "abcd"[len(names)])
    n, judged = int(table.robust_n.max()), int(table.judging_draws.max())
    text = f"{style.label(rows, rows.headline)}; {style.images(n)}; where the noise is not known, {judged} fresh draws"
    last = f"last: {_count(rows)} images, against the mean of other draws"
    style.note(figure, f"{text}; bars: 95 % over images; {last}")
    return figure


def _count(rows: Rows) -> int:
    frame = rows.frames.get("gradient_noise")
    return 0 if frame is None else int(frame.image.nunique())


def _column(axes: Any, table: pd.DataFrame, name: str) -> None:
    found = list(along(table, name))
    for colour, (attack, group) in zip(COLOURS, found, strict=False):
        for axis, value in zip(axes, ("robust", "loss"), strict=True):
            options = {"color": colour, "marker": "o", "markersize": 3.5}
            axis.plot(group[name], group[value], label=attack, **options)
            axis.vlines(group[name], group[f"{value}_low"], group[f"{value}_high"], color=colour, linewidth=0.9)
    ticks = sorted({int(x) for _, group in found for x in group[name]})
    axes[1].set(xlabel=name, xscale="log")
    axes[1].set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes[1].minorticks_off()
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend(loc="best")


def _noise(top: Axes, bottom: Axes, rows: Rows, letter: str) -> None:
    style.title(top, letter, "mean of N gradients")
    table = gradient_noise(rows) if "gradient_noise" in rows.frames else pd.DataFrame({"purifier": []})
    table = table[table.purifier == rows.headline]
    if table.empty:
        style.empty(top, "no rows")
        style.empty(bottom, "no rows")
        return
    for name, (marker, colour) in MARKS.items():
        axis = bottom if name == "relative_variance" else top
        label = {"cosine": "cosine", "same_sign": "same sign", "relative_variance": "relative variance"}[name]
        axis.plot(table.draws, table[name], color=colour, marker=marker, markersize=3.5, label=label)
        axis.vlines(table.draws, table[f"{name}_low"], table[f"{name}_high"], color=colour, linewidth=0.9)
        axis.legend(loc="best")
    top.set_ylim(0, 1.05)
    bottom.set(xlabel="draws N", xscale="log")
    if (table.relative_variance > 0.0).any():
        bottom.set_yscale("log")
        style.plain_log(bottom.yaxis)
    ticks = sorted(int(x) for x in table.draws)
    bottom.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    bottom.minorticks_off()
