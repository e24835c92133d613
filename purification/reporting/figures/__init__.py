"""The figures: one function each, all `draw(rows, extras) -> Figure`, by name in `FIGURES`."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from purification.reporting.figures import style
from purification.reporting.figures.accuracy import budget, robustness
from purification.reporting.figures.paths import distances, randomness
from purification.reporting.figures.pictures import images, training
from purification.reporting.figures.relation import compression_robustness, prediction
from purification.reporting.figures.spectrum import spectrum
from purification.reporting.figures.style import Extras, save
from purification.reporting.rows import Rows

FIGURES: dict[str, Callable[[Rows, Extras], Figure]] = {
    "compression_robustness": compression_robustness,
    "prediction": prediction,
    "robustness": robustness,
    "distances": distances,
    "randomness": randomness,
    "spectrum": spectrum,
    "budget": budget,
    "images": images,
    "training": training,
}

__all__ = ["FIGURES", "Extras", "draw", "save"]


def draw(figure: str, rows: Rows, extras: Extras) -> Figure:
    """Draw one figure in the common look; whatever has no rows is left out."""
    with style.context():
        return FIGURES[figure](rows, extras)
