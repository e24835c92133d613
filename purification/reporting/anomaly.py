"""Tables of anomaly detection: area under the ROC curve, attacked and certified, of every arm of a detector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from purification import statistics
from purification.anomaly.auroc import auroc, difference, wins
from purification.reporting.protocol import three
from purification.reporting.rows import Rows
from purification.statistics import Array

REFERENCE = "purified"  # the arm that the others are compared with: purify, then detect
ALL, CLASSES, DEFECTS = "all", "other classes", "defects"


def groups(frame: pd.DataFrame) -> Iterator[tuple[str, Array]]:
    """(name, anomalies of that name as a mask): all, classes of the dataset, everything else, where there are both."""
    anomalous = frame.anomalous.to_numpy(dtype=bool)
    classes = anomalous & frame.kind.str.startswith("class_").to_numpy(dtype=bool)
    yield ALL, anomalous
    if classes.any() and (anomalous & ~classes).any():
        yield CLASSES, classes
        yield DEFECTS, anomalous & ~classes


def _scores(frame: pd.DataFrame, column: str) -> Array:
    """(n, M) scores; a single number is one draw."""
    values = frame[column].to_numpy()
    return np.stack(values) if values.dtype == object else np.asarray(values, dtype=float)[:, None]


def _won(frame: pd.DataFrame, chosen: Array, column: str) -> Array:
    normal = ~frame.anomalous.to_numpy(dtype=bool)
    return wins(_scores(frame[chosen], column), _scores(frame[normal], column))


def _sources(frame: pd.DataFrame, chosen: Array) -> tuple[Array, Array]:
    """Source images of the chosen anomalies and of the normal images."""
    normal = ~frame.anomalous.to_numpy(dtype=bool)
    return frame.source[chosen].to_numpy(), frame.source[normal].to_numpy()


def _pixels(areas: pd.Series) -> dict[str, float]:
    """Mean area over the images with a mask, and how many have one."""
    if areas.empty:
        return {"pixel_auroc": np.nan, "pixel_auroc_low": np.nan, "pixel_auroc_high": np.nan, "pixel_n": 0}
    return {**three("pixel_auroc", statistics.mean(areas, low=0.0, high=1.0)), "pixel_n": len(areas)}


def anomaly(rows: Rows) -> pd.DataFrame:
    """AUROC of every (detector, arm, attack) and group of anomalies, with the attacked normal images.

    auroc       mean over fresh draws;  fixed  under the noise that attacks with knowledge "both" know
    matched     on random perturbations as large as the attack's;  difference  auroc minus that of purify-then-detect on
                the same images, each arm attacked by itself
    pixel_auroc mean over images with a mask
    """
    records = []
    entries = rows.settings["anomaly"]
    for (detector, attack), group in rows.groups("anomaly", "purifier", "attack"):
        arms = {str(arm): part.reset_index(drop=True) for arm, part in group.groupby("arm", sort=False)}
        for arm, part in arms.items():
            for name, chosen in groups(part):
                known = entries[detector]["attacks"].get(attack, {}).get("knowledge", "")
                record = {"detector": detector, "arm": arm, "attack": attack, "knowledge": known, "anomalies": name}
                record |= {"normal_n": int((~part.anomalous).sum()), "anomalous_n": int(chosen.sum())}
                sources = _sources(part, chosen)
                for column, shown in (("varied", "auroc"), ("fixed", "fixed"), ("matched", "matched")):
                    record |= three(shown, auroc(_won(part, chosen, column), *sources))
                own, other = (_won(each, chosen, "varied") for each in (part, arms[REFERENCE]))
                record |= three("difference", difference(own, other, *sources))
                records.append({**record, **_pixels(part.pixel_auroc[chosen].dropna())})
    return pd.DataFrame(records)


def certified_anomaly(rows: Rows) -> pd.DataFrame:
    """AUROC that no l2 perturbation up to a radius can go below: anomalies at their lower, normal images at their upper
    bound."""
    records = []
    for (detector, arm, radius), part in rows.groups("certificates", "purifier", "arm", "radius"):
        part = part.reset_index(drop=True)
        for name, chosen in groups(part):
            normal = ~part.anomalous.to_numpy(dtype=bool)
            won = wins(part.lower[chosen].to_numpy()[:, None], part.upper[normal].to_numpy()[:, None])
            record = {"detector": detector, "arm": arm, "radius": radius, "sigma": part.sigma[0], "anomalies": name}
            record |= {"normal_n": int(normal.sum()), "anomalous_n": int(chosen.sum())}
            records.append({**record, **three("certified", auroc(won, *_sources(part, chosen)))})
    return pd.DataFrame(records)
