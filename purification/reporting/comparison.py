"""Defences beside what each must be compared with: every estimand, the paired tests, and the law of the plain ones."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pandas as pd

from purification import statistics
from purification.reporting import law
from purification.reporting.protocol import JUDGED, compared, estimands, share_correct
from purification.reporting.rows import WORST_KNOWN, Rows, columns
from purification.statistics import Estimate

EXACT = ("replay", "autograd")  # gradients of what runs
UNKNOWN, PARTIAL = "none", ("forward", "reverse")  # what an attack knows of the two noises


def defences(rows: Rows) -> pd.DataFrame:
    """One row per purifier of `run.comparison`, compared or compared with.

    clean                 mean over fresh draws
    avg, wor_N, mv_K      attack that knows no noise (the one with the most draws), on fresh draws
    fixed                 all noise known, whatever attack broke an image;  base: the base attack alone
    forward, reverse      one of the two noises known
    <name>_difference     to the purifier in `against`, on the same images: interval, exact McNemar test; of all attacks
                          together, by those that were run on both
    law                   robust accuracy that the sigmoid of the plain purifiers of the sweep gives at the compression
                          rate, with its prediction interval; of a plain purifier, fitted without it
    off_the_law           whether the accuracy lies outside that interval, as the share off_by_chance does where the law
                          holds
    """
    against = rows.settings["run"]["comparison"]
    if not against:
        return pd.DataFrame(columns=["purifier", "against"])
    chosen = list(dict.fromkeys(chain(against.values(), against)))
    expected = law.expectation(rows, law.points(rows), plain(rows))
    return pd.DataFrame([{**_row(rows, name, against.get(name, "")), **_law(expected, name)} for name in chosen])


def plain(rows: Rows) -> list[str]:
    """Purifiers of the sweep that nothing guides and whose denoiser was not fine-tuned."""
    entries, denoisers = rows.settings["purifiers"], rows.settings["denoisers"]
    diffusion = [name for name in rows.settings["run"]["sweep"] if entries[name]["kind"] == "diffusion"]
    return [name for name in diffusion if denoisers[entries[name]["denoiser"]]["kind"] != "finetuned"]


def sides(rows: Rows, purifier: str) -> dict[str, tuple[str, str]]:
    """What purifiers are compared in -> (attack, column of labels); only what was run."""
    found = {"clean": ("clean", JUDGED[UNKNOWN]), "fixed": (WORST_KNOWN, WORST_KNOWN)}
    found["base"] = (rows.base_attack, "fixed")
    for name, knowledge in (("avg", UNKNOWN), *((known, known) for known in PARTIAL)):
        if attack := _attack(rows, purifier, knowledge):
            found[name] = (attack, JUDGED[knowledge])
    return found


def _attack(rows: Rows, purifier: str, knowledge: str) -> str | None:
    """The attack with this knowledge of the noise, exact gradients and the most draws."""
    run = {name: rows.settings["attacks"][name] for name in rows.settings["run"]["attacks"]}
    made = rows.attacks_on(purifier)
    known = {
        name: int(entry.get("draws", 1))
        for name, entry in run.items()
        if entry["knowledge"] == knowledge and entry.get("gradient") in EXACT and name in made
    }
    return max(known, key=known.__getitem__) if known else None


def judged_rows(rows: Rows, purifier: str, against: str, side: tuple[str, str]) -> tuple[pd.DataFrame, str]:
    """Rows of one side of a comparison and the column that judges them; of all attacks, those run on both."""
    attack, column = side
    frame = rows.known_frame(purifier, against) if attack == WORST_KNOWN else rows.purified(purifier, attack)
    return frame, column


def _law(expected: law.Expectation, purifier: str) -> dict[str, Any]:
    """What the law of the plain purifiers says of one."""
    seen = expected.columns(purifier)
    return {
        "law": seen["predicted"],
        "law_low": seen["predicted_low"],
        "law_high": seen["predicted_high"],
        "off_the_law": seen["off_the_law"],
        "off_by_chance": seen["off_by_chance"],
        "law_note": seen["law"],
    }


def _row(rows: Rows, purifier: str, against: str) -> dict[str, Any]:
    own, other = sides(rows, purifier), sides(rows, against) if against else {}
    record: dict[str, Any] = {"purifier": purifier, "against": against}
    for name, estimate in _accuracies(rows, purifier, own).items():
        record |= columns(name, estimate)
    for name in (name for name in own if name in other):
        first = judged_rows(rows, purifier, against, own[name])
        second = judged_rows(rows, against, purifier, other[name])
        record |= {f"{name}_{key}": value for key, value in compared(rows, first, second).items()}
    record |= columns("compression", rows.compression(purifier))
    return record


def _accuracies(rows: Rows, purifier: str, judged: dict[str, tuple[str, str]]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for name, (attack, column) in judged.items():
        if name == "fixed":
            found[name] = rows.worst_known(purifier)
            continue
        frame = rows.purified(purifier, attack)
        if name == "base":
            found[name] = rows.fixed(purifier, attack)
        elif name == "avg":
            found |= {key: value for key, value in estimands(rows, frame).items() if key != "fixed"}
        elif len(shares := share_correct(frame, column)):
            found[name] = statistics.rate(shares)
    return found
