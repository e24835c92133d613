"""Contradictions inside the detectors of anomalies of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workflow_scripts.configuration_attacks import reach_problems
from workflow_scripts.configuration_entries import schedule_problems, unet_problems, warmup_problems


def _levels(key: str, entry: Mapping[str, Any]) -> Iterator[str]:
    yield from schedule_problems(key, entry)
    yield from warmup_problems(f"{key}.training", entry["training"])
    longest, t_star = entry["schedule"]["train_steps"], entry["purifier"]["t_star"]
    indices = {"level": entry["level"], "certification.level": entry["certification"]["level"]}
    for name, index in indices.items():
        if index >= longest:
            yield f"{key}.{name}: expected less than {longest} (train_steps), got {index} — lower it"
    if t_star > longest:
        yield f"{key}.purifier.t_star: expected at most {longest} (train_steps), got {t_star} — lower it"
    if (steps := entry["purifier"].get("steps", 1)) > t_star:
        yield f"{key}.purifier.steps: expected at most t_star = {t_star}, got {steps} — lower it"


def _maps(key: str, entry: Mapping[str, Any], size: int) -> Iterator[str]:
    if entry["window"] % 2 == 0:
        yield f"{key}.window: expected an odd number, got {entry['window']} — add 1"
    for factor in entry["scales"]:
        if size % factor:
            yield f"{key}.scales: expected divisors of the image size {size}, got {factor} — choose others"
    yield from unet_problems(f"{key}.network", entry["network"], size)


def _attacks(key: str, entry: Mapping[str, Any]) -> Iterator[str]:
    for name, attack in entry["attacks"].items():
        if name == "clean":
            yield f"{key}.attacks: expected another name than 'clean', got it — the images as they are have it"
        if attack["restarts"] > 1 and not attack["random_start"]:
            had = f"got none for {attack['restarts']} restarts — they would be equal"
            yield f"{key}.attacks.{name}.random_start: expected a random start, {had}"
        yield from (f"{key}.attacks.{name}.{part}: {sentence}" for part, sentence in reach_problems(attack))


def _data(key: str, entry: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    data, dataset = entry["data"], config["datasets"][config["dataset"]]
    if data["kind"] == "mvtec":
        if not Path(data["path"]).is_dir():
            yield f"{key}.data.path: expected the folder of one object, got none at {data['path']} — correct the path"
        if 0 < data["resize"] < data["size"]:
            yield f"{key}.data.resize: expected 0 or at least size = {data['size']}, got {data['resize']} — raise it"
        return
    classes = dataset.get("classes", 10)
    if strange := [label for label in data["normal"] if label >= classes]:
        yield f"{key}.data.normal: expected labels below {classes}, got {strange[0]} — choose others"
    if len(data["normal"]) >= classes:
        yield f"{key}.data.normal: expected fewer than all {classes} classes, got all — leave one out"


def detector_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per contradiction in a detector that runs."""
    for name in config["run"]["anomaly"]:
        key, entry = f"anomaly.{name}", config["anomaly"][name]
        mvtec = entry["data"]["kind"] == "mvtec"
        size = entry["data"]["size"] if mvtec else config["datasets"][config["dataset"]]["size"]
        yield from _data(key, entry, config)
        yield from _levels(key, entry)
        yield from _maps(key, entry, size)
        yield from _attacks(key, entry)
