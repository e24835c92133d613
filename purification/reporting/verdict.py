"""Whether the robust accuracy of a purifier counts: its audit, and what its other attacks know against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from purification.reporting.known import Known, accuracy
from purification.reporting.reliability import NOT_AUDITED, Examination, Limits

UNASKED = ("clean", "random", "transfer")  # rows that no attack on the purifier itself made
BEATEN = "other attacks break {points:.1f} points more than its base attack (on {n} images)"
UNMOVED = "the attack left {points:.1f} % of the images where they were although the loss changes"
OTHERWISE = "{points:.1f} % of the images were judged otherwise than the attack saw them"
FLAT = "around {points:.0f} % of the images the margin is the same everywhere: no attack had anything to follow"
NO_EVIDENCE = "{meaning}, and no other attack was run on it"


@dataclass(frozen=True)
class Verdict:
    """What is wrong with the evaluation of one purifier; it counts when `why` is empty.

    notes       what asks for a better attack, or would if more robustness were left
    unmeasured  what could not be measured, and why
    """

    why: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()


def unmoved_share(frame: pd.DataFrame, base: str, norm: str) -> float:
    """Share of the images that an attack left where they were, right, although random noise changes the logits."""
    own = frame[frame.attack == base].set_index("image")
    response = frame[frame.attack == "random"].set_index("image").response.reindex(own.index)
    still = (own[f"size_{norm}"] == 0) & (own.fixed == own.label) & (response > 0)
    return float(still.mean())


def judged_otherwise(frame: pd.DataFrame, base: str) -> float:
    """Share of the images that are judged otherwise than the attack saw them on the noise it knows; NaN if unknown."""
    own = frame[frame.attack == base]
    seen = own[own.own_accuracy.notna()]
    return float(((seen.own_accuracy > 0) != (seen.fixed == seen.label)).mean())


def evidence(
    frame: pd.DataFrame, known: Known, limits: Limits, *, base: str, norm: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what is wrong, what raises doubts) by the rows of `purified` of one purifier."""
    wrong, doubts = [], []
    otherwise = judged_otherwise(frame, base)
    if otherwise > limits["judged_otherwise"]:
        wrong.append(OTHERWISE.format(points=100 * otherwise))
    if known.beaten(limits["beaten"]):
        found = [known.gap_on(str(name)) for name in known.broken]
        largest = max(found, key=lambda gap: (gap.low, gap.value))
        wrong.append(BEATEN.format(points=100 * largest.value, n=largest.n))
    unmoved = unmoved_share(frame, base, norm)
    if unmoved > limits["unmoved"]:
        doubts.append(UNMOVED.format(points=100 * unmoved))
    return tuple(wrong), tuple(doubts)


def doubt_flat_margins(examination: Examination, frame: pd.DataFrame, limits: Limits) -> tuple[str, ...]:
    """A doubt where attacks had nothing to follow; none where every image is predicted as the same class anyway."""
    constant = frame.fixed[frame.attack.isin(UNASKED)].nunique() <= 1
    if constant or examination.flat <= limits["flat"]:
        return ()
    return (FLAT.format(points=100 * examination.flat),)


def judge_purifier(
    examination: Examination | None, frame: pd.DataFrame, known: Known, limits: Limits, *, base: str, norm: str
) -> Verdict:
    """The verdict on the evaluation of one purifier under its base attack.

    examination  of the base attack (`reliability.examine`); None where nothing was audited
    frame        rows of `purified` of the purifier;  known: what all attacks leave (`known.known_results`)
    limits       section `reliability` of the configuration

    A doubt about an attack that leaves no more than the limit `beaten` of the images is a note: nothing is overstated
    by more. A masked gradient is a note where attacks that do not follow it were run, and have not beaten the base.
    """
    if examination is None:
        return Verdict((NOT_AUDITED,))
    wrong, doubts = evidence(frame, known, limits, base=base, norm=norm)
    why = [*examination.wrong, *wrong]
    notes: list[str] = []
    at_stake = accuracy(known.worst).value > limits["beaten"]
    for reason in (*examination.hints, *doubts, *doubt_flat_margins(examination, frame, limits)):
        (why if at_stake else notes).append(reason)
    challenged = any(name not in UNASKED for name in known.broken)
    for reason in examination.notes:
        if challenged or not at_stake:
            notes.append(reason)
        else:
            why.append(NO_EVIDENCE.format(meaning=reason))
    return Verdict(tuple(why), tuple(notes), examination.unmeasured)


def why_of(verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    """Purifier -> why its attacks mean nothing, in one text; those that count are left out."""
    return {name: "; ".join(verdict.why) for name, verdict in verdicts.items() if verdict.why}
