"""Which evaluations rest on a gradient that failed its audit, and the mark that says so wherever they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from purification.reporting.rows import Rows

DAGGER = "†"
QUANTILE = {"finite_difference": 0.9}  # a kink of the network within the step spoils single images
MEAN = ("masked",)
MEANING = {
    "replay_difference": "the replayed gradient differs from the gradient",
    "finite_difference": "the gradient is not the derivative of what runs",
    "repeat_difference": "the same noise gives different results",
    "zero_gradient": "the gradient vanishes where the loss changes",
    "not_finite": "the gradient has NaN or infinity",
    "masked": "clamping or rounding stops the gradient",
}
NO_ATTACK = ("clean", "random")
UNATTACKED = ("A0", "A3", "A4", "A5", "A6", "A7", "A8")  # claims without an attack and without a derivative
ON_TRANSFER = ("A1", "A2")
ON_SWEEP = ("A12", "A13", "A14", "A15")


def statistic(check: str, values: pd.Series) -> float:
    """What a check is judged by over the images: the worst, but for `QUANTILE` and `MEAN`; NaN if any is missing."""
    if values.isna().any():
        return math.nan
    return float(values.mean() if check in MEAN else values.quantile(QUANTILE.get(check, 1.0)))


def audits(frame: pd.DataFrame, limits: Mapping[str, float]) -> pd.DataFrame:
    """One row per audited purifier: the statistic of every check, and whether all are within their limits."""
    records = []
    for purifier, own in frame.groupby("purifier", sort=False):
        seen = {check: statistic(check, own[check]) for check in MEANING}
        failed = [MEANING[check] for check in MEANING if not seen[check] <= limits[check]]
        cosines = {name: float(own[name].mean()) for name in own if name.endswith("_cosine")}
        record = {"purifier": purifier, "n": len(own), **seen, **cosines}
        records.append({**record, "reliable": not failed, "why": "; ".join(failed)})
    return pd.DataFrame(records)


def faults(frame: pd.DataFrame, limits: Mapping[str, float], evaluated: Sequence[str]) -> dict[str, str]:
    """Purifier -> why its attacks mean nothing, for those whose audit fails or is missing."""
    table = audits(frame, limits)
    found = dict(zip(table.purifier, table.why, strict=True))
    reasons = {name: found.get(name, "its gradient was not audited") for name in dict.fromkeys(evaluated)}
    return {name: why for name, why in reasons.items() if why}


def _attacked(rows: Rows, row: Mapping[str, Any]) -> list[str]:
    """Nothing without an attack; transferred images come from the undefended classifier."""
    attack = row["attack"]
    return [] if attack in NO_ATTACK else ["identity"] if attack == "transfer" else [row["purifier"]]


def _fitted(rows: Rows, row: Mapping[str, Any]) -> list[str]:
    """Purifiers of the sweep up to the subset's largest t*, and the anchor."""
    limit, entries = rows.settings["fit"]["subsets"][row["subset"]], rows.settings["purifiers"]
    chosen = [name for name in rows.settings["run"]["sweep"] if not entries[name].get("t_star", 0) > limit]
    return [*chosen, "identity"] if row.get("anchor") == "with" else chosen


def _claimed(rows: Rows, row: Mapping[str, Any]) -> list[str]:
    claim, run = row["claim"], rows.settings["run"]
    if claim in UNATTACKED:
        return []
    if claim in ON_TRANSFER:
        return ["identity"]
    return [*run["sweep"], "identity"] if claim in ON_SWEEP else [rows.headline]


RELIES: dict[str, Callable[[Rows, Mapping[str, Any]], Iterable[str]]] = {
    "claims": _claimed,
    "robustness": _attacked,
    "fuzzy": _attacked,
    "points": lambda rows, row: [row["purifier"]],
    "fit": _fitted,
    "prediction": _fitted,
    "controls": lambda rows, row: [row["purifier"], *rows.settings["run"]["sweep"]],
    "directional_compression": _attacked,
    "distances": lambda rows, row: ["identity"] if row["start"] == "adversarial" else [],
    "spectrum": lambda rows, row: [row["purifier"]] if row["model"] == "trained" else [],
    "attack_adequacy": lambda rows, row: [row["purifier"]],
    "gradient_noise": lambda rows, row: [row["purifier"]],
    "attack_strength": lambda rows, row: [row["purifier"]],
    "ledger": lambda rows, row: [row["purifier"]] if row["attack"] != "none" else [],
    "defences": lambda rows, row: [row["purifier"], row["against"]],
    "paired": lambda rows, row: [row["purifier"], row["against"]],
    "ladder": lambda rows, row: [row["purifier"]],
    "expectations": lambda rows, row: [row["purifier"]],
}


def reason(rows: Rows, purifiers: Iterable[str]) -> str:
    """Why what rests on these purifiers is unreliable; empty when it is not."""
    wrong = rows.unreliable
    return "; ".join(f"{name}: {wrong[name]}" for name in dict.fromkeys(purifiers) if name in wrong)


def marked(name: str, table: pd.DataFrame, rows: Rows) -> pd.DataFrame:
    """The table with columns `reliable` and `why`; a claim that rests on a failed audit decides nothing.

    Tables whose numbers need neither an attack nor a derivative are returned as they are.
    """
    if name not in RELIES:
        return table
    reasons = [reason(rows, RELIES[name](rows, row)) for row in table.to_dict("records")]
    noted = table.assign(reliable=[not why for why in reasons], why=reasons)
    if name == "claims":
        noted.loc[~noted.reliable, ["verdict", "holm"]] = "inconclusive"
    return noted


def daggered(table: pd.DataFrame) -> pd.DataFrame:
    """For people: a dagger behind the first cell of every unreliable row."""
    if "reliable" not in table:
        return table
    first = table.columns[0]
    cells = [value if good else f"{value} {DAGGER}" for value, good in zip(table[first], table.reliable, strict=True)]
    return table.assign(**{first: cells})
