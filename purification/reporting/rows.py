"""Per-image rows of a run, by kind of measurement, and the numbers every table starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from purification import statistics
from purification.philox import generator
from purification.reporting.reliability import faults
from purification.statistics import Array, Estimate

KINDS = (
    *("purified", "compression", "distances", "randomness", "jacobian"),
    *("audit", "attack_strength", "attack_adequacy", "gradient_noise", "anomaly", "certificates"),
)


def _read(path: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"expected rows in {path}, got a damaged file ({error}) — delete it and run again") from error


@dataclass(frozen=True)
class Rows:
    """All rows of a run.

    frames    kind -> rows of all its purifiers, with a column `purifier` (columns: docs/rows.md)
    settings  configuration of the run
    """

    frames: Mapping[str, pd.DataFrame]
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, files: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> Rows:
        """Read `<kind>: [<folder>/<purifier>.parquet, ...]`; raises ValueError that names a damaged file."""
        frames = {}
        for kind, paths in files.items():
            parts = [_read(path).assign(purifier=Path(path).stem) for path in paths]
            frames[kind] = pd.concat(parts, ignore_index=True)
        return cls(frames, settings)

    @cached_property
    def resampling(self) -> dict[str, int]:
        """Arguments of the bootstrap."""
        return {"resamples": self.settings["evaluation"]["resamples"], "seed": self.settings["seed"]}

    @cached_property
    def resampled_sweep(self) -> list[tuple[Array, Array]]:
        """Compression and robust accuracy of the sweep, once for every bootstrap sample of the images."""
        run = self.settings["run"]
        correct = np.stack([fixed_correct(self.purified(p, self.base_attack)) for p in run["sweep"]], axis=1)
        rates = np.stack([self.select("compression", p, probe_scale=1.0).compression for p in run["sweep"]], axis=1)
        rng = generator(self.settings["seed"], "bootstrap", "points")
        samples = []
        for _ in range(self.resampling["resamples"]):
            i, j = rng.integers(0, len(correct), len(correct)), rng.integers(0, len(rates), len(rates))
            samples.append((rates[j].mean(axis=0), correct[i].mean(axis=0)))
        return samples

    @cached_property
    def unreliable(self) -> dict[str, str]:
        """Purifier -> why its attacks mean nothing (`reliability`); empty without rows of audits."""
        run, limits = self.settings["run"], self.settings["reliability"]
        evaluated = [*run["sweep"], *run["controls"]]
        return faults(self.frames["audit"], limits, evaluated) if "audit" in self.frames else {}

    @property
    def headline(self) -> str:
        return str(self.settings["run"]["headline"])

    @property
    def base_attack(self) -> str:
        return str(self.settings["base_attack"])

    def purified(self, purifier: str, attack: str) -> pd.DataFrame:
        """Rows of one (purifier, attack), one per image."""
        frame = self.frames["purified"]
        return frame[(frame.purifier == purifier) & (frame.attack == attack)]

    def attacks_on(self, purifier: str) -> list[str]:
        frame = self.frames["purified"]
        return list(frame[frame.purifier == purifier].attack.unique())

    def select(self, kind: str, purifier: str, model: str = "trained", **equal: Any) -> pd.DataFrame:
        """Rows of one measurement of one purifier and model ("trained" or its "null" twin); none if never measured."""
        frame = self.frames.get(kind, pd.DataFrame(columns=["purifier", "model", "image"]))
        frame = frame[(frame.purifier == purifier) & (frame.model == model)]
        for column, value in equal.items():
            frame = frame[frame[column] == value]
        return frame

    def groups(self, kind: str, *keys: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
        """(values of the columns, rows that have them) in the order of the rows; nothing where none were measured."""
        frame = self.frames.get(kind)
        if frame is not None and len(frame):
            yield from frame.groupby(list(keys), sort=False)

    def values(self, kind: str, purifier: str, column: str, model: str = "trained", **equal: Any) -> pd.Series:
        """Image -> one number of one measurement; empty where it was not made."""
        if kind not in self.frames or column not in self.frames[kind]:
            return pd.Series(dtype=float)
        return self.select(kind, purifier, model, **equal).set_index("image")[column].astype(float)

    def has_null(self, kind: str, purifier: str) -> bool:
        return kind in self.frames and not self.select(kind, purifier, "null").empty

    def fixed(self, purifier: str, attack: str) -> Estimate:
        """Accuracy under the fixed randomness, which is deterministic: a Wilson interval."""
        correct = fixed_correct(self.purified(purifier, attack))
        return statistics.wilson(int(correct.sum()), len(correct))

    def fixed_matched(self, purifier: str, attack: str) -> Estimate:
        """The same on random noise as large as every image's perturbation."""
        frame = self.purified(purifier, attack)
        return statistics.wilson(int((frame.matched_fixed == frame.label).sum()), len(frame))

    def compression(self, purifier: str, model: str = "trained", scale: float = 1.0) -> Estimate:
        """Isotropic compression rate about the centroid, at a multiple of the budget."""
        return statistics.mean(self.values("compression", purifier, "compression", model, probe_scale=scale))

    def budget_curve(self, purifier: str) -> pd.DataFrame:
        """Accuracy and its controls for every (scale, steps) of the attack-strength measurement."""
        frame = self.frames["attack_strength"]
        rows = []
        for (scale, steps), group in frame[frame.purifier == purifier].groupby(["scale", "steps"]):
            row = {"scale": scale, "steps": steps, "epsilon": group.epsilon.iloc[0]}
            for name, correct in (("robust", "correct"), ("clean", "correct_clean"), ("matched", "correct_matched")):
                row |= columns(name, statistics.wilson(int(group[correct].sum()), len(group)))
            rows.append(row)
        return pd.DataFrame(rows)


def fixed_correct(frame: pd.DataFrame) -> Array:
    """(n,) correct under the fixed randomness."""
    return np.asarray(frame.fixed == frame.label)


def varied_correct(frame: pd.DataFrame) -> Array:
    """(n, M) correct on every fresh draw."""
    if frame.empty:
        return np.zeros((0, 0), dtype=bool)
    return np.asarray(np.stack(frame.varied.to_list()) == frame.label.to_numpy()[:, None])


def columns(name: str, estimate: Estimate) -> dict[str, float | int]:
    """Four table columns of an estimate."""
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_n": estimate.n,
    }
