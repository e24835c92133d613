"""Paired comparisons on the same images and the same noise: between purifiers, and between settings of one purifier."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from purification.reporting.protocol import JUDGED, NO_ATTACKS, compared, knowledge_of
from purification.reporting.rows import WORST_KNOWN, Rows

Side = tuple[str, str, str]  # purifier, attack, what its images are judged by


def paired(rows: Rows) -> pd.DataFrame:
    """Difference of two accuracies on the same images, with its interval and the exact McNemar test.

    purifiers  every purifier of the sweep against the headline: all attacks that ran on both and the base attack
               alone (frozen noise), transfer (fresh draws)
    defences   those of run.comparison against what they are compared with: clean images and every attack on both
    settings   of the purifiers of run.varied: every attack, judged under what it knows, against the base attack, and
               against its own controls under the same judgement
    """
    records = []
    for (purifier, attack, judged_by), (other, control, by) in _sides(rows):
        record = {"purifier": purifier, "attack": attack, "judged_by": judged_by}
        record |= {"against": other, "against_attack": control, "against_judged_by": by}
        first = _judged(rows, purifier, other, attack, judged_by)
        found = compared(rows, first, _judged(rows, other, purifier, control, by))
        records.append({**record, **found})
    return pd.DataFrame(records)


def _judged(rows: Rows, purifier: str, against: str, attack: str, judged_by: str) -> tuple[pd.DataFrame, str]:
    """Rows and the column of labels; "<attack>/matched" is the control beside an attack."""
    if attack == WORST_KNOWN:
        return rows.known_frame(purifier, against), judged_by
    name, _, control = attack.partition("/")
    return rows.purified(purifier, name), f"{control}_{judged_by}" if control else judged_by


def _sides(rows: Rows) -> Iterator[tuple[Side, Side]]:
    yield from dict.fromkeys([*_between_purifiers(rows), *_between_defences(rows), *_between_settings(rows)])


def _between_purifiers(rows: Rows) -> Iterator[tuple[Side, Side]]:
    for purifier in rows.settings["run"]["sweep"]:
        for attack, judged_by in ((WORST_KNOWN, WORST_KNOWN), (rows.base_attack, "fixed"), ("transfer", "varied")):
            if purifier != rows.headline:
                yield (purifier, attack, judged_by), (rows.headline, attack, judged_by)


def _between_defences(rows: Rows) -> Iterator[tuple[Side, Side]]:
    for defence, other in rows.settings["run"]["comparison"].items():
        yield (defence, WORST_KNOWN, WORST_KNOWN), (other, WORST_KNOWN, WORST_KNOWN)
        for attack in rows.attacks_on(defence):
            if attack in rows.attacks_on(other):
                judged_by = JUDGED[knowledge_of(rows, attack)]
                yield (defence, attack, judged_by), (other, attack, judged_by)


def _between_settings(rows: Rows) -> Iterator[tuple[Side, Side]]:
    for purifier in rows.settings["run"]["varied"]:
        for attack in rows.attacks_on(purifier):
            if attack in NO_ATTACKS:
                continue
            own = (purifier, attack, JUDGED[knowledge_of(rows, attack)])
            if attack != rows.base_attack:
                yield own, (purifier, rows.base_attack, "fixed")
            for control in NO_ATTACKS:
                yield own, (purifier, control, own[2])
            if own[2] in ("fixed", "varied"):
                yield own, (purifier, f"{attack}/matched", own[2])
