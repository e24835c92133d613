"""Whether the results folder of a configuration can hold what a run writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = (
    *(".ci", ".dvc", ".git", ".snakemake", ".venv", "config", "docs", "envs", "profiles"),
    *("purification", "rules", "tests", "workflow_scripts"),
)
FIXED_BYTES = 16e6  # rows, figures, tables, report, logs and weights of small networks: about 12 MB in the default run


def _existing(folder: Path) -> Path:
    """The folder itself or its nearest ancestor that is there."""
    return folder if os.path.lexists(folder) or folder == folder.parent else _existing(folder.parent)


def name_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """At most one sentence about a results folder that no run may write to; nothing is touched."""
    name = config["results"]
    odd = sorted({character for character in name if character in "{}*?[]~" or not character.isprintable()})
    if odd or name != name.strip():
        yield f"results: expected a plain folder name, got {name!r} — leave out blanks at its ends and {{}}*?[]~"
        return
    folder = Path(name).resolve()
    inside = folder.relative_to(ROOT).parts if folder.is_relative_to(ROOT) else None
    if ROOT.is_relative_to(folder) or (inside and inside[0] in OURS):
        yield f"results: expected a folder of its own, got {name!r}, where the project's files are — use results/<name>"
    elif (there := _existing(folder)).exists() and not there.is_dir():
        yield f"results: expected a folder, got {name!r} where {there} is a file — name another folder"


def estimated_bytes(config: Mapping[str, Any]) -> float:
    """About what a run writes: images and adversarial images as float32, the null model, and a fixed part."""
    dataset, run = config["datasets"][config["dataset"]], config["run"]
    channels = 1 if dataset.get("kind", "digits") == "digits" else dataset.get("channels", 3)
    pixels = channels * dataset["size"] ** 2
    evaluated = len({*run["sweep"], *run["controls"]})
    images = sum(dataset["splits"].values()) + evaluated * config["attacks"][config["base_attack"]]["images"]
    images += sum(config["attacks"][attack]["images"] * len(names) for attack, names in run["attacks"].items())
    samples = evaluated * 2 * config["evaluation"]["samples"] * (4 + len(run["attacks"]))
    full = config.get("denoisers", {}).get(config.get("null_denoiser"), {}).get("kind", "gaussian") == "gaussian"
    return float(4 * pixels * (images + samples + (pixels if full else 0))) + FIXED_BYTES


def place_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """At most one sentence about a results folder that cannot be made, written or filled; the folder is created."""
    folder = Path(config["results"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        yield f"results: expected a folder that can be written, got {folder} ({error.strerror}) — name another folder"
        return
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = estimated_bytes(config) - written, shutil.disk_usage(folder).free
    if free < needed:
        yield (
            f"results: expected about {needed / 1e6:.0f} MB of free space in {folder}, got {free / 1e6:.0f} MB — "
            "free some or name a folder on another disk"
        )
