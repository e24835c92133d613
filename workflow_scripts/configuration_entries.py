"""Contradictions inside the entries of a configuration: datasets, classifiers, denoisers, schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from purification.samplers import SAMPLERS, Step
from purification.schedule import Schedule

DIGITS = 1797  # images of scikit-learn's digits
TRAINABLE = ("unet", "diffusers", "edm")  # kinds of denoisers that training can go on from
WINDOW = 11  # pixels of a window of SSIM (purification.guidance)
LEAST_SIGNAL = 1e-12  # alpha_bar at t*: below it the data estimate is numerical noise


def _dataset_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config["datasets"].items():
        total = sum(entry["splits"].values())
        if entry["kind"] == "digits" and total > DIGITS:
            yield f"datasets.{name}.splits: expected at most {DIGITS} images in total, got {total} — lower one"
        if 0 < entry.get("resize", 0) < entry["size"]:
            yield (
                f"datasets.{name}.resize: expected 0 or at least size = {entry['size']}, got {entry['resize']} — raise "
                "it, nothing is padded"
            )
        if entry["splits"]["train"] < 2:
            yield f"datasets.{name}.splits.train: expected at least 2 images, got 1 — a covariance needs them"
    size = config["datasets"][config["dataset"]]["size"]
    for name, entry in config["purifiers"].items():
        if entry["kind"] == "blur" and entry["sigma"] > size:
            yield f"purifiers.{name}.sigma: expected at most the image size {size}, got {entry['sigma']} — lower it"


def _training_problems(config: Mapping[str, Any]) -> Iterator[str]:
    size = config["datasets"][config["dataset"]]["size"]
    settings = {f"classifiers.{name}": entry for name, entry in config["classifiers"].items() if "steps" in entry}
    settings |= {f"denoisers.{n}.training": e["training"] for n, e in config["denoisers"].items() if "training" in e}
    for key, entry in settings.items():
        yield from warmup_problems(key, entry)
        if entry.get("shift", 0) >= size:
            yield f"{key}.shift: expected less than the image size {size}, got {entry['shift']} — lower it"


def warmup_problems(key: str, training: Mapping[str, Any]) -> Iterator[str]:
    """A warm-up that is longer than its training."""
    if training["warmup"] > training["steps"]:
        yield f"{key}.warmup: expected at most steps = {training['steps']}, got {training['warmup']} — lower it"


def _schedule_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config["denoisers"].items():
        yield from schedule_problems(f"denoisers.{name}", entry)


def schedule_problems(key: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """Contradictions inside the schedule of an entry, and of its training with it."""
    schedule = entry["schedule"]
    if schedule["beta_start"] > schedule["beta_end"]:
        yield (
            f"{key}.schedule.beta_start: expected at most beta_end = {schedule['beta_end']}, "
            f"got {schedule['beta_start']} — exchange them"
        )
    low = entry.get("training", {}).get("low_below", 0)
    if low > schedule["train_steps"]:
        most = f"train_steps = {schedule['train_steps']}"
        yield f"{key}.training.low_below: expected at most {most}, got {low} — lower it"


def _finetuning_problems(config: Mapping[str, Any]) -> Iterator[str]:
    denoisers = config["denoisers"]
    for name, entry in denoisers.items():
        if entry["kind"] != "finetuned" or entry["base"] not in denoisers:
            continue
        key, base, most = f"denoisers.{name}", denoisers[entry["base"]], entry["schedule"]["train_steps"]
        if base["kind"] not in TRAINABLE:
            kinds = f"{', '.join(TRAINABLE[:-1])} or {TRAINABLE[-1]}"
            wanted = f"a denoiser of kind {kinds}, got {entry['base']!r} of kind {base['kind']}"
            yield f"{key}.base: expected {wanted} — its network is what training goes on from"
        elif base["schedule"] != entry["schedule"]:
            yield f"{key}.schedule: expected that of its base {entry['base']!r}, got another — write the same"
        start = entry["training"].get("start", [1, 1])
        if not start[0] <= start[1] <= most:
            yield f"{key}.training.start: expected two numbers in order up to {most}, got {start} — exchange or lower"


def _network_problems(config: Mapping[str, Any]) -> Iterator[str]:
    size = config["datasets"][config["dataset"]]["size"]
    for name, entry in config["denoisers"].items():
        if "network" in entry:
            yield from unet_problems(f"denoisers.{name}.network", entry["network"], size)


def unet_problems(key: str, network: Mapping[str, Any], size: int) -> Iterator[str]:
    """Contradictions inside the arguments of a U-Net, and of them with the size of its images."""
    channels, groups = network["block_out_channels"], network["norm_num_groups"]
    for blocks in ("down_block_types", "up_block_types"):
        if len(network[blocks]) != len(channels):
            yield (
                f"{key}.{blocks}: expected {len(channels)} entries, one per entry of block_out_channels, "
                f"got {len(network[blocks])} — add or remove some"
            )
    for number in [number for number in channels if number % groups]:
        yield f"{key}.norm_num_groups: expected a divisor of {number} channels, got {groups} — choose another"
    if channels[0] % 2 or channels[0] < 4:
        yield f"{key}.block_out_channels[0]: expected an even number >= 4, got {channels[0]} — round it up"
    factor = 2 ** (len(channels) - 1)
    if size % factor:
        yield (
            f"{key}.block_out_channels: expected resolutions that halve the image size {size}, got {len(channels)} "
            f"(a multiple of {factor}) — remove some or change the dataset's size"
        )
    yield from _attention_problems(key, network)


def _attention_problems(key: str, network: Mapping[str, Any]) -> Iterator[str]:
    channels, head = network["block_out_channels"], network.get("attention_head_dim", 8)
    attended = {channels[-1]} if network["add_attention"] else set()
    for blocks, widths in (("down_block_types", channels), ("up_block_types", channels[::-1])):
        attended |= {width for kind, width in zip(network[blocks], widths, strict=False) if "Attn" in kind}
    for width in sorted(attended):
        if width % head:
            yield f"{key}.attention_head_dim: expected a divisor of {width} channels, got {head} — choose another"


def _index_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config["purifiers"].items():
        longest = config["denoisers"].get(entry.get("denoiser"), {}).get("schedule", {}).get("train_steps", math.inf)
        if entry.get("noise_index", 0) >= longest:
            yield (
                f"purifiers.{name}.noise_index: expected less than {longest} (its denoiser's train_steps), "
                f"got {entry['noise_index']} — lower it"
            )


def _guidance_problems(config: Mapping[str, Any]) -> Iterator[str]:
    size = config["datasets"][config["dataset"]]["size"]
    for name, entry in config["purifiers"].items():
        if entry.get("guidance", {}).get("distance") == "ssim" and size < WINDOW:
            yield (
                f"purifiers.{name}.guidance.distance: expected mse for images smaller than {WINDOW}x{WINDOW}, "
                f"got ssim and {size}x{size} — SSIM needs a window"
            )
        network = config["classifiers"].get(entry.get("guidance", {}).get("network"), {})
        if network.get("kind") == "python":
            yield (
                f"purifiers.{name}.guidance.network: expected a classifier of kind robust or residual, got one of kind "
                "python — its network is read from files of this workflow"
            )


def _is_finite(step: Step) -> bool:
    weights = (step.x0_weight, step.state_weight, step.eps_weight, step.noise_weight)
    return step.level.alpha_bar >= LEAST_SIGNAL and all(map(math.isfinite, weights))


def _sampler_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Purifiers whose sampler has no finite steps on their schedule, found by computing the steps."""
    schedules = {name: Schedule(**entry["schedule"]) for name, entry in config["denoisers"].items()}
    for name, entry in config["purifiers"].items():
        schedule, t_star = schedules.get(entry.get("denoiser", "")), entry.get("t_star", 0)
        if schedule is None or not 0 < entry.get("steps", 1) <= t_star <= schedule.train_steps:
            continue
        options = {key: entry[key] for key in ("steps", "variance", "eta", "spacing") if key in entry}
        try:
            steps = SAMPLERS[entry["sampler"]](schedule, t_star=t_star, **options)
            usable = all(_is_finite(step) for step in steps)
        except (ValueError, ArithmeticError):
            usable = False
        if not usable:
            yield (
                f"purifiers.{name}.t_star: expected a level that {entry['sampler']} can undo, got {t_star} on the "
                f"schedule of {entry['denoiser']!r} (signal or noise vanishes) — change t_star or the schedule's betas"
            )


def entry_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per contradiction inside an entry; names are known to exist."""
    yield from _dataset_problems(config)
    yield from _training_problems(config)
    yield from _schedule_problems(config)
    yield from _finetuning_problems(config)
    yield from _network_problems(config)
    yield from _index_problems(config)
    yield from _guidance_problems(config)
    yield from _sampler_problems(config)
