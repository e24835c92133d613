"""Whether the attacks are strong enough: what more steps, restarts and draws add, and how noisy their gradient is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from purification import statistics
from purification.reporting.protocol import share_correct
from purification.reporting.rows import Rows, columns
from purification.reporting.self_check import SelfCheck, no_drop

SETTINGS = ("scale", "steps", "random_start", "restarts", "draws")
RANGES = {"cosine": (-1.0, 1.0), "relative_variance": (0.0, math.inf), "same_sign": (0.0, 1.0)}
AXES = ("steps", "restarts", "draws")


def attack_adequacy(rows: Rows) -> pd.DataFrame:
    """Accuracy and mean cross-entropy of every variation, each image averaged over its judging draws."""
    records = []
    for key, frame in rows.groups("attack_adequacy", "purifier", "attack", *SETTINGS):
        head = dict(zip(("purifier", "attack", *SETTINGS), key, strict=True))
        head |= {"judging_draws": int(frame.judged.iloc[0]), **columns("robust", statistics.rate(frame.correct))}
        loss = statistics.mean(frame.loss)
        records.append({**head, "loss": loss.value, "loss_low": loss.low, "loss_high": loss.high})
    return pd.DataFrame(records)


def gradient_noise(rows: Rows) -> pd.DataFrame:
    """Cosine, relative variance and agreement in sign of the mean gradient over N draws with the reference."""
    records = []
    for (purifier, draws), frame in rows.groups("gradient_noise", "purifier", "draws"):
        record: dict[str, Any] = {"purifier": purifier, "draws": draws, "n": len(frame)}
        for name, (low, high) in RANGES.items():
            found = statistics.mean(frame[name], low=low, high=high)
            record |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        records.append(record)
    return pd.DataFrame(records)


def along(frame: pd.DataFrame, axis: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """(attack, its variations that differ along one setting only), the largest such set of every attack."""
    for attack, own in frame[frame.scale == 1.0].groupby("attack", sort=False):
        others = ["random_start", *(name for name in AXES if name != axis)]
        sets = [group for _, group in own.groupby(others, sort=False) if group[axis].nunique() > 1]
        if sets:
            yield str(attack), max(sets, key=lambda group: group[axis].nunique()).sort_values(axis)


def stronger_attack(rows: Rows, purifier: str) -> SelfCheck:
    """What the attack of `adequacy_attack` takes from the base attack on one purifier, on all its images."""
    attack = rows.settings["adequacy_attack"]
    base = share_correct(rows.purified(purifier, rows.base_attack), "fixed")
    strong = share_correct(rows.purified(purifier, attack), "fixed")
    shares = pd.concat([base, strong], axis=1, join="inner").to_numpy(dtype=float)
    return no_drop(statistics.difference(shares[:, 0] - shares[:, 1]), rows.settings["attack_adequacy"]["margin"])


def adequacy_checks(rows: Rows) -> dict[str, SelfCheck]:
    """That neither a stronger attack nor more steps, restarts or draws take more than the margin.

    Variations are compared on the headline: the most of a setting against the next fewer.
    """
    run, checks = rows.settings["run"], {}
    for purifier in run["attack_adequacy"]:
        checks[f"{purifier}: {rows.settings['adequacy_attack']} after the base attack"] = stronger_attack(
            rows, purifier
        )
    if "attack_adequacy" not in rows.frames:
        return checks
    frame = rows.frames["attack_adequacy"]
    for axis in AXES:
        for attack, group in along(frame[frame.purifier == rows.headline], axis):
            fewer, most = sorted(group[axis].unique())[-2:]
            means = group.groupby([axis, "image"]).correct.mean()
            drop = statistics.difference(np.asarray(means.loc[fewer] - means.loc[most]))
            name = f"{attack}: {most} {axis} against {fewer}"
            checks[name] = no_drop(drop, rows.settings["attack_adequacy"]["margin"])
    return checks
