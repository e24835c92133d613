"""Fig. 3b, c: robust accuracy under fixed randomness as a function of the compression rate, and what predicts it."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.statistics import Array

FORM = "scaled"
SUBSET_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
COLOURS = matplotlib.colormaps["viridis_r"]


def compression_robustness(rows: Rows, extras: Extras) -> Figure:
    """Points with the fitted sigmoids, the same points with the base classifier's budget curve, residuals of both."""
    figure, axes = style.panels(2, 2, height=4.5, sharex=True, height_ratios=[2.7, 1])
    points = extras.fitted.get("points")
    if points is None:
        style.empty(axes[0, 0], "no rows")
        return figure
    sweep, controls = points[points.role == "sweep"], points[points.role == "control"]
    norm = LogNorm(max(float(sweep.t_star.min()), 1.0), max(float(sweep.t_star.max()), 2.0))
    for axis, letter, text in zip(
        axes[0], "ab", ("sigmoid in the compression rate", "base classifier at budget CR · ε"), strict=True
    ):
        style.title(axis, letter, text)
        _points(axis, rows, sweep, norm)
        _controls(axis, controls)
        axis.set(ylim=(-0.04, 1.04), xlim=(-0.06, 1.12))
    axes[0, 0].set_ylabel("robust accuracy, fixed randomness")
    axes[1, 0].set_ylabel("residual [points]")
    _fits(axes[0, 0], axes[1, 0], rows, extras, sweep, norm)
    _budget(axes[0, 1], axes[1, 1], rows, extras, sweep, norm)
    for axis in axes[1]:
        axis.axhline(0.0, color=style.FAINT, linewidth=0.6, zorder=0)
        axis.set_xlabel("compression rate CR")
    _share_limits(axes[1])
    _key(figure, axes, rows, sweep, norm)
    n, images = int(sweep.robust_n.max()), int(sweep.compression_n.max())
    style.note(
        figure, f"robust accuracy: n = {n} images, 95 % Wilson; compression rate: n = {images} images, 95 % bootstrap"
    )
    return figure


def _points(axis: Axes, rows: Rows, sweep: pd.DataFrame, norm: LogNorm) -> None:
    for point in sweep.to_dict("records"):
        _marker(
            axis, rows, point, norm, point["compression"], point["robust"], point["robust_low"], point["robust_high"]
        )


def _marker(
    axis: Axes, rows: Rows, point: dict[Any, Any], norm: LogNorm, x: float, y: float, low: float, high: float
) -> None:
    marker, _ = style.look(style.variant(rows.settings["purifiers"][point["purifier"]]))
    colour = COLOURS(norm(max(point["t_star"], norm.vmin or 1.0)))
    axis.vlines(x, low, high, color=colour, linewidth=0.8, zorder=2)
    if y == point["robust"]:
        axis.hlines(y, point["compression_low"], point["compression_high"], color=colour, linewidth=0.8, zorder=2)
    axis.plot(x, y, marker=marker, markersize=5, color=colour, markeredgecolor="white", markeredgewidth=0.4, zorder=3)


def _controls(axis: Axes, controls: pd.DataFrame) -> None:
    """Hollow squares with their names; controls at the same place share one label."""
    for (x, y), group in controls.groupby([controls.compression.round(2), controls.robust.round(2)]):
        point = group.iloc[0]
        axis.vlines(point.compression, point.robust_low, point.robust_high, color=style.NULL, linewidth=0.8, zorder=2)
        face = {"markerfacecolor": "white", "markeredgecolor": style.NULL, "markeredgewidth": 0.9}
        axis.plot(point.compression, point.robust, marker="o", markersize=4.5, zorder=3, linestyle="", **face)
        left = x > 0.8
        shift = (-5, 6) if left else (6, -2)
        text = ",\n".join(group.purifier)
        axis.annotate(
            text,
            (x, y),
            shift,
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=6.5,
            color=style.NULL,
        )


def _fits(axis: Axes, below: Axes, rows: Rows, extras: Extras, sweep: pd.DataFrame, norm: LogNorm) -> None:
    """Sigmoids of every subset with the band of the first; intercepts beside the clean accuracy they should meet."""
    curves, parameters = extras.fitted.get("curves"), extras.fitted.get("parameters")
    if curves is None or parameters is None:
        return
    curves = curves[(curves.form == FORM) & (curves.anchor == "without")]
    handles = []
    for k, (subset, dashes) in enumerate(zip(curves.subset.unique(), SUBSET_LINES, strict=False)):
        curve = curves[curves.subset == subset]
        found = parameters[
            (parameters.form == FORM) & (parameters.anchor == "without") & (parameters.subset == subset)
        ].iloc[0]
        axis.plot(curve.compression, curve.robust, color=style.INK, linestyle=dashes, linewidth=1.0, zorder=1)
        axis.fill_between(
            curve.compression,
            curve.low.clip(0, 1),
            curve.high.clip(0, 1),
            color=style.INK,
            alpha=0.10 - 0.04 * k,
            linewidth=0,
        )
        name = f"fit, {subset if subset != 'all' else 'all t*'}: " + rf"$R^2$ = {found.r_squared:.2f}"
        handles.append(Line2D([], [], color=style.INK, linestyle=dashes, linewidth=1.0, label=name))
        low, high = max(found.intercept_low, 0.0), min(found.intercept_high, 1.0)
        axis.errorbar(
            -0.02 - 0.02 * k,
            found.intercept,
            [[found.intercept - low], [high - found.intercept]],
            fmt="_",
            color=style.INK,
            capsize=0,
            linewidth=0.8,
        )
        if k == 0:
            handles.append(_clean(axis, found.clean))
            fitted = np.interp(sweep.compression, curve.compression, curve.robust)
            _residuals(below, rows, sweep, fitted, norm)
    axis.legend(handles=handles, loc="upper right", borderaxespad=0.1)


def _clean(axis: Axes, clean: float) -> Line2D:
    (line,) = axis.plot(
        [-0.06, 0.03], [clean, clean], color=style.RED, linewidth=1.6, zorder=4, label="clean accuracy (median)"
    )
    return line


def _residuals(axis: Axes, rows: Rows, sweep: pd.DataFrame, fitted: Array, norm: LogNorm) -> None:
    for point, value in zip(sweep.to_dict("records"), fitted, strict=True):
        bounds = [100.0 * (point[name] - value) for name in ("robust", "robust_low", "robust_high")]
        _marker(axis, rows, point, norm, point["compression"], *bounds)


def _budget(axis: Axes, below: Axes, rows: Rows, extras: Extras, sweep: pd.DataFrame, norm: LogNorm) -> None:
    """(acc_sys / acc_base) r_base(CR eps): the undefended classifier attacked with a budget shrunk by CR."""
    if "attack_strength" not in rows.frames:
        return
    curve = rows.budget_curve("identity")
    if curve.empty:
        return
    curve = curve.sort_values("scale")
    base, system = float(curve.robust.iloc[0]), float(sweep.clean.median())
    parameters = extras.fitted.get("parameters")
    if parameters is not None:
        system = float(parameters.clean.iloc[0])
    ratio = system / base if base else 1.0
    (line,) = axis.plot(
        curve.scale, ratio * curve.robust, color=style.INK, linewidth=1.0, marker=".", markersize=3, zorder=1
    )
    axis.fill_between(
        curve.scale, ratio * curve.robust_low, ratio * curve.robust_high, color=style.INK, alpha=0.10, linewidth=0
    )
    line.set_label(f"undefended classifier × {ratio:.2f}")
    axis.legend(handles=[line, _clean(axis, system)], loc="upper right", borderaxespad=0.1)
    own = sweep.clean / base if base else sweep.clean
    _residuals(below, rows, sweep, np.asarray(own * np.interp(sweep.compression, curve.scale, curve.robust)), norm)


def _share_limits(axes: Array) -> None:
    limit = max(abs(bound) for axis in axes for bound in axis.get_ylim())
    for axis in axes:
        axis.set_ylim(-limit, limit)


def _key(figure: Figure, axes: Array, rows: Rows, sweep: pd.DataFrame, norm: LogNorm) -> None:
    """Markers of the samplers under the figure, colours of t* beside it."""
    present = {style.variant(rows.settings["purifiers"][p]) for p in sweep.purifier}
    names = [name for name in style.VARIANTS if name in present] + sorted(present - set(style.VARIANTS))
    handles = [
        Line2D([], [], linestyle="", marker=style.look(n)[0], color=style.NULL, markersize=4.5, label=n) for n in names
    ]
    hollow = {"markerfacecolor": "white", "markeredgecolor": style.NULL}
    handles.append(Line2D([], [], linestyle="", marker="o", markersize=4.5, label="control", **hollow))
    style.key(figure, handles, 5)
    bar = figure.colorbar(
        matplotlib.cm.ScalarMappable(norm, COLOURS), ax=list(axes.ravel()), aspect=45, pad=0.015, label="t*"
    )
    ticks = sorted(set(sweep.t_star.dropna().astype(int)))
    bar.set_ticks(ticks, labels=[str(t) for t in ticks], minor=False)
    bar.ax.minorticks_off()


def prediction(rows: Rows, extras: Extras) -> Figure:
    """Observed against leave-one-purifier-out predicted accuracy, by predictor (columns) and range of t* (rows)."""
    made = extras.fitted.get("predictions")
    subsets = [] if made is None else list(made.subset.unique())
    predictors = [] if made is None else list(made.predictor.unique())
    figure, axes = style.panels(
        max(len(subsets), 1),
        max(len(predictors), 1),
        height=0.55 + 1.65 * max(len(subsets), 1),
        sharex=True,
        sharey=True,
    )
    if made is None:
        style.empty(axes[0, 0], "no rows")
        return figure
    for line, subset in zip(axes, subsets, strict=True):
        for axis, predictor in zip(line, predictors, strict=True):
            _predicted(axis, rows, made[(made.subset == subset) & (made.predictor == predictor)])
        line[0].set_ylabel(f"observed, {subset if subset != 'all' else 'all t*'}")
    for axis, predictor in zip(axes[0], predictors, strict=True):
        axis.set_title({"compression": "compression rate"}.get(predictor, predictor))
    for axis in axes[-1]:
        axis.set_xlabel("predicted")
    counts = ", ".join(
        str(made[(made.subset == s) & (made.predictor == predictors[0])].purifier.nunique()) for s in subsets
    )
    level = rows.settings["fit"]["level"]
    style.note(
        figure,
        f"robust accuracy under fixed randomness; {counts} purifiers; bars: {level:.0%} prediction intervals; error: mean absolute, points",
    )
    return figure


def _predicted(axis: Axes, rows: Rows, made: pd.DataFrame) -> None:
    axis.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.6, zorder=0)
    for point in made.itertuples():
        marker, colour = style.look(style.variant(rows.settings["purifiers"][point.purifier]))
        axis.hlines(point.observed, point.low, point.high, color=colour, linewidth=0.6, alpha=0.45)
        axis.plot(
            point.predicted,
            point.observed,
            marker=marker,
            color=colour,
            markersize=3.8,
            markeredgecolor="white",
            markeredgewidth=0.3,
        )
    error = 100.0 * (made.predicted - made.observed).abs().mean()
    axis.text(0.04, 0.96, f"error {error:.1f}", transform=axis.transAxes, va="top", fontsize=7)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
