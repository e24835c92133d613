"""Tables of protocols on defences of known truth: bias, verdicts, wrong ranks, coverage.

Rows: one per defence, protocol and estimand, with columns group, defence, protocol, estimand, truth, reported,
reported_low, reported_high, n, marked, why. Truth and reported accuracy are of the same images.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pandas as pd

from purification import statistics
from purification.statistics import Estimate

OURS = "ours"
UNMARKED = "ours, unmarked"
GROUPS = {
    "randomised": "random, right gradient",
    "faulty": "random, wrong gradient",
    "honest": "deterministic, honest",
    "masking": "deterministic, masking",
}
MAIN = {
    "randomised": "avg",
    "faulty": "avg",
    "honest": "fixed",
    "masking": "fixed",
}  # estimand of ours that is compared
KNOWN = "fixed"


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as three columns."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per defence and protocol: of ours the estimand of `MAIN`; of those without a mark once more."""
    ours = rows.protocol == OURS
    chosen = rows[~ours | (rows.estimand == rows.group.map(MAIN))]
    unmarked = chosen[(chosen.protocol == OURS) & ~chosen.marked].assign(protocol=UNMARKED)
    return pd.concat([chosen, unmarked], ignore_index=True)


def bias(rows: pd.DataFrame) -> pd.DataFrame:
    """By group and protocol: the mean error in points with its interval over defences, and the largest one."""
    records = []
    for (group, protocol), own in main_rows(rows).groupby(["group", "protocol"], sort=False):
        errors = 100.0 * (own.reported - own.truth)
        record: dict[str, Any] = {"group": GROUPS[str(group)], "protocol": protocol, "defences": len(own)}
        record |= columns("bias", statistics.mean(errors))
        worst = own.loc[errors.abs().idxmax()]
        record["largest"] = 100.0 * (worst.reported - worst.truth)
        records.append({**record, "of": worst.defence})
    return pd.DataFrame(records)


def verdicts(rows: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """By group: how many defences are marked, how many of the others are within the tolerance, and which are neither.

    Judged by the accuracy under known noise, which every evaluation reports.
    tolerance  of the accuracy, such as .02 for two points
    """
    known = rows[(rows.protocol == OURS) & (rows.estimand == KNOWN)]
    records = []
    for group, own in known.groupby("group", sort=False):
        near = (own.reported - own.truth).abs() <= tolerance + 1e-9
        missed = own[~own.marked & ~near]
        record = {"group": GROUPS[str(group)], "defences": len(own), "marked": int(own.marked.sum())}
        record |= {"unmarked_right": int((~own.marked & near).sum()), "unmarked_wrong": len(missed)}
        records.append({**record, "which": ", ".join(missed.defence)})
    return pd.DataFrame(records)


def _wrong_pairs(own: pd.DataFrame, gap: float) -> tuple[int, int]:
    """(pairs whose truths differ by more than the gap, those among them that are not ranked as they should be)."""
    pairs, wrong = 0, 0
    for first, second in combinations(own.itertuples(), 2):
        difference = first.truth - second.truth
        if abs(difference) <= gap:
            continue
        pairs += 1
        wrong += (first.reported - second.reported) * difference <= 0.0
    return pairs, wrong


def ranks(rows: pd.DataFrame, gap: float) -> pd.DataFrame:
    """By protocol: the share of pairs of defences, of all groups, that it ranks wrongly; a tie is wrong.

    gap  pairs whose truths differ by no more are not asked
    """
    records = []
    for protocol, own in main_rows(rows).groupby("protocol", sort=False):
        pairs, wrong = _wrong_pairs(own, gap)
        share = wrong / pairs if pairs else float("nan")
        records.append({"protocol": protocol, "defences": len(own), "pairs": pairs, "wrong": wrong, "share": share})
    return pd.DataFrame(records)


def coverage(samples: pd.DataFrame) -> pd.DataFrame:
    """By estimand: the share of intervals, over defences and samples of images, that contain the truth.

    samples  one row per defence, estimand and sample: columns estimand, truth, low, high
    """
    records = []
    for estimand, own in samples.groupby("estimand", sort=False):
        records.append(_covered(str(estimand), own))
    return pd.DataFrame([*records, _covered("all", samples)])


def _covered(estimand: str, own: pd.DataFrame) -> dict[str, Any]:
    inside = (own.low <= own.truth) & (own.truth <= own.high)
    found = statistics.wilson(int(inside.sum()), len(own))
    return {"estimand": estimand, "intervals": len(own), **columns("coverage", found)}


def folded(table: pd.DataFrame) -> pd.DataFrame:
    """For people: x, x_low and x_high as "x [low, high]"."""
    shown = table.copy()
    for name in [column for column in table if f"{column}_low" in table]:
        digits = 1 if name == "bias" else 3
        shown[name] = [
            _with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], digits)
            for row in table.to_dict("records")
        ]
        shown = shown.drop(columns=[f"{name}_low", f"{name}_high"])
    return shown


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    if pd.isna(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def ordered(protocols: Iterable[str]) -> list[str]:
    """Names of protocols, ours last."""
    names = dict.fromkeys(protocols)
    return sorted(names, key=lambda name: name in (OURS, UNMARKED))
