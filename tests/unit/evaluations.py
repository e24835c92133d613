"""The stages of the workflow on one purifier and one classifier, without Snakemake: attacks, judgement, audit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from purification.data import Dataset
from purification.defence import Defence
from purification.measure.whole_audit import Twins
from purification.purifiers import Purifier
from purification.reporting.known import Known, known_results
from purification.reporting.reliability import Examination, examine
from purification.reporting.verdict import Verdict, judge_purifier
from workflow_scripts.attack_images import attack_images
from workflow_scripts.audit_gradients import audit_gradients
from workflow_scripts.purify_images import purify_images

CONFIG: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "config/default.yaml").read_text())
BASE, CHALLENGE = CONFIG["base_attack"], CONFIG["challenge_attack"]
SLOW: dict[str, Any] = {
    **{"kind": "pgd", "loss": "margin", "steps": 40, "step_size": 0.0625, "random_start": True, "restarts": 1},
    **{"knowledge": "both", "draws": 1, "select": "best", "stop_when_broken": True},
}
JUDGING = {"samples": 1, "draws": 1, "known_images": 0, "known_draws": 1, "pool": 1, "pools": {}, "threats": {}}


def attack_entry(name: str, images: int, epsilon: float) -> dict[str, Any]:
    """An attack of the default configuration on so many images, its stages as the rules give them."""
    entry = {**CONFIG["attacks"][name], "norm": "linf", "epsilon": epsilon}
    if "stages" in entry:
        entry["stages"] = [attack_entry(stage, images, epsilon) for stage in entry["stages"]]
    return {**entry, "images": min(images, entry["images"])}


@dataclass(frozen=True)
class Evaluation:
    """What was found about one purifier."""

    audit: pd.DataFrame
    purified: pd.DataFrame
    examination: Examination
    known: Known
    verdict: Verdict


@dataclass(frozen=True)
class Laboratory:
    """Images (in subset "test"), a classifier, and a folder for files."""

    dataset: Dataset
    classifier: nn.Module
    folder: Path

    def settings(self, epsilon: float) -> dict[str, Any]:
        shared = {key: CONFIG[key] for key in ("seed", "device", "precision")}
        sizes = {"batch_size": 50, "gradient_batch_size": 50}
        return {**shared, **sizes, "norm": "linf", "epsilon": epsilon, "subset": "test"}

    def defence(self, make: Callable[[], Purifier], dtype: torch.dtype = torch.float32) -> Defence:
        """A defence with a purifier made anew, as in every job."""
        network = copy.deepcopy(self.classifier).to(dtype)

        def judge(images: Tensor) -> Tensor:
            logits: Tensor = network(images.to(dtype)).to(images.dtype)
            return logits

        return Defence(make(), judge, batch_size=50, gradient_batch_size=50)

    def attacked(self, make: Callable[[], Purifier], name: str, epsilon: float, after: Path | None = None) -> Path:
        """File of the images that an attack of the default configuration proposes."""
        output = self.folder / f"{name}.safetensors"
        entry = attack_entry(name, self.images, epsilon)
        attack_images(self.dataset, self.defence(make), entry, self.settings(epsilon), 1e9, output=output, after=after)
        return output

    @property
    def images(self) -> int:
        return len(self.dataset.subsets["test"])

    def evaluate(
        self, make: Callable[[], Purifier], transfer: Path, epsilon: float, *, approximate: bool = False
    ) -> Evaluation:
        """Base attack, challenge, judgement and audit as a run of the default configuration has them."""
        files = {BASE: self.attacked(make, BASE, epsilon)}
        files[CHALLENGE] = self.attacked(make, CHALLENGE, epsilon, after=files[BASE])
        purified = self.judged(make, {**files, "transfer": transfer}, epsilon)
        audit = self.audited(make, epsilon)
        examination = examine(audit[audit.attack == BASE], CONFIG["reliability"], approximate=approximate)
        known = known_results(purified, BASE, norm="linf", epsilon=epsilon)
        verdict = judge_purifier(examination, purified, known, CONFIG["reliability"], base=BASE, norm="linf")
        return Evaluation(audit, purified, examination, known, verdict)

    def strongest(self, make: Callable[[], Purifier], known: Known, epsilon: float) -> float:
        """Accuracy that these attacks leave together with slower ones: an upper bound of the truth."""
        margin = {**attack_entry(BASE, self.images, epsilon), **SLOW, "gradient": "replay"}
        square = {**attack_entry("quick_square", self.images, epsilon), "queries": 300}
        entries = {"margin": margin, "bpda": {**margin, "gradient": "bpda"}, "square": square}
        files = {}
        for name, entry in entries.items():
            files[name] = self.folder / f"slow_{name}.safetensors"
            attack_images(self.dataset, self.defence(make), entry, self.settings(epsilon), 1e9, output=files[name])
        frame = self.judged(make, files, epsilon)
        right = (frame.fixed == frame.label).groupby(frame.image).all().reindex(known.worst.index)
        return float((known.worst & right).mean())

    def judged(self, make: Callable[[], Purifier], files: Mapping[str, Path], epsilon: float) -> pd.DataFrame:
        rows, samples = self.folder / "rows.parquet", self.folder / "samples.safetensors"
        settings = {**self.settings(epsilon), **JUDGING, "images": self.images}
        purify_images(self.dataset, self.defence(make), files, settings, rows=rows, samples=samples)
        return pd.read_parquet(rows)

    def audited(self, make: Callable[[], Purifier], epsilon: float) -> pd.DataFrame:
        output = self.folder / "audit.parquet"
        images = min(self.images, CONFIG["audit"]["images"])
        double = replace(self.defence(make, torch.float64), batch_size=images, gradient_batch_size=images)
        twins = Twins(self.defence(make), double, self.defence(make))
        attacks = {name: attack_entry(name, self.images, epsilon) for name in (BASE, CHALLENGE)}
        settings = {**self.settings(epsilon), **CONFIG["audit"], "images": images}
        seen = dict.fromkeys(attacks, twins)
        audit_gradients(self.dataset, twins, seen, attacks, settings, 1e9, output=output)
        return pd.read_parquet(output)
