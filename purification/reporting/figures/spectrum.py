"""Fig. 3a: singular values of the Jacobian at fixed noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.reporting.spectra import means, spectra
from purification.statistics import Array

CUTS = (0.25, 1.0)
MODELS: dict[str, tuple[str, Any]] = {"trained": (style.BLUE, "-"), "null": (style.NULL, (0, (3, 2)))}
FLOOR = 1e-3


def spectrum(rows: Rows, extras: Extras) -> Figure:
    """Sorted singular values, their distribution, and the estimates that never form the Jacobian."""
    if "jacobian" not in rows.frames or rows.select("jacobian", rows.headline).empty:
        return style.nothing()
    figure, axes = style.panels(1, 3, height=2.6, width_ratios=[1.15, 1, 1])
    _sorted(axes[0, 0], rows)
    _distribution(axes[0, 1], rows)
    _matrix_free(axes[0, 2], rows)
    style.key(figure, [_handle(rows, model) for model in MODELS if _values(rows, rows.headline, model) is not None], 2)
    shown = f"a, b: {style.label(rows, rows.headline)}; {style.images(rows.frames['jacobian'].image.nunique())}"
    style.note(
        figure, f"{shown}; band in a: smallest to largest over images; values below {FLOOR:g} are drawn at {FLOOR:g}"
    )
    return figure


def _values(rows: Rows, purifier: str, model: str) -> tuple[Array, Array] | None:
    """Singular values of every image, descending, and their weights, both (n, values), if measured."""
    frame = rows.select("jacobian", purifier, model)
    if frame.empty:
        return None
    values, weights = (part.reshape(len(frame), -1) for part in spectra(frame))
    order = np.argsort(-values, axis=1, kind="stable")
    share = weights / weights.sum(axis=1, keepdims=True)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(share, order, axis=1)


def _handle(rows: Rows, model: str) -> Line2D:
    """Legend entry with the fractions below and above the cuts."""
    found, (colour, dashes) = _values(rows, rows.headline, model), MODELS[model]
    assert found is not None
    values, weights = found
    below, above = (100.0 * (weights * at).sum(axis=1).mean() for at in (values < CUTS[0], values > CUTS[1]))
    name = {"trained": "trained denoiser", "null": "Gaussian null model"}[model]
    text = f"{name}: {below:.0f} % below {CUTS[0]:g}, {above:.1f} % above {CUTS[1]:g}"
    return Line2D([], [], color=colour, linestyle=dashes, label=text)


def _sorted(axis: Axes, rows: Rows) -> None:
    style.title(axis, "a", "singular values, sorted")
    pixels = rows.frames["jacobian"].pixels.max()
    for model, (colour, dashes) in MODELS.items():
        found = _values(rows, rows.headline, model)
        if found is None:
            continue
        shown, weights = found[0].clip(FLOOR), found[1]
        if rows.select("jacobian", rows.headline, model).directions.max() > 1:
            for line, weight in zip(shown, weights, strict=True):
                axis.step(pixels * weight.cumsum(), line, color=colour, linestyle=dashes, linewidth=0.8)
            continue
        rank = np.arange(1, shown.shape[1] + 1)
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
    for model, (colour, dashes) in MODELS.items():
        found = _values(rows, rows.headline, model)
        if found is None:
            continue
        values, weights = (part.ravel() for part in found)
        sns.ecdfplot(x=values.clip(FLOOR), weights=weights, ax=axis, color=colour, linestyle=dashes)
    for cut in CUTS:
        axis.axvline(cut, color=style.RED, linewidth=0.6, zorder=0)
    axis.set(xscale="log", xlabel=r"singular value $\sigma$", ylabel="fraction of values", ylim=(0, 1.02))


def _matrix_free(axis: Axes, rows: Rows) -> None:
    style.title(axis, "c", "matrix-free estimates")
    frame = rows.frames["jacobian"]
    rms = np.sqrt(means(frame, np.square)[0])
    full = np.stack([rms, np.array([np.max(v) for v in frame.singular_values])], axis=1).clip(FLOOR)
    pairs = {
        "rms, probes": (full[:, 0], np.sqrt(frame.hutchinson), "o", style.BLUE),
        "rms, differences": (full[:, 0], frame.compression_small, "^", style.GREEN),
        "largest": (full[:, 1], frame.largest_matrix_free, "s", style.ORANGE),
    }
    for name, (x, y, marker, colour) in pairs.items():
        axis.scatter(
            x, y.clip(lower=FLOOR), marker=marker, s=11, facecolor="none", edgecolor=colour, linewidth=0.7, label=name
        )
    bars = [np.sqrt(frame[f"hutchinson_{end}"].clip(lower=0)).clip(lower=FLOOR) for end in ("low", "high")]
    axis.vlines(full[:, 0], *bars, color=style.BLUE, linewidth=0.6)
    low, high = full.min() * 0.8, full.max() * 1.25
    axis.plot([low, high], [low, high], color=style.FAINT, linewidth=0.6, zorder=0)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="from the spectrum",
        ylabel="without forming it",
        xlim=(low, high),
        ylim=(low, high),
    )
    style.plain_log(axis.xaxis, axis.yaxis)
    axis.legend(loc="lower right", handletextpad=0.1, borderaxespad=0.1)
