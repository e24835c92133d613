"""Anomaly detection: areas under the curve under attack and certified, and error maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification.reporting.anomaly import ALL
from purification.reporting.anomaly import anomaly as areas
from purification.reporting.anomaly import certified_anomaly as certified
from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.statistics import Array

ARMS: dict[str, tuple[str, str, str]] = {
    "advrad": ("AdvRAD", "o", style.BLUE),
    "purified": ("purify, then detect", "s", style.ORANGE),
    "plain": ("detect (no purification)", "^", style.NULL),
}
CLEAN = "clean"


def anomaly(rows: Rows, extras: Extras) -> Figure:
    """Area under the curve per attack (left) and certified against the radius (right), of the first detector."""
    if "anomaly" not in rows.frames or "certificates" not in rows.frames:
        return style.nothing()
    detector = rows.frames["anomaly"].purifier.iloc[0]
    table, bounds = areas(rows), certified(rows)
    table = table[(table.detector == detector) & (table.anomalies == ALL)]
    bounds = bounds[(bounds.detector == detector) & (bounds.anomalies == ALL)]
    figure, axes = style.panels(1, 2, height=2.9, sharey=True)
    style.title(axes[0, 0], "a", "clean and attacked")
    _attacked(axes[0, 0], table)
    style.title(axes[0, 1], "b", "certified")
    _certified(axes[0, 1], bounds)
    axes[0, 0].set(ylabel="AUROC", ylim=(-0.03, 1.03))
    style.key(figure, axes[0, 1].get_legend_handles_labels()[0], 3)
    counts = f"{int(table.normal_n.iloc[0])} normal images, {int(table.anomalous_n.iloc[0])} anomalies"
    judged = "each arm attacked by itself, scored on fresh draws, or on the noise an attack knows"
    style.note(
        figure,
        f"detector {detector}, {counts}; {judged}; dotted: chance; short lines: random perturbations; bars and bands: "
        "95 % over source images",
    )
    return figure


def _attacked(axis: Axes, table: pd.DataFrame) -> None:
    attacks = list(table.attack.unique())
    for number, (arm, (label, marker, colour)) in enumerate(ARMS.items()):
        own = table[table.arm == arm].set_index("attack").reindex(attacks)
        for end in ("", "_low", "_high"):
            own[f"auroc{end}"] = own[f"auroc{end}"].where(own.knowledge != "both", own[f"fixed{end}"])
        place = np.arange(len(attacks)) + 0.2 * (number - 1)
        axis.vlines(place, own.auroc_low, own.auroc_high, color=colour, linewidth=1.0)
        axis.plot(place, own.auroc, marker, color=colour, markersize=4.5, label=label, linestyle="none")
        axis.plot(place, own.matched, "_", color=colour, markersize=7, alpha=0.6)
    axis.axhline(0.5, color=style.FAINT, linewidth=0.8, linestyle=":")
    names = [name.replace("_", "\n") for name in attacks]
    axis.set_xticks(range(len(attacks)), labels=names)
    axis.set_xlim(-0.5, len(attacks) - 0.5)


def _certified(axis: Axes, bounds: pd.DataFrame) -> None:
    for arm, (label, marker, colour) in ARMS.items():
        own = bounds[bounds.arm == arm].sort_values("radius")
        axis.fill_between(own.radius, own.certified_low, own.certified_high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(own.radius, own.certified, color=colour, marker=marker, markersize=3.5, label=label)
    axis.axhline(0.5, color=style.FAINT, linewidth=0.8, linestyle=":")
    axis.set(xlabel=r"radius, $\ell_2$ on [0, 1]", xlim=(0, None))


def error_maps(rows: Rows, extras: Extras) -> Figure:
    """Images, reconstructions and error maps of both ways, clean and under the last attack."""
    grid = _pictures(rows, extras)
    if not grid:
        return style.nothing()
    count = len(extras.samples["places"])
    unit, left = 0.55, 1.45
    width, height = left + unit * count + 0.5, 0.55 + (unit + 0.06) * len(grid)
    figure, axes = style.panels(len(grid), count, width=min(style.WIDTH, width), height=height)
    spacing: Any = figure.get_layout_engine()
    spacing.set(w_pad=0.02, h_pad=0.015, wspace=0.0, hspace=0.0)
    limits = {
        arm: max(float(pictures.max()) for (own, _), pictures in grid.items() if own == arm and pictures.ndim == 3)
        for arm in {own for (own, _), pictures in grid.items() if pictures.ndim == 3}
    }
    for line, ((arm, name), pictures) in zip(axes, grid.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            _show(axis, picture, limits.get(arm, 1.0))
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=6.5, labelpad=4)
    for axis, name in zip(axes[0], _kinds(rows, extras), strict=True):
        axis.set_title(name, fontsize=6.5, pad=3)
    style.note(figure, f"attack: {_attack(rows)}; maps |error − baseline| of one arm share a scale, dark is high")
    return figure


def _attack(rows: Rows) -> str:
    return str(rows.frames["anomaly"].attack.iloc[-1])


def _kinds(rows: Rows, extras: Extras) -> list[str]:
    frame = rows.frames["anomaly"]
    first = frame[(frame.purifier == frame.purifier.iloc[0]) & (frame.arm == "advrad") & (frame.attack == CLEAN)]
    return [str(first.kind.iloc[place]).replace("class_", "class ") for place in extras.samples["places"]]


def _pictures(rows: Rows, extras: Extras) -> dict[tuple[str, str], Array]:
    """(arm, row name) -> pictures (n, H, W, C) or maps (n, H, W)."""
    if "anomaly" not in rows.frames or "places" not in extras.samples:
        return {}
    found: dict[tuple[str, str], Array] = {}
    for attack in (CLEAN, _attack(rows)):
        word = "" if attack == CLEAN else ",\nattacked"
        wanted = {("advrad", "input"): f"image{word}"} if attack == CLEAN else {}
        wanted |= {
            ("advrad", "rebuilt"): f"AdvRAD,\nreconstructed{word}",
            ("advrad", "map"): f"AdvRAD,\nerror map{word}",
            ("purified", "seen"): f"purified{word}",
            ("purified", "map"): f"then detect,\nerror map{word}",
        }
        for (arm, key), name in wanted.items():
            pictures = np.asarray(extras.samples[f"{arm}/{attack}/{key}"], dtype=float)
            found[arm, name] = pictures if key == "map" else np.moveaxis(pictures, 1, -1)
    return found


def _show(axis: Axes, picture: Array, limit: float) -> None:
    """A picture, or a map where there is no channel."""
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if picture.ndim == 2:
        axis.imshow(picture, cmap="magma_r", vmin=0.0, vmax=limit, interpolation="nearest")
    elif picture.shape[-1] == 1:
        axis.imshow(picture[..., 0], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    else:
        axis.imshow(picture.clip(0.0, 1.0), interpolation="nearest")
