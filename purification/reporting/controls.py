"""Negative controls: purifiers that the claims must reject, or that must be seen off the fitted
relation.
"""

from __future__ import annotations

import pandas as pd

from purification import statistics
from purification.reporting import law
from purification.reporting.claim import judge
from purification.reporting.rows import Rows


def controls(rows: Rows) -> pd.DataFrame:
    """Negative controls: which claims they do not satisfy, and whether the law predicts them.

    breaks         claims of A4, A6, A7 that fail for it
    undecided      those that its rows do not decide
    off_the_law    whether the accuracy lies outside the law's prediction interval; "not determined"
                   without a law
    off_by_chance  share of purifiers that lie outside although the law holds
    flagged        whether a claim does not pass or the accuracy is off the law
    """
    table = law.points(rows)
    expected = law.expectation(rows, table, list(law.sweep_of(table).purifier))
    records = []
    for point in table[table.role == "control"].itertuples():
        name = str(point.purifier)
        seen = expected.columns(name)
        verdicts = _verdicts(rows, name)
        broken = [claim for claim, verdict in verdicts.items() if verdict == "fail"]
        undecided = [claim for claim, verdict in verdicts.items() if verdict == "inconclusive"]
        records.append(
            {
                "purifier": name,
                "compression": point.compression,
                "clean": point.clean,
                "random": point.random,
                "matched": point.matched,
                "robust": point.robust,
                "robust_low": point.robust_low,
                "robust_high": point.robust_high,
                "n": point.robust_n,
                **seen,
                "breaks": ", ".join(broken) or "none",
                "undecided": ", ".join(undecided) or "none",
                "flagged": bool(broken or undecided) or seen["off_the_law"] == law.YES,
            }
        )
    return pd.DataFrame(records, columns=None if records else ["purifier"])


def _verdicts(rows: Rows, purifier: str) -> dict[str, str]:
    """A6, and where the randomness was measured A7 and A4, as they are judged for the headline."""
    verdicts = {"A6": judge(rows.compression(purifier), below=1.0)}
    frame = rows.select("randomness", purifier)
    if frame.empty:
        return verdicts
    radius = statistics.mean(frame.radius_varied / frame.radius_before)
    correlation = statistics.mean(frame.correlation_varied, low=-1.0, high=1.0)
    return {
        **verdicts,
        "A7": judge(radius, above=1.0),
        "A4": judge(correlation, below=0.4),
    }
