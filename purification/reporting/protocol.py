"""Accuracy under an attack as its protocol has it: by estimand, by what is known of the noise, beside its controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from purification import statistics
from purification.reporting.rows import Rows
from purification.statistics import Array, Estimate

CONTROLS = ("clean", "random", "matched")
NO_ATTACKS = ("clean", "random")
# knowledge of the attacker -> column with the labels under the same knowledge
JUDGED = {"none": "varied", "forward": "fixed_forward", "reverse": "fixed_reverse", "both": "fixed", "semi": "semi"}

Judged = tuple[pd.DataFrame, str]  # rows, and the column of labels that they are judged by


def three(name: str, estimate: Estimate) -> dict[str, float]:
    """Three table columns of an estimate."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def estimands(rows: Rows, frame: pd.DataFrame, prefix: str = "") -> dict[str, Estimate]:
    """fixed, avg, wor_N and mv_K of rows; wor and mv only where enough draws were made.

    prefix  "matched_" for the control beside every row
    """
    evaluation, labels = rows.settings["evaluation"], frame.label.to_numpy()
    worst, votes = evaluation["worst_of"], evaluation["votes"]
    right = np.asarray(frame[f"{prefix}fixed"] == frame.label)
    predictions = np.stack(frame[f"{prefix}varied"].to_list())
    correct = predictions == labels[:, None]
    found = {"fixed": statistics.wilson(int(right.sum()), len(frame))}
    found["avg"] = statistics.rate(statistics.average_robustness(correct))
    if correct.shape[1] >= worst:
        found[f"wor_{worst}"] = statistics.rate(statistics.worst_of(correct, worst))
    if correct.shape[1] >= votes:
        options = {"subsets": evaluation["vote_subsets"], "seed": rows.settings["seed"]}
        found[f"mv_{votes}"] = statistics.rate(statistics.majority_vote(predictions, labels, votes, **options))
    return found


def with_controls(rows: Rows, purifier: str, attack: str) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """("", estimands of an attack), and ("_<control>", the same without it) for every control, on the same images.

    clean: no perturbation; random: noise as large as the budget; matched: as large as the attack's, image by image.
    """
    frame = rows.purified(purifier, attack)
    yield "", estimands(rows, frame)
    if attack in NO_ATTACKS:
        return
    for control in NO_ATTACKS:
        other = rows.purified(purifier, control)
        if len(other := other[other.image.isin(frame.image)]):
            yield f"_{control}", estimands(rows, other)
    yield "_matched", estimands(rows, frame, "matched_")


def knowledge_of(rows: Rows, attack: str) -> str:
    """What an attack knows of the purifier's noise; what is no attack on it knows nothing."""
    if attack in NO_ATTACKS or attack == "transfer":
        return "none"
    return str(rows.settings["attacks"][attack]["knowledge"])


def share_correct(frame: pd.DataFrame, column: str) -> pd.Series:
    """Image -> share of the draws in a column that are right; images not judged so are left out."""
    right = _right(frame, column)
    return pd.Series({image: float(row.mean()) for image, row in right.items()}, dtype=float)


def first_correct(frame: pd.DataFrame, column: str) -> pd.Series:
    """Image -> whether the first draw in a column is right: what an exact McNemar test is about."""
    return pd.Series({image: bool(row[0]) for image, row in _right(frame, column).items()}, dtype=bool)


def _right(frame: pd.DataFrame, column: str) -> dict[int, Array]:
    judged = {image: np.atleast_1d(seen) for image, seen in zip(frame.image, frame[column], strict=True)}
    return {i: row == label for (i, row), label in zip(judged.items(), frame.label, strict=True) if len(row)}


def under_knowledge(rows: Rows, frame: pd.DataFrame) -> dict[str, Estimate]:
    """Accuracy where the forward noise, the reverse noise or a pool of draws is known, where that was judged."""
    columns = [column for column in ("fixed_forward", "fixed_reverse", "semi") if column in frame]
    shares = {column: share_correct(frame, column) for column in columns}
    return {column: statistics.rate(share) for column, share in shares.items() if len(share)}


def compared(rows: Rows, first: Judged, second: Judged) -> dict[str, float | int]:
    """first minus second on the images of both, draws nested in images; exact McNemar test on one draw each.

    first, second  rows and the column of labels they are judged by
    """
    shares = both_shares(first, second)
    difference = statistics.difference(shares[:, 0] - shares[:, 1])
    only_first, only_second = discordant(first, second)
    return {
        **three("difference", difference),
        "difference_n": difference.n,
        "only_first": only_first,
        "only_second": only_second,
        "mcnemar_p": statistics.mcnemar(only_first, only_second),
    }


def both_shares(first: Judged, second: Judged) -> Array:
    """(n, 2) shares of the draws that are right, on the images of both."""
    shares = [share_correct(*first), share_correct(*second)]
    return np.asarray(pd.concat(shares, axis=1, join="inner"))


def discordant(first: Judged, second: Judged) -> tuple[int, int]:
    """Images that only the first, and that only the second, gets right on its first draw."""
    both = pd.concat([first_correct(*first), first_correct(*second)], axis=1, join="inner")
    one, other = both.to_numpy(dtype=bool).T
    return int((one & ~other).sum()), int((~one & other).sum())
