"""Fig. 3b, c: robust accuracy under fixed randomness as a function of the compression rate, and what predicts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.statistics import Array

FORM = "scaled"
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
COLOURS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1.0, 256)))  # without the pale end
PREDICTORS = {"compression": "compression rate", "null compression": "null model's rate"}
HALO = [withStroke(linewidth=1.8, foreground="white")]
EDGE = -0.06  # left end of the compression axis


@dataclass(frozen=True)
class Sweep:
    """The purifiers of the sweep with the colours and markers they keep in every panel."""

    points: pd.DataFrame
    scale: LogNorm
    names: Mapping[str, str]  # purifier -> variant

    @classmethod
    def of(cls, rows: Rows, points: pd.DataFrame) -> Sweep:
        sweep = points[points.role == "sweep"]
        strengths = sweep.t_star.fillna(1.0).clip(lower=1.0)
        names = {p: style.variant(rows, p) for p in sweep.purifier}
        return cls(sweep, LogNorm(strengths.min(), max(strengths.max(), strengths.min() + 1.0)), names)

    def look(self, point: Mapping[Any, Any]) -> tuple[str, Any]:
        """Marker by variant, colour by t*; grey without a t*."""
        strength = point["t_star"]
        colour = style.NULL if pd.isna(strength) else COLOURS(self.scale(max(strength, 1.0)))
        return style.look(self.names[point["purifier"]])[0], colour


def compression_robustness(rows: Rows, extras: Extras) -> Figure:
    """Points with the fitted sigmoids, the same points with the base classifier's budget curve, residuals of both."""
    points = extras.fitted.get("points", pd.DataFrame())
    if points.empty:
        return style.nothing()
    figure, axes = style.panels(2, 2, height=4.6, sharex=True, sharey="row", height_ratios=[2.6, 1])
    sweep, controls = Sweep.of(rows, points), points[points.role == "control"]
    titles = ("sigmoid in the compression rate", "undefended classifier at budget CR · ε")
    for axis, letter, text in zip(axes[0], "ab", titles, strict=True):
        style.title(axis, letter, text)
        _points(axis, sweep)
        _controls(axis, controls)
        axis.set_ylim(-0.04, 1.04)
    _fits(axes[:, 0], extras, sweep)
    _budget(axes[:, 1], rows, extras, sweep)
    for point in points.itertuples():
        for axis in axes[0]:
            style.mark(axis, rows, str(point.purifier), point.compression, point.robust)
    for axis in axes[1]:
        axis.axhline(0.0, color=style.FAINT, linewidth=0.6, zorder=0)
        axis.set_xlabel("compression rate CR")
    axes[0, 0].set_ylabel("robust accuracy, noise known")
    axes[1, 0].set_ylabel("residual [points]")
    axes[0, 0].set_xlim(left=EDGE)
    _keys(figure, axes, sweep)
    n, m = int(points.robust_n.max()), int(points.compression_n.max())
    style.note(
        figure, f"accuracy: n = {n} images, 95 % Wilson intervals; compression: n = {m} images, 95 % Student intervals"
    )
    return figure


def _points(axis: Axes, sweep: Sweep) -> None:
    for point in sweep.points.to_dict("records"):
        bounds = [point["compression_low"], point["compression_high"]]
        axis.hlines(point["robust"], *bounds, color=sweep.look(point)[1], linewidth=0.8, zorder=2)
        _point(axis, sweep, point, below=0.0, unit=1.0)


def _point(axis: Axes, sweep: Sweep, point: Mapping[Any, Any], *, below: float, unit: float) -> None:
    """A point and its vertical interval, minus `below`, in `unit`s."""
    marker, colour = sweep.look(point)
    value, low, high = (unit * (point[name] - below) for name in ("robust", "robust_low", "robust_high"))
    axis.vlines(point["compression"], low, high, color=colour, linewidth=0.8, zorder=2)
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    axis.plot(point["compression"], value, marker=marker, markersize=5, color=colour, zorder=3, **edge)


def _residuals(axis: Axes, sweep: Sweep, expected: Array) -> None:
    for point, value in zip(sweep.points.to_dict("records"), expected, strict=True):
        _point(axis, sweep, point, below=float(value), unit=100.0)


def _controls(axis: Axes, controls: pd.DataFrame) -> None:
    """Hollow circles with their names; controls at the same place share one label."""
    face: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.NULL, "markeredgewidth": 0.9}
    for _, group in controls.groupby([controls.compression.round(1), controls.robust.round(1)]):
        for point in group.itertuples():
            axis.vlines(
                point.compression, point.robust_low, point.robust_high, color=style.NULL, linewidth=0.8, zorder=2
            )
            axis.plot(point.compression, point.robust, marker="o", markersize=4.5, zorder=3, linestyle="", **face)
        place = (float(group.compression.mean()), float(group.robust.mean()))
        beside: dict[str, Any] = (
            {"xytext": (-6, 5), "ha": "right"} if place[0] > 0.8 else {"xytext": (6, 0), "ha": "left"}
        )
        text = ",\n".join(group.purifier)
        axis.annotate(
            text,
            place,
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=style.NULL,
            path_effects=HALO,
            **beside,
        )


def _curve(axis: Axes, x: Any, y: Any, low: Any, high: Any, *, dashes: Any = "-", alpha: float = 0.1) -> None:
    axis.plot(x, y, color=style.INK, linestyle=dashes, linewidth=1.0, zorder=1)
    axis.fill_between(x, np.clip(low, -0.1, 1.1), np.clip(high, -0.1, 1.1), color=style.INK, alpha=alpha, linewidth=0)


def _clean(axis: Axes, clean: float) -> Line2D:
    """Mark the clean accuracy at compression 0."""
    (line,) = axis.plot([EDGE, 0.03], [clean, clean], color=style.RED, linewidth=1.8, zorder=4)
    line.set_label(f"median clean accuracy, {clean:.2f}")
    return line


def _fits(axes: Array, extras: Extras, sweep: Sweep) -> None:
    """Sigmoid, band and intercept of every range of t*; residuals of the first."""
    tables = [extras.fitted.get(name, pd.DataFrame()) for name in ("curves", "parameters")]
    if any(table.empty for table in tables):
        return
    curves, found = (table[(table.form == FORM) & (table.anchor == "without")] for table in tables)
    handles = []
    for k, (subset, dashes) in enumerate(zip(found.subset, DASHES, strict=False)):
        curve, fit = curves[curves.subset == subset], found[found.subset == subset].iloc[0]
        _curve(axes[0], curve.compression, curve.robust, curve.low, curve.high, dashes=dashes, alpha=0.12 - 0.05 * k)
        place = EDGE + 0.015 + 0.02 * k
        axes[0].vlines(
            place, *np.clip([fit.intercept_low, fit.intercept_high], 0.0, 1.1), color=style.INK, linewidth=0.8
        )
        axes[0].plot(place, fit.intercept, marker="_", markersize=5, color=style.INK)
        name = _range(subset) + (f" ($R^2$ = {fit.r_squared:.2f})" if np.isfinite(fit.r_squared) else "")
        handles.append(Line2D([], [], color=style.INK, linestyle=dashes, linewidth=1.0, label=name))
    first = curves[curves.subset == found.subset.iloc[0]]
    _residuals(axes[1], sweep, np.interp(sweep.points.compression, first.compression, first.robust))
    handles.append(_clean(axes[0], float(found.clean.iloc[0])))
    axes[0].legend(handles=handles, loc="upper right", borderaxespad=0.0)


def _range(subset: str) -> str:
    return "all t*" if subset == "all" else subset.replace("<=", "≤")


def _budget(axes: Array, rows: Rows, extras: Extras, sweep: Sweep) -> None:
    """(acc_sys / acc_base) r_base(CR eps): the undefended classifier attacked with a budget shrunk by CR."""
    curve = rows.budget_curve("identity") if "attack_strength" in rows.frames else pd.DataFrame()
    if curve.empty:
        return
    curve = curve.sort_values("scale")
    base, parameters = float(curve.robust.iloc[0]), extras.fitted.get("parameters", pd.DataFrame())
    system = float(sweep.points.clean.median() if parameters.empty else parameters.clean.iloc[0])
    ratio = system / base if base else 1.0
    _curve(axes[0], curve.scale, ratio * curve.robust, ratio * curve.robust_low, ratio * curve.robust_high)
    line = Line2D([], [], color=style.INK, linewidth=1.0, label=f"undefended, × {ratio:.2f}")
    handles = [line, _clean(axes[0], system), *_along_attack(axes[0], rows, sweep)]
    axes[0].legend(handles=handles, loc="upper right", borderaxespad=0.0)
    own = sweep.points.clean / base if base else sweep.points.clean
    expected = own * np.interp(sweep.points.compression, curve.scale, curve.robust)
    _residuals(axes[1], sweep, np.asarray(expected))


def _along_attack(axis: Axes, rows: Rows, sweep: Sweep) -> list[Line2D]:
    """The points once more, at their compression along the attack's own directions instead of random ones."""
    frame = rows.frames.get("purified")
    if frame is None or "compression" not in frame:
        return []
    along = frame[frame.attack == rows.base_attack].groupby("purifier").compression.mean()
    hollow: dict[str, Any] = {"linestyle": "", "markerfacecolor": "none", "markersize": 3, "markeredgewidth": 0.6}
    for point in sweep.points.to_dict("records"):
        marker, colour = sweep.look(point)
        x = along.get(point["purifier"], np.nan)
        axis.plot(x, point["robust"], marker=marker, markeredgecolor=colour, zorder=2, **hollow)
    return [Line2D([], [], marker="o", markeredgecolor=style.NULL, label="same, CR along the attack", **hollow)]


def _keys(figure: Figure, axes: Array, sweep: Sweep) -> None:
    """Markers of the samplers above the figure, colours of t* beside it."""
    present = set(sweep.names.values())
    names = [name for name in style.VARIANTS if name in present] + sorted(present - set(style.VARIANTS))
    marks: dict[str, Any] = {"linestyle": "", "markersize": 4.5, "color": style.NULL}
    handles = [Line2D([], [], marker=style.look(name)[0], label=name, **marks) for name in names]
    handles.append(Line2D([], [], marker="o", markerfacecolor="white", label="control", **marks))
    style.key(figure, handles, 5)
    colours = ScalarMappable(sweep.scale, COLOURS)
    bar = figure.colorbar(colours, ax=list(axes.ravel()), aspect=45, pad=0.015, label="t*")
    ticks = sorted(set(sweep.points.t_star.dropna().astype(int)))
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.minorticks_off()


def prediction(rows: Rows, extras: Extras) -> Figure:
    """Observed against leave-one-purifier-out predicted accuracy, by predictor (columns) and range of t* (rows)."""
    made = extras.fitted.get("predictions", pd.DataFrame())
    if made.empty:
        return style.nothing()
    subsets, predictors = list(made.subset.unique()), list(made.predictor.unique())
    width = min(style.WIDTH, 1.0 + 1.5 * len(predictors))
    size = {"height": 0.85 + len(subsets) * (0.1 + (width - 0.6) / len(predictors)), "width": width}
    figure, axes = style.panels(len(subsets), len(predictors), **size, sharex=True, sharey=True)
    for line, subset in zip(axes, subsets, strict=True):
        for axis, predictor in zip(line, predictors, strict=True):
            _predicted(axis, rows, made[(made.subset == subset) & (made.predictor == predictor)])
        line[0].set_ylabel(f"observed, {_range(subset)}")
    for axis, letter, predictor in zip(axes[0], "abcdefgh", predictors, strict=False):
        style.title(axis, letter, PREDICTORS.get(predictor, predictor))
    for axis in axes[-1]:
        axis.set_xlabel("predicted")
    _predictors_note(figure, rows, made)
    return figure


def _predictors_note(figure: Figure, rows: Rows, made: pd.DataFrame) -> None:
    names = list(dict.fromkeys(style.variant(rows, p) for p in made.purifier.unique()))
    ordered = [n for n in style.VARIANTS if n in names] + [n for n in names if n not in style.VARIANTS]
    style.key(figure, [style.handle(name, linestyle="") for name in ordered], 8)
    counts = made.groupby("subset", sort=False).purifier.nunique()
    listed = ", ".join(f"{count} ({_range(str(subset))})" for subset, count in counts.items())
    level = rows.settings["fit"]["level"]
    text = f"robust accuracy, noise known; purifiers: {listed}; bars: {100 * level:.0f} % prediction intervals"
    style.note(figure, f"{text}; error: mean absolute, in points")


def _predicted(axis: Axes, rows: Rows, made: pd.DataFrame) -> None:
    axis.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.6, zorder=0)
    for point in made.itertuples():
        marker, colour = style.look(style.variant(rows, point.purifier))
        axis.hlines(point.observed, point.low, point.high, color=colour, linewidth=0.6, alpha=0.4, zorder=1)
        edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.3}
        axis.plot(point.predicted, point.observed, marker=marker, color=colour, markersize=4, zorder=3, **edge)
        style.mark(axis, rows, point.purifier, point.predicted, point.observed)
    error = 100.0 * (made.predicted - made.observed).abs().mean()
    axis.text(0.04, 0.97, f"error {error:.1f}", transform=axis.transAxes, va="top", fontsize=7)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
