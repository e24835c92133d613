"""Robust accuracy predicted from purifiers that were left out of the fit, by predictor."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification.prediction import LINE
from purification.reporting.figures import style
from purification.reporting.figures.relation import range_name
from purification.reporting.figures.style import Extras
from purification.reporting.predictions import PURIFIER, STARS
from purification.reporting.rows import Rows

PREDICTORS = {"compression": "compression rate", "null compression": "null model's rate"}


def prediction(rows: Rows, extras: Extras) -> Figure:
    """Observed against predicted accuracy with the sigmoid, by predictor (columns) and range of t* (rows)."""
    made = extras.fitted.get("predictions", pd.DataFrame())
    if made.empty:
        return style.nothing("too few purifiers to leave one out")
    shown = made[made.form != LINE]
    subsets, predictors = list(shown.subset.unique()), list(shown.predictor.unique())
    width = min(style.WIDTH, 1.0 + 1.5 * len(predictors))
    size = {"height": 0.85 + len(subsets) * (0.1 + (width - 0.6) / len(predictors)), "width": width}
    figure, axes = style.panels(len(subsets), len(predictors), **size, sharex=True, sharey=True)
    for line, subset in zip(axes, subsets, strict=True):
        for axis, predictor in zip(line, predictors, strict=True):
            own = shown[(shown.subset == subset) & (shown.predictor == predictor)]
            _panel(axis, rows, own)
            axis.text(0.0, 1.03, _errors(own), transform=axis.transAxes, fontsize=6.5)
        line[0].set_ylabel(f"observed, {range_name(subset)}")
    for axis, letter, predictor in zip(axes[0], "abcdefgh", predictors, strict=False):
        style.title(axis, letter, PREDICTORS.get(predictor, predictor), pad=14.0)
    for axis in axes[-1]:
        axis.set_xlabel("predicted")
    _names(figure, rows, shown)
    return figure


def _names(figure: Figure, rows: Rows, made: pd.DataFrame) -> None:
    names = list(dict.fromkeys(style.variant(rows, p) for p in made.purifier.unique()))
    ordered = [n for n in style.VARIANTS if n in names] + [n for n in names if n not in style.VARIANTS]
    style.key(figure, [style.handle(name, linestyle="") for name in ordered], 6)
    counts = made.groupby("subset", sort=False).purifier.nunique()
    listed = ", ".join(f"{count} ({range_name(str(subset))})" for subset, count in counts.items())
    level = rows.settings["fit"]["level"]
    text = f"robust accuracy, noise known; purifiers: {listed}; bars: {100 * level:.0f} % prediction intervals"
    style.note(figure, f"{text}; off by: mean absolute error in points; t* out: the same with all of one t* left out")


def _panel(axis: Axes, rows: Rows, made: pd.DataFrame) -> None:
    """Predictions with one purifier left out."""
    axis.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.6, zorder=0)
    for point in made[made.left_out == PURIFIER].itertuples():
        marker, colour = style.look(style.variant(rows, point.purifier))
        axis.hlines(point.observed, point.low, point.high, color=colour, linewidth=0.6, alpha=0.4, zorder=1)
        edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.3}
        axis.plot(point.predicted, point.observed, marker=marker, color=colour, markersize=4, zorder=3, **edge)
        style.mark(axis, rows, point.purifier, point.predicted, point.observed)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")


def _errors(made: pd.DataFrame) -> str:
    """Mean absolute errors in points, by what is left out at once."""
    errors = (100.0 * (made.predicted - made.observed).abs()).groupby(made.left_out).mean()
    words = ((PURIFIER, "off by {:.1f}"), (STARS, "t* out: {:.1f}"))
    return ", ".join(text.format(errors[kind]) for kind, text in words if kind in errors)
