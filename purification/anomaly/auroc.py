"""Area under the ROC curve of anomaly scores, with intervals over source images.

AUROC = P(score of an anomaly > score of a normal image) + P(equal) / 2 (Mann and Whitney 1947),
over all pairs and over the draws of a random score, in each of which all images are scored once.
"""

from __future__ import annotations

import numpy as np

from purification.intervals import Array, normal_of_moments, score_of_moments
from purification.statistics import Estimate, estimate


def wins(anomalous: Array, normal: Array) -> Array:
    """Share of draws (m, n) in which an anomaly has the higher score, ties half; scores (m, M) and (n, M)."""
    if not (len(anomalous) and len(normal)):
        raise ValueError(f"expected anomalies and normal images, got {len(anomalous)} and {len(normal)} — add some")
    anomalous, normal = np.asarray(anomalous, dtype=float), np.asarray(normal, dtype=float)
    total = np.zeros((len(anomalous), len(normal)))
    for one, other in zip(anomalous.T, normal.T, strict=True):
        total += (one[:, None] > other[None]) + 0.5 * (one[:, None] == other[None])
    return np.asarray(total / anomalous.shape[1])


def auroc(won: Array, anomalous: Array, normal: Array) -> Estimate:
    """Mean of `wins` (m, n) with its score interval; n of the estimate counts images.

    anomalous (m,), normal (n,)  number of the source image of each: images made from one are one unit
    The variance is that over sources (`variance`); the interval is Wilson's at the number of
    images that would give it, with half an image right and half an image wrong added as in
    `intervals.score_of`.
    """
    value = np.asarray(won.mean())
    pivot = score_of_moments(value, variance(won, anomalous, normal), units(anomalous, normal))
    return estimate(float(value), pivot, len(anomalous) + len(normal))


def difference(won: Array, other: Array, anomalous: Array, normal: Array) -> Estimate:
    """Mean of `wins` minus that of another score on the same images; never a point.

    The interval is that of `intervals.normal_of`.
    """
    apart = won - other
    value = np.asarray(apart.mean())
    pivot = normal_of_moments(value, variance(apart, anomalous, normal), units(anomalous, normal))
    return estimate(float(value), pivot, len(anomalous) + len(normal))


def units(anomalous: Array, normal: Array) -> float:
    """Independent images that an area rests on: harmonic mean of the sources of both kinds."""
    counts = len(np.unique(anomalous)), len(np.unique(normal))
    return 2.0 / (1.0 / counts[0] + 1.0 / counts[1])


def variance(won: Array, anomalous: Array, normal: Array) -> float:
    """Variance of the mean of pairs, over source images.

    Source: DeLong et al. (Biometrics 44:837, 1988); with clusters Obuchowski (Biometrics 53:567, 1997).
    An image's part is the deviation of its mean over all pairs, divided by the number of its kind;
    images of one source are added up. Sources with and without a normal image are two samples.
    """
    parts = np.concatenate(
        [
            (won.mean(axis=1) - won.mean()) / len(anomalous),
            (won.mean(axis=0) - won.mean()) / len(normal),
        ]
    )
    sources, place = np.unique(np.concatenate([anomalous, normal]), return_inverse=True)
    sums = np.bincount(place, weights=parts)
    with_normal = np.isin(sources, normal)
    return _spread(sums[with_normal]) + _spread(sums[~with_normal])


def _spread(sums: Array) -> float:
    """Variance of a sum of so many independent parts; a single one deviates by itself."""
    count = len(sums)
    return float(count * sums.var(ddof=1)) if count > 1 else float(np.square(sums).sum())
