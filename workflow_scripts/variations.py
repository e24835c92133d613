"""An attack with other numbers of steps, restarts or draws, or another budget; of a sequence, every stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Entry = Mapping[str, Any]


def steps_of(settings: Entry) -> int:
    """Steps of an attack, or of the first stage of a sequence that has some."""
    stages = settings.get("stages", [settings])
    return int(next(stage["steps"] for stage in stages if "steps" in stage))


def with_steps(settings: Entry, steps: int) -> dict[str, Any]:
    """The attack with so many steps: where it has a step size, steps times step size stays what it is.

    The stages of a sequence keep their proportions: `steps` are those of the first stage that has some.
    """
    if "stages" in settings:
        factor = steps / steps_of(settings)
        return {**settings, "stages": [_scaled(stage, factor) for stage in settings["stages"]]}
    changed = {**settings, "steps": steps}
    if "step_size" in settings:
        changed["step_size"] = settings["step_size"] * settings["steps"] / steps
    return changed


def _scaled(stage: Entry, factor: float) -> dict[str, Any]:
    """A stage with so many times its steps, at least one; without steps as it is."""
    return with_steps(stage, max(1, round(factor * stage["steps"]))) if "steps" in stage else dict(stage)


def with_restarts(settings: Entry, restarts: int) -> dict[str, Any]:
    """The attack from so many random starts, also when it is one; stages without restarts stay as they are."""
    changed = dict(settings)
    if "restarts" in settings:
        changed["restarts"] = restarts
    if "random_start" in settings:
        changed["random_start"] = True
    if "stages" in settings:
        changed["stages"] = [with_restarts(stage, restarts) for stage in settings["stages"]]
    return changed


def varied(settings: Entry, variation: Entry) -> dict[str, Any]:
    """The attack with the budget, steps, draws or restarts of a variation."""
    changed = with_steps(settings, variation.get("steps", steps_of(settings)))
    if "restarts" in variation:
        changed = with_restarts(changed, variation["restarts"])
    if "draws" in variation:
        changed["draws"] = variation["draws"]
    return {**changed, "epsilon": settings["epsilon"] * variation.get("scale", 1.0)}


def head_of(settings: Entry) -> dict[str, Any]:
    """What tells variations apart: steps, random start, restarts and draws; of a sequence those of its stages."""
    stages = settings.get("stages", [settings])
    return {
        "steps": steps_of(settings),
        "random_start": any(stage.get("random_start", True) for stage in stages),
        "restarts": max(stage.get("restarts", 1) for stage in stages),
        "draws": settings.get("draws", 1),
    }
