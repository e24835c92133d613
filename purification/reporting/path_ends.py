"""Where the paths of purification begin and end, and whether they lead away from the clean image."""

from __future__ import annotations

import pandas as pd

from purification import statistics
from purification.reporting.rows import Rows
from purification.statistics import Estimate

FIRST, LAST = 0.0, 2.0  # positions of the attacked and of the purified image


def path_ends(
    rows: Rows, purifier: str, metric: str, model: str = "trained", *, start: str = "adversarial"
) -> pd.DataFrame:
    """Columns first and last, by image: a metric's value at both ends of the path."""
    ends = {
        name: rows.values("distances", purifier, metric, model, start=start, position=position)
        for name, position in (("first", FIRST), ("last", LAST))
    }
    return pd.concat(ends, axis=1, join="inner")


def growth(rows: Rows, purifier: str, model: str = "trained", *, start: str = "adversarial") -> Estimate:
    """Mean l2 distance to the clean image at the end of the path over that at its start."""
    ends = path_ends(rows, purifier, "l2", model, start=start)
    return statistics.ratio(ends["last"], ends["first"])
