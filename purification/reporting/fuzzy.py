"""Fuzzy robustness: how likely each attacked image fools the defence, over fresh draws of its noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from purification import statistics
from purification.reporting.rows import Rows, varied_correct
from purification.statistics import Array


def fuzziness(frame: pd.DataFrame) -> Array:
    """mu_i = share of the fresh draws on which image i is misclassified, (n,) in {0, 1/M, ..., 1}."""
    found: Array = 1.0 - statistics.average_robustness(varied_correct(frame))
    return found


def share_up_to(values: Array, level: float) -> statistics.Estimate:
    """CFR(tau): share of images with mu <= tau, with its Wilson interval."""
    return statistics.wilson(int((values <= level + 1e-9).sum()), len(values))


def _levels(rows: Rows) -> Iterator[dict[str, Any]]:
    for (purifier, attack), frame in rows.groups("purified", "purifier", "attack"):
        if purifier not in rows.settings["run"]["varied"]:
            continue
        values = fuzziness(frame)
        head = {"purifier": purifier, "attack": attack, "draws": len(frame.varied.iloc[0])}
        for level in rows.settings["evaluation"]["fuzziness"]:
            found = share_up_to(values, level)
            bounds = {"share_low": found.low, "share_high": found.high}
            yield {**head, "fuzziness": level, "share": found.value, **bounds, "n": found.n}


def fuzzy(rows: Rows) -> pd.DataFrame:
    """Share of images that fool the defence with at most each probability of `evaluation.fuzziness`.

    Only purifiers of `run.varied`: the others are judged on too few draws.
    """
    return pd.DataFrame(list(_levels(rows)))
