"""What all attacks on a purifier leave together, where the noise is known: per image, whether any of them broke it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from purification import statistics
from purification.statistics import Estimate

ROUNDING = 1e-6  # of sizes in float32, relative and absolute
ENOUGH = 100  # images on which a gap of two points is more than one image's luck


@dataclass(frozen=True)
class Known:
    """Images under the frozen noise, which every attacker of this table knows or has met by chance.

    right   image -> whether the base attack left it right, (n,)
    broken  (n, attacks) 1 where another attack within the same budget broke it, 0 where it did not, NaN where it did
            not run
    """

    right: pd.Series
    broken: pd.DataFrame

    @property
    def worst(self) -> pd.Series:
        """Image -> whether it stayed right under every attack."""
        return self.right & ~(self.broken == 1).any(axis=1)

    def counts(self) -> dict[str, int]:
        """Attack -> images broken that the base attack had left right; those that broke none are left out."""
        beyond = (self.broken == 1).mul(self.right, axis=0).sum()
        found = {str(name): int(count) for name, count in beyond.items() if count}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def gap_on(self, attack: str) -> Estimate:
        """Share of the images of one attack that any attack broke and the base attack did not."""
        ran = self.broken[attack].notna()
        beyond = (self.broken[ran] == 1).any(axis=1) & self.right[ran]
        return statistics.wilson(int(beyond.sum()), int(ran.sum()))

    def counting(self) -> list[str]:
        """Attacks on enough images for a point estimate: `ENOUGH`, or all of the base attack's."""
        least = min(ENOUGH, len(self.right))
        return [str(name) for name, column in self.broken.items() if column.notna().sum() >= least]

    def gap(self) -> Estimate | None:
        """The same on the images of the attack with the fewest of those that count, which the most attacks share.

        None without another attack on enough images.
        """
        ran = self.broken.notna().sum()
        counting = self.counting()
        return self.gap_on(min(counting, key=lambda name: ran[name])) if counting else None

    def beaten(self, limit: float) -> bool:
        """Whether the base attack misses more than a share of the images: by that gap, or by one that is surely larger.

        On few images the whole interval must lie above the limit.
        """
        largest = self.gap()
        if largest is not None and largest.value > limit:
            return True
        few = [name for name, column in self.broken.items() if column.notna().any()]
        return any(self.gap_on(str(name)).low > limit for name in few)


def within_budget(frame: pd.DataFrame, norm: str, epsilon: float) -> pd.Series:
    """Whether the perturbation of every row fits a budget, whatever its own attack was allowed."""
    return frame[f"size_{norm}"] <= epsilon * (1 + ROUNDING) + ROUNDING


def known_results(
    frame: pd.DataFrame,
    base: str,
    *,
    norm: str,
    epsilon: float,
    others: Mapping[str, pd.Series] | None = None,
    among: Iterable[str] | None = None,
) -> Known:
    """What is known of one purifier with frozen noise.

    frame   rows of `purified` of one purifier
    base    the base attack;  norm, epsilon: the budget that counts
    others  further attacks judged with the same noise: name -> image -> whether it was right
    among   names of attacks that count beside the base attack; all by default
    """
    own = frame[frame.attack == base].set_index("image")
    right = own.fixed == own.label
    columns = {}
    for name, rows in frame[frame.attack != base].groupby("attack", sort=False):
        rows = rows[within_budget(rows, norm, epsilon)].set_index("image")
        columns[str(name)] = (rows.fixed != rows.label).astype(float)
    for name, seen in (others or {}).items():
        columns[name] = 1.0 - seen.astype(float)
    if among is not None:
        chosen = set(among)
        columns = {name: column for name, column in columns.items() if name in chosen}
    broken = pd.DataFrame({name: column.reindex(right.index) for name, column in columns.items()}, index=right.index)
    return Known(right, broken.astype(float) if len(broken.columns) else broken)


def accuracy(right: pd.Series) -> Estimate:
    """Accuracy with its interval."""
    return statistics.wilson(int(np.sum(right)), len(right))
