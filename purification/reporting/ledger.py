"""Published numbers beside ours: agree, differ, or why the two cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from purification import statistics
from purification.reporting.rows import Rows, varied_correct
from purification.statistics import Estimate

CLEAN = "none"
SAME = {"single": "avg"}  # one draw that the attack did not choose estimates the mean over draws


def as_number(epsilon: str) -> float:
    """A budget written as 8/255 or 0.5; NaN for words."""
    try:
        return float(Fraction(epsilon))
    except (ValueError, ZeroDivisionError):
        return math.nan


def _named(names: Mapping[str, str], wanted: str) -> list[str]:
    return [own for own, published in names.items() if published == wanted]


def mismatches(rows: Rows, entry: Mapping[str, Any], estimand: str) -> list[str]:
    """In which settings this run and a published number differ; empty when they can be compared."""
    run, threat = rows.settings["ledger"], rows.settings["threat"]
    found = [key for key in ("dataset", "classifier") if run[key] != entry[key]]
    if not _named(run["purifiers"], entry["method"]):
        found.append("method")
    if entry["attack"] != CLEAN:
        if not _named(run["attacks"], entry["attack"]):
            found.append("attack")
        if entry["norm"] != threat["norm"]:
            found.append("norm")
        if not math.isclose(as_number(entry["epsilon"]), threat["epsilon"], rel_tol=1e-3):
            found.append("epsilon")
    if estimand not in (evaluation_of(rows)):
        found.append("estimand")
    return found


def evaluation_of(rows: Rows) -> tuple[str, ...]:
    """Estimands this run can be asked for."""
    evaluation = rows.settings["evaluation"]
    return ("fixed", "avg", *SAME, f"wor_{evaluation['worst_of']}", f"mv_{evaluation['votes']}")


def _ours(rows: Rows, purifier: str, attack: str, estimand: str) -> Estimate | None:
    """Accuracy of a purifier under an attack; None without rows or with too few draws."""
    frame, evaluation = rows.purified(purifier, attack), rows.settings["evaluation"]
    if frame.empty:
        return None
    if estimand == "fixed":
        return rows.fixed(purifier, attack)
    correct = varied_correct(frame)
    if estimand == "avg":
        return statistics.rate(statistics.average_robustness(correct))
    kind, count = estimand.split("_")
    if correct.shape[1] < int(count):
        return None
    if kind == "wor":
        return statistics.rate(statistics.worst_of(correct, int(count)))
    seen, options = np.stack(frame.varied.to_list()), {"subsets": evaluation["vote_subsets"]}
    labels, seed = frame.label.to_numpy(), rows.settings["seed"]
    return statistics.rate(statistics.majority_vote(seen, labels, int(count), seed=seed, **options))


def compare(ours: Estimate, published: float, n: int | None) -> tuple[str, str]:
    """Verdict and its reason: whether 0 is in the 95 % interval of the difference of two independent proportions.

    The interval is built from those of the two (Newcombe 1998, method 10); the published one is Wilson's where its
    number of images is known, and a point where it is not.
    """
    theirs = statistics.wilson(round(published * n), n) if n else Estimate(published, published, published, 0)
    difference = ours.value - published
    below = math.hypot(ours.value - ours.low, theirs.high - published)
    above = math.hypot(ours.high - ours.value, published - theirs.low)
    low, high = 100.0 * (difference - below), 100.0 * (difference + above)
    verdict = "agree" if low <= 0.0 <= high else "differ"
    return verdict, f"ours - published = {100.0 * difference:.1f} [{low:.1f}, {high:.1f}] points"


def _judged(rows: Rows, entry: Mapping[str, Any], estimand: str, value: float) -> dict[str, Any]:
    """Our estimate, verdict and reason for one published number."""
    empty = {"purifier": "", "ours_percent": math.nan, "ours_percent_low": math.nan, "ours_percent_high": math.nan}
    if found := mismatches(rows, entry, estimand):
        return {**empty, "ours_n": math.nan, "verdict": "cannot tell", "reason": "other " + ", ".join(found)}
    names = rows.settings["ledger"]
    attacks = ["clean"] if entry["attack"] == CLEAN else _named(names["attacks"], entry["attack"])
    for purifier in _named(names["purifiers"], entry["method"]):
        for attack in attacks:
            ours = _ours(rows, purifier, attack, SAME.get(estimand, estimand))
            if ours is not None:
                verdict, reason = compare(ours, value / 100.0, entry.get("n"))
                if attack != "clean" and purifier in rows.unreliable:
                    verdict, reason = "cannot tell", f"ours is unreliable: {rows.unreliable[purifier]}"
                bounds = {"low": ours.low, "high": ours.high}
                record = {f"ours_percent_{end}": 100.0 * bound for end, bound in bounds.items()}
                own = {"purifier": purifier, "ours_percent": 100.0 * ours.value, **record, "ours_n": ours.n}
                return {**own, "verdict": verdict, "reason": reason}
    return {**empty, "ours_n": math.nan, "verdict": "cannot tell", "reason": "not measured in this run"}


def _entries(rows: Rows) -> Iterator[dict[str, Any]]:
    for entry in rows.settings["published"]:
        for estimand, value in entry["values"].items():
            head = {key: entry.get(key, "") for key in ("method", "dataset", "classifier", "attack", "norm", "epsilon")}
            published = {"estimand": estimand, "published_percent": value, "published_n": entry.get("n", math.nan)}
            told = {key: entry.get(key, "") for key in ("source", "protocol", "disputed")}
            yield {**head, **published, **told, **_judged(rows, entry, estimand, value)}


def ledger(rows: Rows) -> pd.DataFrame:
    """One row per published number, with ours where the settings are the same."""
    return pd.DataFrame(_entries(rows))
