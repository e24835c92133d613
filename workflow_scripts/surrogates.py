"""The purifier whose gradient stands in for that of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def surrogate_of(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Entry of the purifier that a surrogate gradient is taken from.

    It has at most `surrogate_steps` reverse steps, and `surrogate_guidance` in its guidance, where that is given; one
    without steps is its own surrogate.
    """
    changed = dict(entry)
    if "steps" in entry:
        changed["steps"] = min(settings["surrogate_steps"], entry["steps"])
    if "surrogate_guidance" in settings:
        changed["guidance"] = {**entry["guidance"], **settings["surrogate_guidance"]}
    return changed
