"""Tables of the evaluation's own examination: what is known under frozen noise, what the audits say, what is marked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from purification.reporting.known import accuracy
from purification.reporting.marks import RELIES
from purification.reporting.protocol import three
from purification.reporting.reliability import detectable_share, forgiven_images
from purification.reporting.rows import NOT_MEASURED, Rows, columns

CLAIMS = tuple(f"A{number}" for number in range(18))
FITTED = "tables fit, prediction and controls"
MARKED = ["purifier", "attack", "marked", "reason", "rests_on", "notes", "unmeasured", "gap", "gap_low", "gap_high"]


def known_noise(rows: Rows) -> pd.DataFrame:
    """Accuracy with frozen noise: what all attacks together leave, beside the base attack's own number.

    broken_by  images that other attacks broke and the base attack did not, by attack
    gap        the same in points, on the images of the attack with the fewest among those that ran on enough; the upper
               end of its interval is the largest gap that may have been missed
    """
    records = []
    for purifier in rows.evaluated:
        known = rows.known(purifier)
        record: dict[str, Any] = {"purifier": purifier, **columns("worst_known", accuracy(known.worst))}
        record |= three("base", accuracy(known.right))
        record["broken_by"] = ", ".join(f"{name} {count}" for name, count in known.counts().items())
        records.append({**record, **_gap(rows, purifier)})
    return pd.DataFrame(records)


def _gap(rows: Rows, purifier: str) -> dict[str, float]:
    """Points that other attacks take from the base attack, with their interval and the number of images."""
    gap = rows.known(purifier).gap()
    if gap is None:
        return {"gap": math.nan, "gap_low": math.nan, "gap_high": math.nan, "gap_n": 0}
    return {"gap": 100 * gap.value, "gap_low": 100 * gap.low, "gap_high": 100 * gap.high, "gap_n": gap.n}


def reliability(rows: Rows) -> pd.DataFrame:
    """The audit of every attack on every purifier: what each check is judged by, and the verdict.

    found_share, found_share_exceptions  smallest share of images with a defect that is found with a probability of .95:
    by checks that one image fails, and by those that forgive some
    """
    if "audit" not in rows.frames:
        return pd.DataFrame()
    limits, records = rows.settings["reliability"], []
    for (purifier, attack), frame in rows.frames["audit"].groupby(["purifier", "attack"], sort=False):
        own = rows.examinations[purifier, attack]
        record = {"purifier": purifier, "attack": attack, "n": own.images, **own.seen}
        informed = [name for name in frame if name.endswith("_cosine")]
        for name in (*informed, "zero_share", "sign_disagreement", "linearity_budget"):
            record[name] = float(frame[name].mean())
        forgiven = forgiven_images(own.images, limits)
        record["found_share"] = detectable_share(own.images)
        record["found_share_exceptions"] = detectable_share(own.images, forgiven)
        records.append({**record, **_verdict(rows, purifier, attack)})
    return pd.DataFrame(records)


def _verdict(rows: Rows, purifier: str, attack: str) -> dict[str, Any]:
    """Of a purifier under its base attack, all that is known; of another attack, what its audit adds."""
    if attack == rows.base_attack:
        verdict = rows.verdicts[purifier]
        why = "; ".join(verdict.why)
        notes, unmeasured = "; ".join(verdict.notes), "; ".join(verdict.unmeasured)
    else:
        why, notes, unmeasured = rows.unreliable_attacks.get((purifier, attack), ""), "", ""
    return {"reliable": not why, "why": why, "notes": notes, "unmeasured": unmeasured}


def _resting(rows: Rows, relied: str | tuple[str, str]) -> str:
    """Claims and tables that rest on an evaluation."""
    found = [claim for claim in CLAIMS if relied in list(RELIES["claims"](rows, {"claim": claim}))]
    if relied in rows.settings["run"]["sweep"]:
        found.append(FITTED)
    return ", ".join(found)


def _not_measured(rows: Rows) -> Iterator[tuple[str, str, str]]:
    """(purifier, kind of rows, reason) of measurements that need a derivative which there is not."""
    frame = rows.frames.get(NOT_MEASURED)
    if frame is not None:
        for row in frame.to_dict("records"):
            yield row["purifier"], row["kind"], row[NOT_MEASURED]


def unreliable(rows: Rows) -> pd.DataFrame:
    """What is marked and why, what rests on it, and what could not be measured; purifiers with nothing are left out.

    gap  points that other attacks take from the base attack; the upper end is what may have been missed
    """
    records = []
    for purifier, verdict in rows.verdicts.items():
        if verdict.why or verdict.notes or verdict.unmeasured:
            record = {"purifier": purifier, "attack": rows.base_attack, "marked": bool(verdict.why)}
            record |= {"reason": "; ".join(verdict.why), "rests_on": _resting(rows, purifier)}
            record |= {"notes": "; ".join(verdict.notes), "unmeasured": "; ".join(verdict.unmeasured)}
            records.append({**record, **_gap(rows, purifier)})
    for purifier, kind, reason in _not_measured(rows):
        told = f"{kind}: {reason}"
        record = {"purifier": purifier, "attack": "", "marked": False, "reason": "", "rests_on": "", "notes": ""}
        records.append({**record, "unmeasured": told})
    for (purifier, attack), why in rows.unreliable_attacks.items():
        record = {"purifier": purifier, "attack": attack, "marked": True, "reason": why}
        records.append({**record, "rests_on": _resting(rows, (purifier, attack)), "notes": "", "unmeasured": ""})
    return pd.DataFrame(records, columns=[*MARKED, "gap_n"])
