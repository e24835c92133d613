"""Fig. 1c and Fig. 2d-f: how far purification moves images, and how much of the movement the noise decides."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from purification import statistics
from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows

METRICS = {"l2": r"$\ell_2$ distance", "linf": r"$\ell_\infty$ distance", "ssim": "SSIM"}
CONDITIONS = {"fixed": "noise\nfixed", "varied": "image\nfixed", "both": "both\nvary"}
DEFINITIONS = {"correlation": "$f(x_i) - x_i$", "correlation_from_clean": "$f(x_i) - x_0$"}
STAGES = {0.0: "attacked", 1.0: "noised", 2.0: "purified"}


def distances(rows: Rows, extras: Extras) -> Figure:
    """Distances to the clean image along the path from an attacked image, for purifiers at the headline's t*."""
    figure, axes = style.panels(1, 3, height=2.6)
    chosen = style.at_headline_strength(rows, "distances")
    for axis, letter, (metric, text) in zip(axes[0], "abc", METRICS.items(), strict=True):
        style.title(axis, letter, f"{text} to the clean image")
        axis.set(xticks=list(STAGES), xticklabels=list(STAGES.values()), ylabel=text)
        for name, purifier in chosen.items():
            _path(axis, rows, purifier, metric, name)
        if rows.headline in chosen.values():
            start = rows.select("distances", rows.headline, start="adversarial", position=0.0)[metric].mean()
            axis.axhline(start, color=style.FAINT, linewidth=0.6, zorder=0)
        axis.set_ylim(0.0, 1.03 if metric == "ssim" else None)
    handles = [style.handle(name) for name in chosen]
    null = Line2D([], [], color=style.NULL, linestyle=(0, (3, 2)), linewidth=0.9, label="with the null model")
    style.key(figure, [*handles, null], 4)
    count = 0 if not chosen else rows.frames["distances"].image.nunique()
    style.note(
        figure,
        f"{style.images(count)}; bands: 95 % Student intervals; horizontal line: distance of the attacked image",
    )
    return figure


def _path(axis: Axes, rows: Rows, purifier: str, metric: str, name: str) -> None:
    def interval(values: Any) -> tuple[float, float]:
        estimate = statistics.mean(values)
        return estimate.low, estimate.high

    marker, colour = style.look(name)
    own = rows.select("distances", purifier, start="adversarial")
    null = rows.select("distances", purifier, "null", start="adversarial")
    common: dict[str, Any] = {"x": "position", "y": metric, "ax": axis, "legend": False, "zorder": 3}
    if not null.empty:
        dashes = {"linestyle": (0, (3, 2)), "linewidth": 0.9}
        sns.lineplot(null, **{**common, "zorder": 2}, color=style.NULL, errorbar=None, **dashes)
    marks = {"marker": marker, "markersize": 3.2, "markeredgewidth": 0, "markevery": [0, -1]}
    sns.lineplot(own, **common, color=colour, errorbar=interval, err_kws={"linewidth": 0, "alpha": 0.25}, **marks)
    axis.set_xlabel("")


def randomness(rows: Rows, extras: Extras) -> Figure:
    """Direction correlations by condition in both definitions, and the radii of the clouds of the headline purifier."""
    figure, axes = style.panels(1, 3, height=2.6, width_ratios=[1, 1, 1.15])
    chosen = style.at_headline_strength(rows, "randomness")
    for axis, letter, (column, text) in zip(axes[0], "ab", DEFINITIONS.items(), strict=False):
        style.title(axis, letter, f"correlation of {text}")
        _correlations(axis, rows, chosen, column)
    axes[0, 0].set_ylabel("mean pairwise correlation")
    axes[0, 1].set(ylabel="", yticklabels=[])
    _radii(axes[0, 2], rows)
    handles = [style.handle(name, linestyle="") for name in chosen]
    null = Line2D(
        [], [], marker="o", markerfacecolor="white", color=style.NULL, linestyle="", markersize=4, label="null model"
    )
    style.key(figure, [*handles, null], 6)
    count = rows.frames["randomness"].image.nunique() if "randomness" in rows.frames else 0
    text = f"{style.images(count)}; whiskers in a, b: central 95 % of the images"
    style.note(figure, f"{text}; c: {style.label(rows, rows.headline)}, one value per image")
    return figure


def _correlations(axis: Axes, rows: Rows, chosen: dict[str, str], column: str) -> None:
    width = 0.62 / max(len(chosen), 1)
    for k, (name, purifier) in enumerate(chosen.items()):
        marker, colour = style.look(name)
        for model, shift, face in (("trained", -0.22, colour), ("null", 0.22, "white")):
            frame = rows.select("randomness", purifier, model)
            for place, condition in enumerate(CONDITIONS):
                values = frame[f"{column}_{condition}"].dropna()
                if values.empty:
                    continue
                x = place + (k - (len(chosen) - 1) / 2) * width + shift * width
                axis.vlines(x, *values.quantile([0.025, 0.975]), color=colour, linewidth=0.8)
                axis.plot(
                    x,
                    values.mean(),
                    marker=marker,
                    markersize=4,
                    color=colour,
                    markerfacecolor=face,
                    markeredgewidth=0.8,
                )
    axis.axhline(0.0, color=style.FAINT, linewidth=0.6, zorder=0)
    axis.set(xticks=range(len(CONDITIONS)), xticklabels=list(CONDITIONS.values()), ylim=(-0.05, 1.05), xlim=(-0.5, 2.5))


def _radii(axis: Axes, rows: Rows) -> None:
    style.title(axis, "c", "spread of the outputs")
    frame = rows.select("randomness", rows.headline) if "randomness" in rows.frames else pd.DataFrame()
    if frame.empty:
        return style.empty(axis, "no rows")
    groups = {
        "before": ("radius_before", style.INK),
        "noise fixed": ("radius_fixed", style.BLUE),
        "image fixed": ("radius_varied", style.RED),
        "both vary": ("radius_both", style.ORANGE),
    }
    long = pd.concat(
        [pd.DataFrame({"radius": frame[c], "cloud": name}) for name, (c, _) in groups.items()], ignore_index=True
    )
    palette = {name: colour for name, (_, colour) in groups.items()}
    sns.histplot(
        long,
        x="radius",
        hue="cloud",
        palette=palette,
        bins=40,
        element="step",
        alpha=0.2,
        linewidth=1.0,
        ax=axis,
        legend=True,
    )
    sns.move_legend(axis, "best", title=None, handlelength=1.0, borderaxespad=0.1)
    axis.set(xlabel=r"mean $\ell_2$ distance to the centroid", ylabel="images", xlim=(0.0, None))
    return None
