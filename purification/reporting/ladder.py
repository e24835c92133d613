"""The drop of the headline's accuracy from no attack to known randomness, split by what each attack has in addition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from purification import statistics
from purification.reporting.claim import judge
from purification.reporting.protocol import JUDGED, compared, knowledge_of, share_correct
from purification.reporting.rows import Rows, columns
from purification.statistics import Estimate

Side = tuple[str, str]  # attack of the headline, column of labels that judges it


def rungs(rows: Rows) -> list[Side]:
    """No attack, then the attacks of run.ladder, each judged under what it knows."""
    attacks = [name for name in rows.settings["run"]["ladder"] if name in rows.attacks_on(rows.headline)]
    return [("clean", "varied"), *((name, JUDGED[knowledge_of(rows, name)]) for name in attacks)]


def common(rows: Rows, sides: list[Side]) -> list[int]:
    """Images that every rung was judged on."""
    judged = [set(share_correct(rows.purified(rows.headline, attack), column).index) for attack, column in sides]
    return sorted(set.intersection(*judged))


def on_images(rows: Rows, side: Side, images: list[int]) -> tuple[pd.DataFrame, str]:
    """Rows of a rung on some images, and the column that judges it."""
    frame = rows.purified(rows.headline, side[0])
    return frame[frame.image.isin(images)], side[1]


def ladder(rows: Rows) -> pd.DataFrame:
    """One row per rung: accuracy, its controls under the same judgement, and the points it takes from the rung above.

    share  of the whole drop, from no attack to the last rung
    """
    sides = rungs(rows)
    images = common(rows, sides)
    values = [statistics.rate(share_correct(*on_images(rows, side, images))) for side in sides]
    drop, records = values[0].value - values[-1].value, []
    for number, (side, value) in enumerate(zip(sides, values, strict=True)):
        settings = rows.settings["attacks"].get(side[0], {})
        record: dict[str, Any] = {"purifier": rows.headline, "attack": side[0], "judged_by": side[1]}
        record |= {key: settings.get(key, "") for key in ("gradient", "knowledge", "draws", "pool")}
        record |= {**columns("robust", value), **_controls(rows, side, images)}
        if number:
            above = on_images(rows, sides[number - 1], images)
            step = compared(rows, above, on_images(rows, side, images))
            points = {key: 100 * step[f"difference{key}"] for key in ("", "_low", "_high")}
            record |= {f"points{key}": value for key, value in points.items()}
            record |= {"points_n": step["difference_n"], "mcnemar_p": step["mcnemar_p"]}
            record["share"] = (step["difference"] / drop) if drop else math.nan
        records.append(record)
    return pd.DataFrame(records)


def _controls(rows: Rows, side: Side, images: list[int]) -> dict[str, float]:
    """The identical judgement without an attack: mean accuracies on the same images and draws."""
    found = {}
    for control in ("clean", "random"):
        found[control] = float(share_correct(*on_images(rows, (control, side[1]), images)).mean())
    if side[1] in ("fixed", "varied"):
        frame, _ = on_images(rows, side, images)
        found["matched"] = float(share_correct(frame, f"matched_{side[1]}").mean())
    return found


@dataclass(frozen=True)
class Expectation:
    """Accuracy on `upper` minus that on `lower` is expected above `margin` (attack, column of labels)."""

    statement: str
    upper: Side
    lower: Side
    margin: float = 0.0


def expected(rows: Rows) -> list[Expectation]:
    """What is known to hold of these attacks on a random defence, whatever its strength."""
    base, elsewhere = (rows.plain_attack, "fixed"), (rows.plain_attack, "varied")
    eot, exact, transfer, semi = ("eot", "varied"), ("one_draw", "varied"), ("transfer", "varied"), ("semi", "semi")
    return [
        Expectation("known noise is attacked best: EOT on fresh draws above it", eot, base),
        Expectation("images made for the frozen noise do less harm on fresh draws than EOT's", elsewhere, eot),
        Expectation("images made against the bare classifier do less harm than EOT's", transfer, eot),
        Expectation("BPDA overstates by at least 5 points", ("bpda", "fixed"), base, 0.05),
        Expectation("the adjoint overstates: above the exact gradient", ("adjoint", "varied"), exact),
        Expectation("the surrogate overstates: above the exact gradient", ("surrogate", "varied"), exact),
        Expectation("one draw per step overstates: above EOT", exact, eot),
        Expectation("a pool of draws is easier to attack than fresh ones: EOT above it", eot, semi),
        Expectation("a pool of draws is harder to attack than one known draw", semi, base),
    ]


def expectations(rows: Rows) -> pd.DataFrame:
    """Every expectation with its paired difference, interval, n and verdict; "not run" where an attack is missing."""
    records, known = [], rows.attacks_on(rows.headline)
    for each in expected(rows):
        record: dict[str, Any] = {"purifier": rows.headline, "expectation": each.statement, "margin": each.margin}
        record |= {"upper": " by ".join(each.upper), "lower": " by ".join(each.lower)}
        if not {each.upper[0], each.lower[0]} <= set(known):
            records.append({**record, "verdict": "not run"})
            continue
        images = common(rows, [each.upper, each.lower])
        upper, lower = (on_images(rows, side, images) for side in (each.upper, each.lower))
        for name, side in (("upper", upper), ("lower", lower)):
            record[f"{name}_accuracy"] = float(np.mean(share_correct(*side)))
        found = compared(rows, upper, lower)
        value, low, high = (found[f"difference{key}"] for key in ("", "_low", "_high"))
        estimate = Estimate(value, low, high, int(found["difference_n"]))
        records.append({**record, **found, "verdict": judge(estimate, above=each.margin)})
    return pd.DataFrame(records)
