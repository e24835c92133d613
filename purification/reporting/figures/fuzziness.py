"""How sharply the fresh noise decides: the distribution over images of the probability to be fooled."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, product
from string import ascii_lowercase
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
OTHERS = (style.ORANGE, style.PINK, style.BROWN, style.SKY, style.GREY)  # then again, dashed


def shown(rows: Rows) -> list[str]:
    """Purifiers with enough fresh draws, the headline first."""
    frame = rows.frames.get("purified")
    measured = set() if frame is None else set(frame.purifier)
    varied = [rows.headline, *(name for name in rows.settings["run"]["varied"] if name != rows.headline)]
    return [name for name in varied if name in measured]


def curves(rows: Rows, extras: Extras) -> Figure:
    """CFR of every attack, one panel per purifier of `run.varied`."""
    chosen = shown(rows)
    if not chosen:
        return style.nothing()
    width = style.WIDTH if len(chosen) > 1 else 0.78 * style.WIDTH
    figure, axes = style.lines(len(chosen), height=2.6, width=width, sharey=True)
    looks = _looks(dict.fromkeys(attack for purifier in chosen for attack in rows.attacks_on(purifier)))
    for axis, letter, purifier in zip(axes.flat, cycle(ascii_lowercase), chosen, strict=False):
        style.title(axis, letter, style.label(rows, purifier))
        for number, attack in enumerate(rows.attacks_on(purifier)):
            _curve(axis, rows, purifier, attack, looks[attack], -0.007 * number)
        axis.set(xlabel="probability τ", xlim=(-0.06, 1.02), ylim=(0, 1.02))
    for axis in axes[:, 0]:
        axis.set_ylabel("share of images fooled by a fresh\ndraw with probability τ at most")
    entries = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    axes[0, -1].legend(entries.values(), entries, loc="center left", bbox_to_anchor=(1.0, 0.5), title="attack (images)")
    draws = len(rows.purified(chosen[0], "clean").varied.iloc[0]) if len(rows.purified(chosen[0], "clean")) else 0
    style.note(
        figure, f"{draws} fresh draws that chose nothing; steps of 1/{draws}; bars at τ = 0: 95 % Wilson intervals"
    )
    return figure


def _looks(attacks: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dashes of every attack: the usual ones their own, the others one colour each."""
    others = cycle(product(("-", (0, (3, 1, 1, 1))), OTHERS))
    return {attack: LOOKS.get(attack) or next((colour, dashes) for dashes, colour in others) for attack in attacks}


def _curve(axis: Axes, rows: Rows, purifier: str, attack: str, look: tuple[str, Any], place: float) -> None:
    values = fuzziness(rows.purified(purifier, attack))
    colour, dashes = look
    levels = np.unique(np.concatenate([[0.0, 1.0], values]))
    shares = [share_up_to(values, level).value for level in levels]
    axis.step(levels, shares, where="post", color=colour, linestyle=dashes, label=f"{attack} ({len(values)})")
    never = share_up_to(values, 0.0)
    axis.vlines(place, never.low, never.high, color=colour, linewidth=0.9)
