"""How sharply the fresh noise decides: the distribution over images of the probability to be fooled."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purification.reporting.figures import style
from purification.reporting.figures.style import Extras
from purification.reporting.fuzzy import fuzziness, share_up_to
from purification.reporting.rows import Rows

LOOKS: dict[str, tuple[str, Any]] = {
    "clean": (style.NULL, "-"),
    "random": (style.NULL, (0, (1, 1.5))),
    "transfer": (style.GREEN, (0, (4, 2))),
    "bpda": (style.RED, (0, (1, 1.5))),
    "eot": (style.BLUE, "-"),
}
OTHER: tuple[str, Any] = (style.ORANGE, (0, (3, 1, 1, 1)))
MOST = 4  # purifiers


def shown(rows: Rows) -> list[str]:
    """Purifiers with enough fresh draws, the headline first."""
    frame = rows.frames.get("purified")
    measured = set() if frame is None else set(frame.purifier)
    varied = [rows.headline, *(name for name in rows.settings["run"]["varied"] if name != rows.headline)]
    return [name for name in varied if name in measured][:MOST]


def curves(rows: Rows, extras: Extras) -> Figure:
    """CFR of every attack, one panel per purifier of `run.varied`."""
    chosen = shown(rows)
    if not chosen:
        return style.nothing()
    width = style.WIDTH if len(chosen) > 1 else 0.62 * style.WIDTH
    figure, axes = style.panels(1, len(chosen), height=2.6, width=width, sharey=True)
    for axis, letter, purifier in zip(axes[0], "abcd", chosen, strict=False):
        style.title(axis, letter, style.label(rows, purifier))
        for number, attack in enumerate(rows.attacks_on(purifier)):
            _curve(axis, rows, purifier, attack, -0.007 * number)
        axis.set(xlabel="probability τ to be fooled by a fresh draw", xlim=(-0.06, 1.02), ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of images fooled with\nprobability τ at most")
    axes[0, -1].legend(loc="lower right", title="attack (images)")
    draws = len(rows.purified(chosen[0], "clean").varied.iloc[0]) if len(rows.purified(chosen[0], "clean")) else 0
    style.note(
        figure, f"{draws} fresh draws that chose nothing; steps of 1/{draws}; bars at τ = 0: 95 % Wilson intervals"
    )
    return figure


def _curve(axis: Axes, rows: Rows, purifier: str, attack: str, place: float) -> None:
    values = fuzziness(rows.purified(purifier, attack))
    colour, dashes = LOOKS.get(attack, OTHER)
    levels = np.unique(np.concatenate([[0.0, 1.0], values]))
    shares = [share_up_to(values, level).value for level in levels]
    axis.step(levels, shares, where="post", color=colour, linestyle=dashes, label=f"{attack} ({len(values)})")
    never = share_up_to(values, 0.0)
    axis.vlines(place, never.low, never.high, color=colour, linewidth=0.9)
