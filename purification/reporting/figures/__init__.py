"""The figures: one function each, all `draw(rows, extras) -> Figure`, by name in `FIGURES`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from matplotlib.figure import Figure

from purification.reporting.figures import style
from purification.reporting.figures.accuracy import attacked, budget, robustness
from purification.reporting.figures.adequacy import adequacy
from purification.reporting.figures.anomaly import anomaly, error_maps
from purification.reporting.figures.fuzziness import curves, shown
from purification.reporting.figures.ladder import ladder
from purification.reporting.figures.paths import distances, randomness
from purification.reporting.figures.pictures import images, training
from purification.reporting.figures.predicted import prediction
from purification.reporting.figures.relation import compression_robustness
from purification.reporting.figures.spectrum import spectrum
from purification.reporting.figures.style import Extras, save
from purification.reporting.rows import Rows

FIGURES: dict[str, Callable[[Rows, Extras], Figure]] = {
    "compression_robustness": compression_robustness,
    "prediction": prediction,
    "robustness": robustness,
    "ladder": ladder,
    "distances": distances,
    "randomness": randomness,
    "spectrum": spectrum,
    "budget": budget,
    "adequacy": adequacy,
    "fuzziness": curves,
    "images": images,
    "training": training,
    "anomaly": anomaly,
    "error_maps": error_maps,
}

# Figure -> the purifiers whose attacks or derivatives it shows; those whose audit failed are named under it.
SHOWN: dict[str, Callable[[Rows], Iterable[str]]] = {
    "compression_robustness": lambda rows: [*rows.settings["run"]["sweep"], *rows.settings["run"]["controls"]],
    "prediction": lambda rows: rows.settings["run"]["sweep"],
    "robustness": attacked,
    "ladder": lambda rows: [rows.headline],
    "distances": lambda rows: ["identity"],
    "randomness": lambda rows: [],
    "spectrum": lambda rows: [rows.headline],
    "budget": lambda rows: ["identity", rows.headline],
    "adequacy": lambda rows: [rows.headline],
    "fuzziness": shown,
    "images": lambda rows: [rows.headline],
    "training": lambda rows: [],
    "anomaly": lambda rows: [],
    "error_maps": lambda rows: [],
}

__all__ = ["FIGURES", "Extras", "draw", "save"]


def draw(figure: str, rows: Rows, extras: Extras) -> Figure:
    """Draw one figure in the common look; whatever has no rows is left out."""
    with style.context():
        drawn = FIGURES[figure](rows, extras)
        style.warn(drawn, rows, SHOWN[figure](rows))
        return drawn
