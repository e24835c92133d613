"""Negative controls: purifiers that the claims must reject, or that must be seen off the fitted relation."""

from __future__ import annotations

import pandas as pd

from purification import statistics
from purification.reporting import law
from purification.reporting.claim import judge
from purification.reporting.rows import Rows


def controls(rows: Rows) -> pd.DataFrame:
    """Negative controls: which claims they break and whether the law predicts their robust accuracy.

    off_the_law    whether the accuracy lies outside the law's prediction interval; "not determined" without a law
    off_by_chance  share of purifiers that lie outside although the law holds
    """
    table = law.points(rows)
    expected = law.expectation(rows, table, list(law.sweep_of(table).purifier))
    records = []
    for point in table[table.role == "control"].itertuples():
        name = str(point.purifier)
        broken = _broken_by(rows, name)
        seen = expected.columns(name)
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
                "flagged": bool(broken) or seen["off_the_law"] == law.YES,
            }
        )
    return pd.DataFrame(records, columns=None if records else ["purifier"])


def _broken_by(rows: Rows, purifier: str) -> list[str]:
    """Which of A4, A6, A7 a purifier does not satisfy."""
    broken = [] if judge(rows.compression(purifier), below=1.0) == "pass" else ["A6"]
    frame = rows.select("randomness", purifier)
    if frame.empty:
        return broken
    if judge(statistics.mean(frame.radius_varied / frame.radius_before), above=1.0) != "pass":
        broken.append("A7")
    varied = frame.correlation_varied
    if varied.isna().all() or judge(statistics.mean(varied, low=-1.0, high=1.0), below=0.4) != "pass":
        broken.append("A4")
    return broken
