"""How often the interval of a number contains the truth: many samples of images from one population."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from purification import statistics
from purification.attacks import PGD, pgd_attack
from purification.known_truth.catalogue import KnownDefence
from purification.known_truth.evaluators import PerImage, Sizes, estimate_correct, pose, predict


def attack_all(known: KnownDefence, attack: Mapping[str, Any], knowledge: str) -> Tensor:
    """Adversarial images (n, C, H, W) of PGD with one draw per step, the known one or a new one.

    attack  settings of `PGD` but for its draws
    """
    pgd = PGD(**attack, draws=1, redraw=knowledge == "none")
    return pgd_attack(pose(known, knowledge, 1), pgd).adversarial


def sample_intervals(known: KnownDefence, attack: Mapping[str, Any], sizes: Sizes, images: int) -> pd.DataFrame:
    """Intervals of every estimand on each block of `images` images; one row per estimand and block.

    The truth is that of the population: the mean over all n images, which must be many more than `images`.
    """
    on_known_noise = attack_all(known, attack, "both")
    on_fresh_draws = attack_all(known, attack, "none")
    labels = known.examples.labels.numpy()
    right = predict(known, on_known_noise, "fixed", 1)[:, 0] == labels
    records = []
    seen = predict(known, on_fresh_draws, "evaluation", sizes.fresh)
    for estimand, each in estimate_correct(known, seen, sizes).items():
        records += _intervals(known, estimand, each, images, exact=False)
    frozen = PerImage(known.truth.average(), right.astype(float))
    return pd.DataFrame([*records, *_intervals(known, "fixed", frozen, images, exact=True)])


def _intervals(
    known: KnownDefence, estimand: str, each: PerImage, images: int, *, exact: bool
) -> list[dict[str, object]]:
    """One interval per block; `exact` for values that are 0 or 1."""
    truth = float(each.truth.mean())
    found = []
    for start in range(0, len(each.estimates) - images + 1, images):
        values = each.estimates[start : start + images]
        own = statistics.wilson(int(np.sum(values)), images) if exact else statistics.rate(values)
        record = {"defence": known.name, "estimand": estimand, "sample": start // images, "truth": truth}
        found.append({**record, "value": own.value, "low": own.low, "high": own.high})
    return found
