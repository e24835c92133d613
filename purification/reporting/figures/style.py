"""One look for all figures: fonts, colours, names of purifiers, and files whose bytes repeat."""

from __future__ import annotations

import logging
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from purification.reporting.marks import DAGGER, reason
from purification.reporting.rows import Rows
from purification.statistics import Array

matplotlib.use("Agg")
logging.getLogger("fontTools").setLevel(logging.WARNING)  # a line per glyph otherwise

WIDTH = 6.75  # inches: a text width
ACROSS = 3  # panels of `lines` beside each other
NARROW = 5.0  # below this ratio of its ends a logarithmic axis has evenly spaced ticks
PALETTE = [str(colour) for colour in sns.color_palette("colorblind").as_hex()]
BLUE, ORANGE, GREEN, RED, PINK, BROWN, _, GREY, _, SKY = PALETTE
INK, NULL, FAINT = "#222222", "#6e6e6e", "#b8b8b8"

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs everywhere
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.hashsalt": "purification",
    "savefig.dpi": 200,
}

# The variants of one sampler keep its colour; the order is that of legends.
VARIANTS: dict[str, tuple[str, str]] = {
    "DDPM": ("o", BLUE),
    "DDPM, large variance": ("h", SKY),
    "reverse only": ("v", PINK),
    "DDIM": ("s", ORANGE),
    "DDIM, η > 0": ("p", BROWN),
    "PF-ODE": ("^", GREEN),
    "VP-SDE": ("D", RED),
    "one step": ("P", "#5b3a8c"),
    "fine-tuned": ("*", "#8a8a00"),
    "guided": ("<", "#00808a"),
}
NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}
SAMPLERS = {"ddpm": "DDPM", "ddim": "DDIM", "pf_ode": "PF-ODE", "vp_sde": "VP-SDE", "one_step": "one step"}


@dataclass(frozen=True)
class Extras:
    """What figures read beside the per-image rows; whatever is missing is left out of a figure.

    fitted   tables of the fit: points, parameters, curves, predictions
    samples  "<attack>/input" and "<attack>/purified" -> (n, C, H, W) images of the headline purifier
    losses   name of a network -> rows (step, loss)
    """

    fitted: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    samples: Mapping[str, Array] = field(default_factory=dict)
    losses: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@cache
def _know_shipped_fonts() -> None:
    """Let matplotlib find the fonts that it ships and no others, which its list in the user's cache may lack."""
    fontManager.ttflist = []
    for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        fontManager.addfont(path)


def context() -> AbstractContextManager[None]:
    """The look, for drawing and for saving."""
    _know_shipped_fonts()
    settings: Any = matplotlib.rcParamsDefault | {"backend": "Agg"} | RC
    return matplotlib.rc_context(settings)


def save(figure: Figure, *, pdf: Path, png: Path) -> None:
    """Vector PDF with embedded fonts and PNG; without dates and versions, so that equal figures are equal files."""
    with context():
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, format="png", metadata={"Software": None})


def panels(
    rows: int = 1, columns: int = 1, *, height: float, width: float = WIDTH, **options: Any
) -> tuple[Figure, Array]:
    """Figure and its (rows, columns) axes."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def lines(count: int, *, height: float, width: float = WIDTH, **options: Any) -> tuple[Figure, Array]:
    """Figure and its axes for `count` panels, in lines of at most ACROSS; those left over are off.

    height  of one line, inches
    """
    columns = min(count, ACROSS)
    rows = math.ceil(count / columns)
    figure, axes = panels(rows, columns, height=rows * height, width=width, **options)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes


def title(axes: Axes, letter: str, text: str, *, pad: float = 6.0) -> None:
    """Panel letter and what the panel shows, `pad` points above it."""
    axes.set_title(rf"$\mathbf{{{letter}}}$  {text}", loc="left", pad=pad)


def note(figure: Figure, text: str) -> None:
    """Small print under the figure: n, bands."""
    wrapped = textwrap.fill(" ".join(text.split()), int(17.5 * figure.get_figwidth()))
    figure.supxlabel(wrapped, x=0.99, ha="right", fontsize=6.5, color=NULL, linespacing=1.3)


def key(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Legend of the whole figure, above its panels."""
    options = {"columnspacing": 1.4, "handletextpad": 0.5, "borderaxespad": 0.2}
    figure.legend(handles=list(handles), loc="outside upper center", ncols=min(len(handles), columns), **options)


def plain_log(*axes: Axis) -> None:
    """Logarithmic axes with few ticks, written as plain numbers; after what they show is drawn."""
    for axis in axes:
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > NARROW * low else MaxNLocator(4))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def empty(axes: Axes, text: str) -> None:
    """Say that a panel has no rows."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=NULL)
    axes.set(xticks=[], yticks=[])


def nothing(text: str = "no rows") -> Figure:
    """Figure of a run without the rows for it."""
    figure, axes = panels(height=1.5)
    empty(axes[0, 0], text)
    return figure


def variant(rows: Rows, purifier: str) -> str:
    """Name of what a purifier does at a given t*: its sampler, unless more than that tells it from plain diffusion."""
    entry, denoisers = rows.settings["purifiers"][purifier], rows.settings["denoisers"]
    if entry["kind"] == "guided":
        return "guided"
    if denoisers.get(entry.get("denoiser"), {}).get("kind") == "finetuned":
        return "fine-tuned"
    name = SAMPLERS.get(str(entry.get("sampler")), str(entry.get("sampler", entry["kind"])))
    if entry.get("forward_noise") is False:
        return "reverse only"
    if entry.get("variance") == "fixed_large":
        return f"{name}, large variance"
    return f"{name}, η > 0" if entry.get("eta") else name


def look(name: str) -> tuple[str, str]:
    """Marker and colour of a variant; black crosses for those of other people's making."""
    return VARIANTS.get(name, ("X", INK))


def handle(name: str, **options: Any) -> Line2D:
    """Entry of a legend for a variant."""
    marker, colour = look(name)
    return Line2D([], [], color=colour, marker=marker, markersize=4, label=name, **options)


def label(rows: Rows, purifier: str) -> str:
    """Readable name of a purifier with its t*; controls and whatever `plain` leaves out keep their configured name."""
    entry, mark = rows.settings["purifiers"][purifier], dagger(rows, purifier)
    if not plain(rows, purifier) or purifier in rows.settings["run"]["controls"]:
        return f"{purifier}{mark}"
    return f"{variant(rows, purifier)}, t* = {entry['t_star']}{mark}"


def plain(rows: Rows, purifier: str) -> bool:
    """Whether sampler and t* tell a purifier apart: diffusion without guidance, with the denoiser of the headline."""
    entry, headline = (rows.settings["purifiers"][name] for name in (purifier, rows.headline))
    return bool(entry["kind"] == "diffusion" and entry.get("denoiser") == headline.get("denoiser"))


def dagger(rows: Rows, purifier: str) -> str:
    """The mark of a purifier whose gradient failed its audit; nothing for the others."""
    return f" {DAGGER}" if purifier in rows.unreliable else ""


def mark(axes: Axes, rows: Rows, purifier: str, x: float, y: float) -> None:
    """A dagger beside the point of an unreliable purifier."""
    if purifier in rows.unreliable:
        axes.annotate(DAGGER, (x, y), (3, 2), textcoords="offset points", fontsize=9, color=RED, zorder=5)


def warn(figure: Figure, rows: Rows, shown: Iterable[str]) -> None:
    """Say under the figure which of the purifiers it shows are unreliable, and why."""
    if found := reason(rows, shown):
        note(figure, f"{figure.get_supxlabel()}; {DAGGER} unreliable, the audit of the gradient failed: {found}")


def at_headline_strength(rows: Rows, kind: str) -> dict[str, str]:
    """Variant -> purifier, for purifiers of a kind of rows that share the headline's t* (no controls)."""
    entries, controls = rows.settings["purifiers"], rows.settings["run"]["controls"]
    strength = entries[rows.headline].get("t_star")
    frame = rows.frames.get(kind)
    measured = [] if frame is None else list(frame.purifier.unique())
    plain = entries[rows.headline].get("denoiser")
    alike = [p for p in measured if entries[p].get("t_star") == strength and entries[p].get("denoiser") == plain]
    chosen = [p for p in alike if entries[p]["kind"] == "diffusion" and p not in controls]
    return {variant(rows, p): p for p in sorted(chosen, key=lambda p: _rank(variant(rows, p)))}


def _rank(name: str) -> int:
    return list(VARIANTS).index(name) if name in VARIANTS else len(VARIANTS)


def images(count: int) -> str:
    return f"n = {count} image{'s' if count != 1 else ''}"
