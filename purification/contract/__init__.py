"""What a purifier or a classifier of a user must satisfy, tried on it: one finding per check, in plain words.

Everything tried comes from `noise.NoiseSource`; the global random state is left as it was. A check whose answer would
mean nothing after another failure is reported as not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from purification.contract.calls import calls, companions, in_range, repeats
from purification.contract.derivatives import differentiable, gradient
from purification.contract.surroundings import device, evaluation, float64, noise
from purification.contract.trial import FAILED, NOTE, OK, SKIPPED, Finding, Trial, plain, random_state, set_random_state
from purification.user_code import UserFunction, own_classifier, own_purifier

__all__ = ["FAILED", "NOTE", "OK", "SKIPPED", "Finding", "check"]

# Check -> (function, checks whose failure makes its answer meaningless).
CHECKS: dict[str, tuple[Callable[[Trial], Finding], tuple[str, ...]]] = {
    "range": (in_range, ()),
    "evaluation": (evaluation, ()),
    "repeatable": (repeats, ("evaluation",)),
    "batch": (companions, ("evaluation", "repeatable")),
    "differentiable": (differentiable, ()),
    "gradient": (gradient, ("evaluation", "repeatable", "batch", "differentiable")),
    "float64": (float64, ()),
    "device": (device, ()),
    "noise": (noise, ("repeatable",)),
}
OF_PURIFIERS = ("range", "noise")


def _tried(trial: Trial) -> Iterator[Finding]:
    """Findings of the calls, then of `CHECKS`, which need calls without a failure."""
    broken = []
    for finding in calls(trial):
        broken += [finding.check] * (finding.verdict == FAILED)
        yield finding
    call = broken[:1]
    for name, (attempt, needs) in CHECKS.items():
        if name in broken or (name in OF_PURIFIERS and not trial.noisy):
            continue
        cause = next((other for other in (*call, *needs) if other in broken), None)
        if cause:
            yield Finding(name, SKIPPED, f"after {cause}")
            continue
        try:
            finding = attempt(trial)
        except ValueError as error:
            finding = Finding(name, FAILED, plain(trial, error))
        broken += [name] * (finding.verdict == FAILED)
        yield finding


def check(kind: str, settings: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int) -> list[Finding]:
    """Try a "purifier" or a "classifier" given by `path`, `factory` and `params`, in the order a user would mend it."""

    def make(place: torch.device) -> UserFunction:
        if kind == "classifier":
            return own_classifier(settings, image_shape, num_classes, place)
        return own_purifier(settings, image_shape, place)

    before = random_state()
    try:
        function = make(torch.device("cpu"))
        trial = Trial(function, make, image_shape, kind == "purifier")
        return [Finding("loads", OK, f"{settings['factory']}: a {kind} of images {image_shape}"), *_tried(trial)]
    except ValueError as error:
        prefix = f"{settings['path']}, {settings['factory']}: "
        text = str(error).removeprefix(prefix)
        return [Finding("device" if "cuda" in text.lower() else "loads", FAILED, text)]
    finally:
        set_random_state(before)
