"""What an attack of the configuration follows: the loss and the gradient of each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from purification.measure.audit import Followed

Entry = Mapping[str, Any]


def _one(entry: Entry) -> list[Followed]:
    return [Followed(entry["loss"], entry["gradient"])]


def _fab(entry: Entry) -> list[Followed]:
    """The linearised boundary between the true class and another: the difference of two logits."""
    return [Followed(loss="targeted_margin", gradient=entry["gradient"])]


def _autoattack(entry: Entry) -> list[Followed]:
    gradient = entry["gradient"]
    if entry["version"] == "rand":
        return [Followed(loss="ce", gradient=gradient), Followed(loss="dlr", gradient=gradient)]
    return [
        Followed(loss="ce", gradient=gradient),
        Followed(loss="targeted_dlr", gradient=gradient),
        Followed(loss="targeted_margin", gradient=gradient),
    ]


def _sequence(entry: Entry) -> list[Followed]:
    return [followed for stage in entry["stages"] for followed in followed_by(stage)]


def _nothing(entry: Entry) -> list[Followed]:
    return []


KINDS: dict[str, Callable[[Entry], list[Followed]]] = {
    "pgd": _one,
    "apgd": _one,
    "own_draws": _one,
    "diffattack": _one,
    "diffhammer": _one,
    "fab": _fab,
    "autoattack": _autoattack,
    "square": _nothing,
    "exemplars": _nothing,
    "sequence": _sequence,
}


def followed_by(entry: Entry) -> list[Followed]:
    """One for each stage of an attack that follows a gradient; none for an attack without."""
    return KINDS[entry["kind"]](entry)
