"""Images of the headline purifier, and loss curves."""

from __future__ import annotations

from itertools import cycle
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.rows import Rows
from purification.statistics import Array

SMOOTHING = 25  # steps of the centred running mean


def images(rows: Rows, extras: Extras) -> Figure:
    """Clean and attacked images before and after purification with the same noise, and their signed differences."""
    attack = rows.base_attack
    grid = _pictures(extras, attack)
    if not grid:
        return style.nothing()
    count = len(grid["clean"])
    width = min(style.WIDTH, 1.75 + 0.62 * count)
    figure, axes = style.panels(
        len(grid), count, width=width, height=0.4 + 0.76 * len(grid) * (width - 1.75) / (0.62 * count)
    )
    spacing: Any = figure.get_layout_engine()
    spacing.set(w_pad=0.02, h_pad=0.015, wspace=0.0, hspace=0.0)
    limit = max(float(np.abs(p).max()) for name, p in grid.items() if "−" in name)
    shown = ScalarMappable()
    for line, (name, pictures) in zip(axes, grid.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            artist = _show(axis, picture, limit if "−" in name else None)
            shown = artist if "−" in name else shown
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7, labelpad=6)
    _verdicts(axes, list(grid), rows, attack)
    bar = figure.colorbar(shown, ax=list(axes.ravel()), shrink=0.4, aspect=25, pad=0.01, label="difference")
    bar.outline.set_visible(False)
    text = f"{style.label(rows, rows.headline)}, noise known to the attacker; first {count} images"
    style.note(figure, f"{text}; class seen by the classifier (red: wrong)")
    return figure


def _pictures(extras: Extras, attack: str) -> dict[str, Array]:
    """Row name -> (n, H, W, C) pictures; differences carry a minus sign in their name."""
    keys = {
        "clean": "clean/input",
        "attacked": f"{attack}/input",
        "pure": "clean/purified",
        "pure attacked": f"{attack}/purified",
    }
    if not set(keys.values()) <= set(extras.samples):
        return {}
    found = {name: np.moveaxis(np.asarray(extras.samples[key], dtype=float), 1, -1) for name, key in keys.items()}
    n = min(len(p) for p in found.values())
    clean, attacked, pure, pure_attacked = (p[:n] for p in found.values())
    return {
        "clean": clean,
        "attacked": attacked,
        "attacked − clean": attacked - clean,
        "clean,\npurified": pure,
        "attacked,\npurified": pure_attacked,
        "purified:\nattacked − clean": pure_attacked - pure,
    }


def _show(axis: Axes, picture: Array, limit: float | None) -> ScalarMappable:
    """One picture; a signed difference (averaged over channels) when a limit is given."""
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if limit is not None:
        return axis.imshow(picture.mean(axis=-1), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    if picture.shape[-1] == 1:
        return axis.imshow(picture[..., 0], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    return axis.imshow(picture.clip(0.0, 1.0), interpolation="nearest")


def _verdicts(axes: Array, names: list[str], rows: Rows, attack: str) -> None:
    """Class under each picture that the classifier saw."""
    if "purified" not in rows.frames:
        return
    sources = {
        "clean": ("clean", "unpurified"),
        "attacked": (attack, "unpurified"),
        "clean,\npurified": ("clean", "fixed"),
        "attacked,\npurified": (attack, "fixed"),
    }
    for line, name in zip(axes, names, strict=True):
        if name not in sources:
            continue
        judged, column = sources[name]
        for axis, row in zip(line, rows.purified(rows.headline, judged).to_dict("records"), strict=False):
            colour = style.INK if row[column] == row["label"] else style.RED
            axis.set_xlabel(str(row[column]), fontsize=6.5, color=colour, labelpad=1)


def training(rows: Rows, extras: Extras) -> Figure:
    """Loss of every trained network against the step, raw and as a running mean."""
    if not extras.losses:
        return style.nothing()
    count = len(extras.losses)
    figure, axes = style.lines(count, height=2.0, width=min(style.WIDTH, 3.4 * count))
    for axis, letter, (name, losses) in zip(axes.flat, cycle(ascii_lowercase), extras.losses.items(), strict=False):
        style.title(axis, letter, name)
        _loss(axis, losses)
    for axis in axes[:, 0]:
        axis.set_ylabel("loss")
    style.note(figure, f"light: loss of each batch; dark: centred running mean over {SMOOTHING} steps")
    return figure


def _loss(axis: Axes, losses: pd.DataFrame) -> None:
    axis.plot(losses.step, losses.loss, color=style.BLUE, alpha=0.3, linewidth=0.5)
    smooth = losses.loss.rolling(SMOOTHING, center=True, min_periods=1).mean()
    axis.plot(losses.step, smooth, color=style.BLUE, linewidth=1.2)
    axis.set(yscale="log", xlabel="step", xlim=(0, None))
    style.plain_log(axis.yaxis)
