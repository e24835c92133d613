"""Area under the ROC curve of anomaly scores, with intervals that resample source images.

AUROC = P(score of an anomaly > score of a normal image) + P(equal) / 2 (Mann and Whitney 1947), over all pairs and over
the draws of a random score, in each of which all images are scored once.
"""

from __future__ import annotations

import numpy as np

from purification.philox import generator
from purification.statistics import CONFIDENCE, Array, Estimate

BLOCK = 200  # resamples at once


def wins(anomalous: Array, normal: Array) -> Array:
    """Share of draws (m, n) in which an anomaly has the higher score, ties half; scores (m, M) and (n, M)."""
    if not (len(anomalous) and len(normal)):
        raise ValueError(f"expected anomalies and normal images, got {len(anomalous)} and {len(normal)} — add some")
    anomalous, normal = np.asarray(anomalous, dtype=float), np.asarray(normal, dtype=float)
    total = np.zeros((len(anomalous), len(normal)))
    for one, other in zip(anomalous.T, normal.T, strict=True):
        total += (one[:, None] > other[None]) + 0.5 * (one[:, None] == other[None])
    return np.asarray(total / anomalous.shape[1])


def auroc(won: Array, anomalous: Array, normal: Array, *, resamples: int, seed: int) -> Estimate:
    """Mean of `wins` (or of a difference of two) with its percentile bootstrap interval; n counts images.

    anomalous (m,), normal (n,)  number of the source image of each: images made from one are drawn together, and
                                 sources with and without a normal image separately
    """
    sources, place = np.unique(np.concatenate([anomalous, normal]), return_inverse=True)
    first, second = place[: len(anomalous)], place[len(anomalous) :]
    strata = [part for part in (np.unique(second), np.setdiff1d(np.unique(first), second)) if len(part)]
    rng = generator(seed, "bootstrap", "images")
    values = []
    for begin in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - begin)
        times = np.zeros((count, len(sources)))
        for part in strata:
            picks = part[rng.integers(0, len(part), (count, len(part)))]
            np.add.at(times, (np.arange(count)[:, None], picks), 1.0)
        weights, others = times[:, first], times[:, second]
        pairs = weights.sum(axis=1) * others.sum(axis=1)
        values.append(((weights @ won) * others).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.nanpercentile(np.concatenate(values), [tail, 100.0 - tail])
    return Estimate(float(won.mean()), float(low), float(high), len(anomalous) + len(normal))
