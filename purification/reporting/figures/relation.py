"""Fig. 3b, c: robust accuracy under fixed randomness as a function of the compression rate."""

from __future__ import annotations

import textwrap
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

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.statistics import Array

FORM = "scaled"
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
COLOURS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1.0, 256)))  # without the pale end
SHAPES = ("o", "s", "D", "^", "v", "h", "p")  # of the controls
RING: dict[str, Any] = {"linestyle": "", "markerfacecolor": "none", "markersize": 3, "markeredgewidth": 0.6}
EDGE = -0.06  # left end of the compression axis
TEXT = 52  # letters in a line of a panel's legend
ROOM = 0.035  # of a colour bar, that a label takes


@dataclass(frozen=True)
class Sweep:
    """The purifiers of the sweep with the colours and markers they keep in every panel."""

    points: pd.DataFrame
    scale: LogNorm
    names: Mapping[str, str]  # purifier -> variant

    @classmethod
    def of(cls, rows: Rows, points: pd.DataFrame) -> Sweep:
        sweep = points[points.role == "sweep"]
        strengths = sweep.t_star.dropna().clip(lower=1.0)
        if strengths.empty:
            strengths = pd.Series([1.0])
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
    known = points.dropna(subset=["compression", "robust"]) if len(points) else points
    if known.empty:
        return style.nothing("no point has a compression rate and a robust accuracy" if len(points) else "no rows")
    sweep, controls = Sweep.of(rows, known), known[known.role == "control"]
    keys = [_fits_key(extras), _budget_key(rows, extras, sweep)]
    lines = max(sum(1 + str(entry.get_label()).count("\n") for entry in key) for key in keys)
    heights = [0.12 + 0.14 * lines, 2.6, 1.0]
    figure, axes = style.panels(3, 2, height=1.1 + sum(heights), sharey="row", height_ratios=heights)
    titles = ("sigmoid in the compression rate", "undefended classifier at budget CR · ε")
    for side, (letter, text) in enumerate(zip("ab", titles, strict=True)):
        _key(axes[0, side], letter, text, keys[side])
        _points(axes[1, side], sweep)
        _controls(axes[1, side], controls)
        axes[1, side].set_ylim(-0.04, 1.04)
        axes[1, side].tick_params(labelbottom=False)
        axes[2, side].axhline(0.0, color=style.FAINT, linewidth=0.6, zorder=0)
        axes[2, side].set_xlabel("compression rate CR")
        for point in known.itertuples():
            style.mark(axes[1, side], rows, str(point.purifier), point.compression, point.robust)
    _fits(axes[1:, 0], extras, sweep)
    _budget(axes[1:, 1], rows, extras, sweep)
    right = max(1.1, 1.05 * float(known.compression_high.fillna(known.compression).max()))
    for axis in axes[1:].flat:
        axis.set_xlim(EDGE, right)
    axes[1, 0].set_ylabel("robust accuracy, noise known")
    axes[2, 0].set_ylabel("residual [points]")
    _names(figure, axes, sweep, controls)
    n, m = int(known.robust_n.max()), int(known.compression_n.max())
    bars = f"accuracy: n = {n} images, compression: n = {m} images, 95 % intervals over images"
    style.note(figure, f"{bars}; curves: 95 %, the widest of resampled images, purifiers and groups of t* and sampler")
    return figure


def _key(axis: Axes, letter: str, text: str, entries: list[Line2D]) -> None:
    """Title and legend of a panel, above it, where no point can be."""
    axis.set_axis_off()
    style.title(axis, letter, text)
    axis.legend(handles=entries, loc="upper left", borderaxespad=0.0, labelspacing=0.3)


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


def _no_residuals(axis: Axes, text: str) -> None:
    """Say why there are no residuals."""
    axis.text(0.5, 0.7, text, transform=axis.transAxes, ha="center", va="center", color=style.NULL)


def _controls(axis: Axes, controls: pd.DataFrame) -> None:
    """Hollow markers, one shape each, named above the figure."""
    for number, point in enumerate(controls.itertuples()):
        bounds = (point.robust_low, point.robust_high)
        axis.vlines(point.compression, *bounds, color=style.NULL, linewidth=0.8, zorder=2)
        axis.plot(point.compression, point.robust, **_hollow(number), zorder=3)


def _hollow(number: int) -> dict[str, Any]:
    """Look of the control with this number: later ones are larger, so that two at one place are both seen."""
    turn, shape = divmod(number, len(SHAPES))
    options = {"marker": SHAPES[shape], "markersize": 4.0 + 0.8 * shape + 2.0 * turn, "linestyle": ""}
    return {**options, "markerfacecolor": "none", "markeredgecolor": style.NULL, "markeredgewidth": 0.9}


def _curve(axis: Axes, x: Any, y: Any, low: Any, high: Any, *, dashes: Any = "-", alpha: float = 0.1) -> None:
    axis.plot(x, y, color=style.INK, linestyle=dashes, linewidth=1.0, zorder=1)
    axis.fill_between(x, np.clip(low, -0.1, 1.1), np.clip(high, -0.1, 1.1), color=style.INK, alpha=alpha, linewidth=0)


def _clean(axis: Axes, clean: float) -> None:
    """Mark the clean accuracy at compression 0."""
    axis.plot([EDGE, 0.03], [clean, clean], color=style.RED, linewidth=1.8, zorder=4)


def _clean_key(clean: float) -> Line2D:
    return Line2D([], [], color=style.RED, linewidth=1.8, label=f"median clean accuracy, {clean:.2f}")


def _found(extras: Extras) -> pd.DataFrame:
    """The fits that are shown, with those that the points do not determine; nothing without any."""
    table = extras.fitted.get("parameters", pd.DataFrame())
    return table if table.empty else table[(table.form == FORM) & (table.anchor == "without")]


def _fits_key(extras: Extras) -> list[Line2D]:
    """One line per range of t*: its R2, or why the points determine no curve."""
    found = _found(extras)
    entries = []
    for number, fit in enumerate(found.itertuples()):
        name = range_name(str(fit.subset))
        if fit.determined:
            label = f"{name} ($R^2$ = {fit.r_squared:.2f}), {fit.n} purifiers"
            look: dict[str, Any] = {"color": style.INK, "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.0}
        else:
            label = textwrap.fill(f"{name}: {fit.note}", TEXT)
            look = {"linestyle": ""}
        entries.append(Line2D([], [], label=label, **look))
    if len(found) and np.isfinite(found.clean.iloc[0]):
        entries.append(_clean_key(float(found.clean.iloc[0])))
    return entries


def _fits(axes: Array, extras: Extras, sweep: Sweep) -> None:
    """Sigmoid, band and intercept of every range of t*; residuals of the first."""
    found, curves = _found(extras), extras.fitted.get("curves", pd.DataFrame())
    if found.empty:
        _no_residuals(axes[1], "no fit")
        return
    for number, fit in enumerate(found.itertuples()):
        if not fit.determined:
            continue
        drawn = (curves.form == FORM) & (curves.anchor == "without") & (curves.subset == fit.subset)
        curve = curves[drawn]
        dashes, alpha = DASHES[number % len(DASHES)], max(0.12 - 0.05 * number, 0.02)
        _curve(axes[0], curve.compression, curve.robust, curve.low, curve.high, dashes=dashes, alpha=alpha)
        place = EDGE + 0.015 + 0.02 * number
        ends = np.clip([fit.intercept_low, fit.intercept_high], 0.0, 1.1)
        axes[0].vlines(place, *ends, color=style.INK, linewidth=0.8)
        axes[0].plot(place, fit.intercept, marker="_", markersize=5, color=style.INK)
    if np.isfinite(found.clean.iloc[0]):
        _clean(axes[0], float(found.clean.iloc[0]))
    first = found.iloc[0]
    if not first.determined:
        _no_residuals(axes[1], "the law is not determined by these points")
        return
    drawn = (curves.form == FORM) & (curves.anchor == "without") & (curves.subset == first.subset)
    curve = curves[drawn]
    _residuals(axes[1], sweep, np.interp(sweep.points.compression, curve.compression, curve.robust))


def range_name(subset: str) -> str:
    """Name of a range of t* as figures write it."""
    return "all t*" if subset == "all" else subset.replace("<=", "≤")


@dataclass(frozen=True)
class Budget:
    """The undefended classifier's accuracy by budget, and the clean accuracies that scale it."""

    curve: pd.DataFrame
    base: float
    system: float

    @property
    def ratio(self) -> float:
        return self.system / self.base


def _measured_budget(rows: Rows, extras: Extras, sweep: Sweep) -> Budget | None:
    """None where the budget curve was not measured or starts at 0: it cannot be scaled then."""
    curve = rows.budget_curve("identity") if "attack_strength" in rows.frames else pd.DataFrame()
    if curve.empty:
        return None
    curve = curve.sort_values("scale")
    found = _found(extras)
    system = float(sweep.points.clean.median() if found.empty else found.clean.iloc[0])
    base = float(curve.robust.iloc[0])
    return Budget(curve, base, system) if base > 0.0 and np.isfinite(system) else None


def _budget_key(rows: Rows, extras: Extras, sweep: Sweep) -> list[Line2D]:
    budget = _measured_budget(rows, extras, sweep)
    if budget is None:
        text = "not determined: the undefended classifier's accuracy without an attack is zero or was not measured"
        return [Line2D([], [], linestyle="", label=textwrap.fill(text, TEXT))]
    line = Line2D([], [], color=style.INK, linewidth=1.0, label=f"undefended, × {budget.ratio:.2f}")
    entries = [line, _clean_key(budget.system)]
    if len(_along(rows)):
        entries.append(
            Line2D([], [], markeredgecolor=style.NULL, marker="o", label="same, CR along the attack", **RING)
        )
    return entries


def _budget(axes: Array, rows: Rows, extras: Extras, sweep: Sweep) -> None:
    """(acc_sys / acc_base) r_base(CR eps): the undefended classifier attacked with a budget shrunk by CR."""
    budget = _measured_budget(rows, extras, sweep)
    if budget is None:
        _no_residuals(axes[1], "no budget curve")
        return
    curve, ratio = budget.curve, budget.ratio
    _curve(axes[0], curve.scale, ratio * curve.robust, ratio * curve.robust_low, ratio * curve.robust_high)
    _clean(axes[0], budget.system)
    _along_attack(axes[0], rows, sweep)
    expected = sweep.points.clean / budget.base * np.interp(sweep.points.compression, curve.scale, curve.robust)
    _residuals(axes[1], sweep, np.asarray(expected))


def _along(rows: Rows) -> pd.Series:
    """Purifier -> compression along the attack's own directions; empty where it was not measured."""
    frame = rows.frames.get("purified")
    if frame is None or "compression" not in frame:
        return pd.Series(dtype=float)
    return frame[frame.attack == rows.base_attack].groupby("purifier").compression.mean().dropna()


def _along_attack(axis: Axes, rows: Rows, sweep: Sweep) -> None:
    """The points once more, at their compression along the attack's own directions instead of random ones."""
    along = _along(rows)
    for point in sweep.points.to_dict("records"):
        if point["purifier"] in along:
            marker, colour = sweep.look(point)
            x = float(along[point["purifier"]])
            axis.plot(x, point["robust"], marker=marker, markeredgecolor=colour, zorder=2, **RING)


def _names(figure: Figure, axes: Array, sweep: Sweep, controls: pd.DataFrame) -> None:
    """Markers of the samplers and of the controls above the figure, colours of t* beside it."""
    present = set(sweep.names.values())
    names = [name for name in style.VARIANTS if name in present] + sorted(present - set(style.VARIANTS))
    marks: dict[str, Any] = {"linestyle": "", "markersize": 4.5, "color": style.NULL}
    handles = [Line2D([], [], marker=style.look(name)[0], label=name, **marks) for name in names]
    for number, name in enumerate(controls.purifier):
        handles.append(Line2D([], [], label=f"control: {name}", **_hollow(number)))
    style.key(figure, handles, 5)
    stars = sorted(set(sweep.points.t_star.dropna().astype(int)))
    if not stars:
        return
    bar = figure.colorbar(ScalarMappable(sweep.scale, COLOURS), ax=list(axes.ravel()), aspect=45, pad=0.015, label="t*")
    ticks = apart([max(star, 1) for star in stars], sweep.scale)
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.minorticks_off()


def apart(values: list[int], scale: LogNorm) -> list[int]:
    """The values whose places on a colour bar leave room for their labels, smallest first."""
    kept: list[int] = []
    for value in values:
        if not kept or float(scale(value)) - float(scale(kept[-1])) >= ROOM:
            kept.append(value)
    return kept
