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
from purification.reporting.known import Known, accuracy, known_results
from purification.reporting.reliability import Examination, examine
from purification.reporting.verdict import Verdict, judge_purifier, why_of
from purification.statistics import Array, Estimate

KINDS = (
    *("purified", "compression", "distances", "randomness", "jacobian"),
    *("audit", "attack_strength", "attack_adequacy", "gradient_noise", "anomaly", "certificates"),
)


WORST_KNOWN = "worst_known"  # attack and column of labels of what all attacks together leave
NOT_MEASURED = "not_measured"  # column and frame of why rows hold no measurement
WRONG = -1  # label of nothing
PLAIN = "fixed"  # attack with known noise and exact gradients, of which eot and bpda are variants
# Columns that tell the variations of attacks apart, of each of the two kinds of rows that vary them.
STRENGTH = ["steps"]
ADEQUACY = ["attack", "steps", "random_start", "restarts", "draws"]


def _read(path: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"expected rows in {path}, got a damaged file ({error}) — delete it and run again") from error


def _measured_only(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The rows that hold a measurement; of the others, by kind and purifier, the reason under NOT_MEASURED."""
    kept, reasons = {}, []
    for kind, frame in frames.items():
        if NOT_MEASURED in frame:
            missing = frame[NOT_MEASURED] != ""
            reasons.append(frame[missing][["purifier", NOT_MEASURED]].drop_duplicates().assign(kind=kind))
            frame = frame[~missing].drop(columns=NOT_MEASURED)
        kept[kind] = frame
    return {**kept, NOT_MEASURED: pd.concat(reasons, ignore_index=True)} if reasons else kept


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
        return cls(_measured_only(frames), settings)

    @cached_property
    def _judged(self) -> dict[tuple[str, str], pd.DataFrame]:
        """(purifier, attack) -> its rows of `purified`."""
        return dict(self.groups("purified", "purifier", "attack"))

    @cached_property
    def _measured(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """(kind, purifier, model) -> its rows, for the kinds that measure the null model too."""
        found: dict[tuple[str, str, str], pd.DataFrame] = {}
        for kind in self.frames:
            if "model" in self.frames[kind]:
                parts = self.groups(kind, "purifier", "model")
                found |= {(kind, purifier, model): part for (purifier, model), part in parts}
        return found

    @cached_property
    def evaluated(self) -> list[str]:
        """Purifiers that the base attack runs on."""
        run = self.settings["run"]
        return list(dict.fromkeys([*run["sweep"], *run["controls"]]))

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """Purifier -> whether its attacks count (`verdict`); empty without rows of audits."""
        if "audit" not in self.frames:
            return {}
        return {name: self._verdict_on(name) for name in self.evaluated}

    def _verdict_on(self, purifier: str) -> Verdict:
        return judge_purifier(
            self.examinations.get((purifier, self.base_attack)),
            self._judged_on(purifier),
            self.known(purifier),
            self.settings["reliability"],
            base=self.base_attack,
            norm=self.settings["threat"]["norm"],
        )

    @cached_property
    def unreliable(self) -> dict[str, str]:
        """Purifier -> why its attacks mean nothing; empty without rows of audits."""
        return why_of(self.verdicts)

    @cached_property
    def unreliable_attacks(self) -> dict[tuple[str, str], str]:
        """(purifier, attack) -> what is wrong with the gradient of an attack beside the base attack."""
        if "audit" not in self.frames:
            return {}
        found = {}
        for (purifier, attack), own in self.examinations.items():
            known = self.verdicts[purifier].why if purifier in self.verdicts else ()
            new = [reason for reason in (*own.wrong, *own.hints) if reason not in known]
            if attack != self.base_attack and new:
                found[purifier, attack] = "; ".join(new)
        return found

    @cached_property
    def examinations(self) -> dict[tuple[str, str], Examination]:
        """(purifier, attack) -> what its audit says."""
        found = {}
        for (purifier, attack), own in self.frames["audit"].groupby(["purifier", "attack"], sort=False):
            approximate = self.settings["purifiers"][purifier].get("derivative") == "approximate"
            found[purifier, attack] = examine(own, self.settings["reliability"], approximate=approximate)
        return found

    def known(self, purifier: str, against: str | None = None) -> Known:
        """What all attacks leave of a purifier with frozen noise, image by image.

        against  another purifier: only attacks that were run on both count then
        """
        key = (purifier, against)
        if key not in self._known:
            among = None if against is None else set(self._attacks(purifier)) & set(self._attacks(against))
            self._known[key] = known_results(
                self._judged_on(purifier),
                self.base_attack,
                norm=self.settings["threat"]["norm"],
                epsilon=self.settings["threat"]["epsilon"],
                others=self._variations(purifier),
                among=among,
            )
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[str, str | None], Known]:
        """What `known` found before."""
        return {}

    def _judged_on(self, purifier: str) -> pd.DataFrame:
        """Rows of `purified` of one purifier; none where it was not judged."""
        return self._purified.get(purifier, self.frames["purified"].iloc[:0])

    @cached_property
    def _purified(self) -> dict[str, pd.DataFrame]:
        """Purifier -> its rows of `purified`."""
        return {str(name): rows for name, rows in self.frames["purified"].groupby("purifier", sort=False)}

    def _attacks(self, purifier: str) -> list[str]:
        return [*self.attacks_on(purifier), *self._variations(purifier)]

    def _variations(self, purifier: str) -> dict[str, pd.Series]:
        """Variations of attacks that know the noise, within the budget: name -> image -> whether it stayed right."""
        found = {}
        kinds = (("attack_strength", STRENGTH, self._strength), ("attack_adequacy", ADEQUACY, self._variation))
        for kind, columns, name_of in kinds:
            if kind not in self.frames:
                continue
            frame = self.frames[kind]
            for key, rows in frame[(frame.purifier == purifier) & (frame.scale == 1.0)].groupby(columns):
                name = name_of(dict(zip(columns, key, strict=True)))
                if name:
                    found[name] = rows.set_index("image").correct.astype(float)
        return found

    def _strength(self, varied: Mapping[str, Any]) -> str:
        return f"{self.base_attack} in {varied['steps']} steps"

    def _variation(self, varied: Mapping[str, Any]) -> str:
        """Name of a variation; empty for attacks that do not know the noise."""
        attack = varied["attack"]
        if self.settings["attacks"][attack]["knowledge"] != "both":
            return ""
        parts = [f"{varied[key]} {key}" for key in ("steps", "restarts")]
        start = " from random starts" if varied["random_start"] else ""
        return f"{attack} with {', '.join(parts)}{start}"

    def known_frame(self, purifier: str, against: str | None = None) -> pd.DataFrame:
        """Rows of the images of the base attack, column `worst_known`: the label where they stayed right, else -1."""
        own = self.purified(purifier, self.base_attack)[["image", "label"]]
        worst = self.known(purifier, against).worst.reindex(own.image).to_numpy()
        return own.assign(**{WORST_KNOWN: np.where(worst, own.label, WRONG)})

    def worst_known(self, purifier: str, against: str | None = None) -> Estimate:
        """Accuracy that all attacks together leave with frozen noise."""
        return accuracy(self.known(purifier, against).worst)

    @property
    def headline(self) -> str:
        return str(self.settings["run"]["headline"])

    @property
    def base_attack(self) -> str:
        return str(self.settings["base_attack"])

    @property
    def plain_attack(self) -> str:
        """The attack on the headline of which `eot` and `bpda` are variants; else the base attack."""
        was_run = "purified" in self.frames and PLAIN in self.attacks_on(self.headline)
        return PLAIN if was_run else self.base_attack

    @property
    def base_steps(self) -> int:
        """Steps of the base attack, or of its first stage that has steps."""
        attacks = self.settings["attacks"]
        entry = attacks[self.base_attack]
        stages = [entry, *(attacks[name] for name in entry.get("stages", []))]
        return int(next(stage["steps"] for stage in stages if "steps" in stage))

    def purified(self, purifier: str, attack: str) -> pd.DataFrame:
        """Rows of one (purifier, attack), one per image."""
        frame = self.frames["purified"]
        return self._judged.get((purifier, attack), frame.iloc[:0])

    def attacks_on(self, purifier: str) -> list[str]:
        frame = self.frames["purified"]
        return list(frame[frame.purifier == purifier].attack.unique())

    def select(self, kind: str, purifier: str, model: str = "trained", **equal: Any) -> pd.DataFrame:
        """Rows of one measurement of one purifier and model ("trained" or its "null" twin); none if never measured."""
        nothing = self.frames.get(kind, pd.DataFrame(columns=["purifier", "model", "image"])).iloc[:0]
        frame = self._measured.get((kind, purifier, model), nothing)
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
