"""How many images a claim needs before its interval, or its paired test, decides at the effect that was observed."""

from __future__ import annotations

import math

from scipy.stats import norm

from purification.statistics import CONFIDENCE, Estimate

Z = float(norm.ppf(0.5 + CONFIDENCE / 2.0))


def _scaled(images: int, reach: float, distance: float) -> float:
    """n (h / d)^2: an interval that reaches h with n images reaches d with so many; infinite at the threshold."""
    return images * (max(reach, 0.0) / distance) ** 2 if distance else math.inf


def interval_images(estimate: Estimate, images: int, *, above: float = -math.inf, below: float = math.inf) -> float:
    """Images with which the interval lies wholly on the side of the thresholds that its value is on.

    The interval's two halves shrink as 1 / sqrt(n) and the value stays. Inside (above, below) both thresholds must be
    cleared, outside only the one that was passed. NaN where the value or an end of the interval is not finite.

    images  images behind the interval
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if not all(map(math.isfinite, (value, low, high))):
        return math.nan
    if value <= above:
        needed = _scaled(images, high - value, above - value)
    elif value >= below:
        needed = _scaled(images, value - low, value - below)
    else:
        needed = max(_scaled(images, value - low, value - above), _scaled(images, high - value, below - value))
    return _whole(needed)


def paired_images(wins: int, losses: int, images: int) -> float:
    """Images with which McNemar's test rejects at the observed shares p of wins and q of losses.

    z^2 (p + q) / (p - q)^2, the sample size of Connor (1987) at a power of one half; infinite without a difference.
    """
    if wins == losses:
        return math.inf
    return _whole(Z**2 * (wins + losses) * images / (wins - losses) ** 2)


def _whole(needed: float) -> float:
    """Rounded up, at least one image; the slack keeps an exact number from being raised by rounding."""
    return float(max(math.ceil(needed - 1e-9), 1)) if math.isfinite(needed) else needed
