"""Fig. 3a: singular values of the Jacobian at fixed noise."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.statistics import Array

CUTS = (0.25, 1.0)
MODELS = {"trained": (style.BLUE, "-"), "null": (style.NULL, (0, (3, 2)))}
FLOOR = 1e-3


def spectrum(rows: Rows, extras: Extras) -> Figure:
    """Sorted singular values, their distribution, and the estimates that never form the Jacobian."""
    figure, axes = style.panels(1, 3, height=2.6, width_ratios=[1.15, 1, 1])
    if "jacobian" not in rows.frames or rows.select("jacobian", rows.headline).empty:
        style.empty(axes[0, 0], "no rows")
        return figure
    _sorted(axes[0, 0], rows)
    _distribution(axes[0, 1], rows)
    _matrix_free(axes[0, 2], rows)
    handles = [
        Line2D([], [], color=c, linestyle=s, label={"trained": "trained denoiser", "null": "Gaussian null model"}[m])
        for m, (c, s) in MODELS.items()
    ]
    style.key(figure, handles, 2)
    count = rows.frames["jacobian"].image.nunique()
    style.note(
        figure,
        f"a, b: {style.label(rows, rows.headline)}; {style.images(count)}; band in a: smallest to largest over images; values below {FLOOR:g} drawn there",
    )
    return figure


def _values(rows: Rows, purifier: str, model: str) -> Array | None:
    """(n, D) descending singular values, if measured."""
    frame = rows.select("jacobian", purifier, model)
    return None if frame.empty else np.stack(frame.singular_values.to_list())


def _sorted(axis: Axes, rows: Rows) -> None:
    style.title(axis, "a", "singular values, sorted")
    for model, (colour, dashes) in MODELS.items():
        values = _values(rows, rows.headline, model)
        if values is None:
            continue
        rank = np.arange(1, values.shape[1] + 1)
        shown = values.clip(FLOOR)
        axis.plot(rank, np.median(shown, axis=0), color=colour, linestyle=dashes)
        axis.fill_between(rank, shown.min(axis=0), shown.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    for cut in CUTS:
        axis.axhline(cut, color=style.RED, linewidth=0.6, zorder=0)
        axis.annotate(
            f" {cut:g}", (1.0, cut), xycoords=("axes fraction", "data"), color=style.RED, fontsize=7, va="center"
        )
    axis.set(yscale="log", xlabel="rank", ylabel=r"singular value $\sigma$", xlim=(0, None))


def _distribution(axis: Axes, rows: Rows) -> None:
    style.title(axis, "b", "cumulative distribution")
    lines = []
    for model, (colour, dashes) in MODELS.items():
        values = _values(rows, rows.headline, model)
        if values is None:
            continue
        sns.ecdfplot(x=values.clip(FLOOR).ravel(), ax=axis, color=colour, linestyle=dashes)
        below, above = (values < CUTS[0]).mean(), (values > CUTS[1]).mean()
        lines.append(f"{model}: {below:.0%} < {CUTS[0]:g}, {above:.1%} > {CUTS[1]:g}")
    for cut in CUTS:
        axis.axvline(cut, color=style.RED, linewidth=0.6, zorder=0)
    axis.text(
        0.03,
        0.98,
        "\n".join(lines),
        transform=axis.transAxes,
        va="top",
        fontsize=6.5,
        linespacing=1.4,
        backgroundcolor="white",
    )
    axis.set(xscale="log", xlabel=r"singular value $\sigma$", ylabel="fraction of values", ylim=(0, 1.02))


def _matrix_free(axis: Axes, rows: Rows) -> None:
    style.title(axis, "c", "matrix-free estimates")
    frame = rows.frames["jacobian"]
    full = np.stack([[np.sqrt(np.square(v).mean()), v[0]] for v in frame.singular_values])
    pairs = {
        "rms, random probes": (full[:, 0], np.sqrt(frame.hutchinson), "o", style.BLUE),
        "rms, small steps": (full[:, 0], frame.compression_small, "^", style.GREEN),
        "largest, power iteration": (full[:, 1], frame.largest_matrix_free, "s", style.ORANGE),
    }
    for name, (x, y, marker, colour) in pairs.items():
        axis.scatter(x, y, marker=marker, s=11, facecolor="none", edgecolor=colour, linewidth=0.7, label=name)
    low, high = full.min() * 0.8, full.max() * 1.25
    axis.plot([low, high], [low, high], color=style.FAINT, linewidth=0.6, zorder=0)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="from the full Jacobian",
        ylabel="without forming it",
        xlim=(low, high),
        ylim=(low, high),
    )
    style.plain_log(axis.xaxis, axis.yaxis)
    axis.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.1)
