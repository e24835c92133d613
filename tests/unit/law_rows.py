"""Made-up rows of a run whose points of the law are given: compression rates and right or wrong
per image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from purification.reporting.rows import Rows
from purification.statistics import Array

ROOT = Path(__file__).parents[2]
CONTROLS = {
    "identity": (1.05, 0.0),
    "constant": (0.0, 0.1),
    "blur": (0.32, 0.1),
}  # rate, robust accuracy
PROBES = 12  # images of the compression rate


@cache
def default_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((ROOT / "config/default.yaml").read_text())
    return settings


def names_of(count: int) -> list[str]:
    """The first purifiers of the default sweep, whose order is that of `law_simulation.DESIGN`."""
    return list(default_settings()["run"]["sweep"][:count])


def first_right(accuracies: Sequence[float], images: int) -> Array:
    """(images, purifiers): the first images are right, as many as the accuracy asks."""
    wanted = np.round(np.asarray(accuracies, dtype=float) * images)
    return (np.arange(images)[:, None] < wanted).astype(float)


def judged_rows(purifier: str, attack: str, right: Array) -> pd.DataFrame:
    label = np.arange(len(right)) % 10
    seen = np.where(right > 0.5, label, (label + 1) % 10)
    drawn = [np.full(2, value) for value in seen]
    columns = {
        "image": range(len(right)),
        "label": label,
        "unpurified": seen,
        "fixed": seen,
        "matched_fixed": label,
        "size_linf": 0.1,
        "own_accuracy": np.nan,
        "response": 0.5,
    }
    columns |= {"compression": np.full(len(right), 0.8 if attack == "strong" else np.nan)}
    columns |= dict.fromkeys(("varied", "matched_varied", "fixed_forward", "fixed_reverse", "semi"), drawn)
    return pd.DataFrame({"purifier": purifier, "attack": attack, **columns})


def compression_rows(purifier: str, rate: float, spread: float) -> pd.DataFrame:
    values = rate + spread * np.linspace(-1.0, 1.0, PROBES)
    columns = {
        "image": range(PROBES),
        "probe_scale": 1.0,
        "compression": values,
        "compression_anchor": values,
    }
    null = {**columns, "compression": 1.2 * values}
    own = {"purifier": purifier, "model": "trained", **columns}
    return pd.concat([pd.DataFrame(own), pd.DataFrame({**own, **null, "model": "null"})], ignore_index=True)


def randomness_rows(purifier: str) -> pd.DataFrame:
    """A spread of twice the probes', and a correlation that only the undefended classifier has low."""
    values = np.linspace(0.9, 1.1, PROBES)
    correlation = 0.2 * values if purifier == "identity" else 0.8 * values
    columns = {"image": range(PROBES), "radius_before": 1.0, "radius_varied": 2.0 * values}
    return pd.DataFrame({"purifier": purifier, "model": "trained", **columns, "correlation_varied": correlation})


def law_rows(
    rates: Sequence[float],
    right: Array,
    *,
    clean: float = 0.9,
    base: Sequence[float] | None = None,
    spread: float = 0.01,
    level: float = 0.9,
) -> Rows:
    """Rows of a run of the default configuration with these points.

    rates  (purifiers,) compression rates, possibly NaN
    right  (images, purifiers) 1 where an attacked image is classified correctly
    base   accuracies of the undefended classifier at the default budgets; a sigmoid if not given
    """
    images = len(right)
    settings = copy.deepcopy(default_settings())
    names = names_of(len(rates))
    settings["run"] |= {
        "sweep": names,
        "controls": list(CONTROLS),
        "comparison": {names[-1]: names[0]},
    }
    settings["run"]["headline"] = names[0]
    settings["fit"]["level"] = level
    known = dict(zip(names, zip(rates, right.T, strict=True), strict=True))
    for name, (rate, robust) in CONTROLS.items():
        known[name] = (rate, first_right([robust], images)[:, 0])
    judged, compressed = [], []
    for name, (rate, own) in known.items():
        judged.append(judged_rows(name, "strong", own))
        for attack in ("clean", "random"):
            judged.append(judged_rows(name, attack, first_right([clean], images)[:, 0]))
        compressed.append(compression_rows(name, rate, spread))
    budgets = settings["attack_strength"]["undefended"]
    scales = np.array([point["scale"] for point in budgets])
    accuracies = 1.0 / (1.0 + np.exp(12.0 * (scales - 0.5))) if base is None else np.asarray(base, dtype=float)
    strength = []
    for point, own in zip(budgets, first_right(list(accuracies), 100).T, strict=True):
        head = {
            "purifier": "identity",
            **point,
            "epsilon": 0.1 * point["scale"],
            "image": range(100),
        }
        strength.append(pd.DataFrame({**head, "correct": own > 0.5, "correct_clean": True, "correct_matched": True}))
    frames = {
        "purified": pd.concat(judged, ignore_index=True),
        "compression": pd.concat(compressed, ignore_index=True),
        "randomness": pd.concat([randomness_rows(name) for name in CONTROLS], ignore_index=True),
        "attack_strength": pd.concat(strength, ignore_index=True),
    }
    return Rows(frames, settings)
