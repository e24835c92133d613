"""Which numbers rest on an evaluation that does not count, and the mark that says so wherever they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from purification.reporting.rows import Rows

DAGGER = "†"
NO_ATTACK = ("clean", "random")
UNATTACKED = ("A0", "A3", "A4", "A5", "A6", "A7", "A8")  # claims without an attack and without a derivative
ON_TRANSFER = ("A1", "A2")
ON_SWEEP = ("A12", "A13", "A14", "A15")
ON_ATTACKS = {"A11": "eot", "A16": "bpda"}  # claims that compare an attack with the plain one

Relied = str | tuple[str, str]  # a purifier, under its base attack, or a purifier and another attack


def _attacked(rows: Rows, row: Mapping[str, Any]) -> list[Relied]:
    """Nothing without an attack; transferred images come from the undefended classifier."""
    attack = row["attack"]
    if attack in NO_ATTACK:
        return []
    return ["identity"] if attack == "transfer" else [row["purifier"], (row["purifier"], attack)]


def _fitted(rows: Rows, row: Mapping[str, Any]) -> list[Relied]:
    """Purifiers of the sweep up to the subset's largest t*, and the anchor."""
    limit, entries = rows.settings["fit"]["subsets"][row["subset"]], rows.settings["purifiers"]
    chosen = [name for name in rows.settings["run"]["sweep"] if not entries[name].get("t_star", 0) > limit]
    return [*chosen, "identity"] if row.get("anchor") == "with" else chosen


def _claimed(rows: Rows, row: Mapping[str, Any]) -> list[Relied]:
    claim, run = row["claim"], rows.settings["run"]
    if claim in UNATTACKED:
        return []
    if claim in ON_TRANSFER:
        return ["identity"]
    if claim in ON_SWEEP:
        return [*run["sweep"], "identity"]
    compared = [ON_ATTACKS[claim], rows.plain_attack] if claim in ON_ATTACKS else [rows.base_attack]
    return [rows.headline, *((rows.headline, attack) for attack in compared)]


def _of_attack(rows: Rows, row: Mapping[str, Any]) -> list[Relied]:
    return [row["purifier"], (row["purifier"], row["attack"])]


def _of_both(rows: Rows, row: Mapping[str, Any]) -> list[Relied]:
    return [row["purifier"], row["against"]]


def _of_purifier(rows: Rows, row: Mapping[str, Any]) -> list[Relied]:
    return [row["purifier"]]


RELIES: dict[str, Callable[[Rows, Mapping[str, Any]], Iterable[Relied]]] = {
    "claims": _claimed,
    "robustness": _attacked,
    "known_noise": _of_purifier,
    "fuzzy": _attacked,
    "points": _of_purifier,
    "fit": _fitted,
    "prediction": _fitted,
    "controls": lambda rows, row: [row["purifier"], *rows.settings["run"]["sweep"]],
    "directional_compression": _attacked,
    "distances": lambda rows, row: ["identity"] if row["start"] == "adversarial" else [],
    "spectrum": lambda rows, row: [row["purifier"]] if row["model"] == "trained" else [],
    "attack_adequacy": _of_attack,
    "gradient_noise": _of_purifier,
    "attack_strength": _of_purifier,
    "ledger": lambda rows, row: [row["purifier"]] if row["attack"] != "none" else [],
    "defences": _of_both,
    "paired": _of_both,
    "ladder": _of_attack,
    "expectations": _of_purifier,
}


def reason(rows: Rows, relied: Iterable[Relied]) -> str:
    """Why what rests on these evaluations is unreliable; empty when it is not."""
    purifiers, attacks = rows.unreliable, rows.unreliable_attacks
    found = []
    for each in dict.fromkeys(relied):
        if isinstance(each, tuple) and each in attacks:
            found.append(f"{each[0]} under {each[1]}: {attacks[each]}")
        elif isinstance(each, str) and each in purifiers:
            found.append(f"{each}: {purifiers[each]}")
    return "; ".join(found)


def marked(name: str, table: pd.DataFrame, rows: Rows) -> pd.DataFrame:
    """The table with columns `reliable` and `why`; a claim that rests on a failed examination decides nothing.

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
