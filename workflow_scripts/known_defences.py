"""Evaluate a defence of known truth with the stages of the workflow: attack, judge, audit, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from purification import statistics
from purification.data import Dataset
from purification.known_truth.catalogue import KnownDefence
from purification.known_truth.evaluators import RANDOM, Reported, Sizes, estimate_correct
from purification.measure.whole_audit import Twins
from purification.purifiers import FunctionPurifier
from purification.reporting.rows import Rows
from workflow_scripts.attack_images import attack_images
from workflow_scripts.audit_gradients import audit_gradients
from workflow_scripts.purify_images import purify_images

BARE = FunctionPurifier(lambda images, noise: images)
SUBSET = "known"
FRESH = "eot"  # attack of the configuration that does not know the noise
MEMORY = 1e9  # bytes of activations: more than these defences keep


@dataclass(frozen=True)
class Evaluated:
    """What the workflow says of one defence.

    reported  one entry per estimand;  why: what its mark says, empty without one;  notes: what asks for a better attack
    """

    reported: list[Reported]
    why: str
    notes: str


def _entry(config: Mapping[str, Any], name: str, known: KnownDefence) -> dict[str, Any]:
    """An entry of `attacks` on all images of a defence, under its threat model."""
    threat = known.examples.threat
    allowed = {"norm": threat.norm, "epsilon": threat.epsilon}
    if threat.share is not None:
        allowed["share"] = threat.share
    entry = {**config["attacks"][name], **allowed, "images": len(known.examples.ids)}
    if "stages" in entry:
        entry["stages"] = [{**config["attacks"][stage], **allowed} for stage in entry["stages"]]
    return entry


def attacks_on(known: KnownDefence, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The attacks that every purifier meets, and, where it draws noise, one that does not know it."""
    names = [config[f"{role}_attack"] for role in ("base", "challenge", "transfer")]
    if known.group in RANDOM:
        names.append(FRESH)
    return {name: _entry(config, name, known) for name in names}


def _shared(known: KnownDefence, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the stages share."""
    threat = known.examples.threat
    sizes = {"batch_size": known.defence.batch_size, "gradient_batch_size": known.defence.gradient_batch_size}
    return {
        **{key: config[key] for key in ("device", "precision")},
        **{"seed": known.examples.seed, "subset": SUBSET, "norm": threat.norm, "epsilon": threat.epsilon},
        **sizes,
    }


def _judge(
    known: KnownDefence,
    dataset: Dataset,
    config: Mapping[str, Any],
    shared: Mapping[str, Any],
    draws: int,
    folder: Path,
) -> pd.DataFrame:
    """Rows of `purified` under every attack."""
    attacks = attacks_on(known, config)
    files = {}
    for name, entry in attacks.items():
        files[name] = folder / f"{name}.safetensors"
        defence = replace(known.defence, purifier=BARE) if name == config["transfer_attack"] else known.defence
        after = files[entry["after"]] if "after" in entry else None
        attack_images(dataset, defence, entry, shared, MEMORY, output=files[name], after=after)
    nothing = {"samples": 1, "known_images": 0, "known_draws": 1, "pool": 1, "pools": {}, "threats": {}}
    settings = {**shared, **nothing, "images": len(known.examples.ids), "draws": draws}
    rows = folder / "purified.parquet"
    purify_images(dataset, known.defence, files, settings, rows=rows, samples=folder / "samples.safetensors")
    return pd.read_parquet(rows)


def _audit(
    known: KnownDefence, dataset: Dataset, config: Mapping[str, Any], shared: Mapping[str, Any], folder: Path
) -> pd.DataFrame:
    """Rows of `audit`: the base attack is what a verdict rests on."""
    images = min(config["audit"]["images"], len(known.examples.ids))
    size = min(shared["gradient_batch_size"], images)
    double = replace(known.defence, batch_size=size, gradient_batch_size=size)
    twins = Twins(known.defence, double)  # the purifiers compute in the type of the images
    base = config["base_attack"]
    output = folder / "audit.parquet"
    settings = {**shared, **config["audit"], "images": images}
    attacks = {base: _entry(config, base, known)}
    audit_gradients(dataset, twins, {base: twins}, attacks, settings, MEMORY, output=output)
    return pd.read_parquet(output)


def evaluate_known(known: KnownDefence, config: Mapping[str, Any], sizes: Sizes, folder: Path) -> Evaluated:
    """The stages one after another, as they are run on a purifier of a configuration.

    folder  where their files go
    """
    on = known.examples
    dataset = Dataset(on.images, on.labels, {SUBSET: list(on.ids)})
    shared = _shared(known, config)
    draws = sizes.fresh if known.group in RANDOM else 1
    frames = {
        "purified": _judge(known, dataset, config, shared, draws, folder).assign(purifier=known.name),
        "audit": _audit(known, dataset, config, shared, folder).assign(purifier=known.name),
    }
    rows = Rows(frames, {**config, **_what_was_run(known, config)})
    reported = [Reported("ours", "fixed", float(known.truth.frozen.mean()), rows.worst_known(known.name))]
    if known.group in RANDOM:
        reported += _on_fresh_draws(known, rows.purified(known.name, FRESH), sizes)
    verdict = rows.verdicts[known.name]
    return Evaluated(reported, "; ".join(verdict.why), "; ".join(verdict.notes))


def _what_was_run(known: KnownDefence, config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a configuration in which this defence is the only purifier."""
    attacks = attacks_on(known, config)
    others = [name for name in attacks if name not in (config["base_attack"], config["transfer_attack"])]
    run = {"headline": known.name, "sweep": [known.name], "controls": [], "attack_adequacy": []}
    threat = {"norm": known.examples.threat.norm, "epsilon": known.examples.threat.epsilon}
    return {
        "threat": threat,
        "attacks": config["attacks"],
        "purifiers": {known.name: {"kind": "python"}},
        "run": {**run, "attacks": {name: [known.name] for name in others}},
    }


def _on_fresh_draws(known: KnownDefence, frame: pd.DataFrame, sizes: Sizes) -> list[Reported]:
    """Every estimand of what the attack that does not know the noise leaves on draws that chose nothing."""
    seen = np.stack(frame.varied.tolist())
    return [
        Reported("ours", estimand, float(each.truth.mean()), statistics.rate(each.estimates))
        for estimand, each in estimate_correct(known, seen, sizes).items()
    ]
