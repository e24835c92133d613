"""Files that a configuration brings along: data sets and weights. Which, whether they are there, when they change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purification.readers.cifar import BINARIES, PICKLES

CIFAR = {"cifar_python": PICKLES, "cifar_binary": BINARIES}
FETCH = "correct the path, or `make retrieve`"
PUBLISHED = ("cifar_resnet", "wide_resnet", "imagenet_resnet", "vision_transformer", "huggingface")  # classifiers
PUBLISHED_DENOISERS = ("diffusers", "guided_diffusion", "score_sde", "edm")


def _places(entry: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """(key of the entry, file or folder it names)."""
    for part, paths in entry.get("files", {}).items():
        yield from ((f"files.{part}", Path(path)) for path in paths)
    for part, path in entry.get("folders", {}).items():
        yield f"folders.{part}", Path(path)
    for key in ("synsets", "path"):
        if key in entry:
            yield key, Path(entry[key])


def dataset_files(entry: Mapping[str, Any]) -> list[str]:
    """Files of a dataset entry: inputs of its preparation; pictures in folders are watched by `folder_listing`."""
    if entry["kind"] in CIFAR and not Path(entry["path"]).is_file():
        names = CIFAR[entry["kind"]][entry["classes"]]
        return [str(Path(entry["path"], name)) for part in names.values() for name in part]
    return [str(path) for key, path in _places(entry) if not key.startswith("folders")]


def folder_listing(entry: Mapping[str, Any]) -> str:
    """Hash of names and sizes of all pictures in the folders of an entry; "" for other kinds."""
    if "folders" not in entry:
        return ""
    files = [file for _, folder in sorted(entry["folders"].items()) for file in sorted(Path(folder).glob("*/*"))]
    lines = (f"{file.parent.name}/{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def detector_files(entry: Mapping[str, Any]) -> list[str]:
    """Pictures and masks of a detector's `data` in MVTec AD's layout, inputs of their preparation; none for classes."""
    if entry["kind"] != "mvtec":
        return []
    root = Path(entry["path"])
    return sorted(
        str(path) for part in ("train", "test", "ground_truth") for path in (root / part).glob("*/*") if path.is_file()
    )


def dataset_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per file or folder of the chosen dataset that is not there."""
    name = config["dataset"]
    for key, path in _places(config["datasets"][name]):
        wanted = "a folder" if key.startswith("folders") else "a file or folder" if key == "path" else "a file"
        there = {"a folder": path.is_dir(), "a file": path.is_file()}.get(wanted, path.exists())
        if not there:
            yield f"datasets.{name}.{key}: expected {wanted}, got none at {path} — {FETCH}"


def weight_files(entry: Mapping[str, Any]) -> list[str]:
    """Files of a published network: inputs of its conversion; of a folder, what lies in it or in its branch."""
    path = Path(entry["path"])
    if not path.is_dir():
        return [str(path)]
    folder = path / entry.get("branch", "")
    return sorted(str(file) for file in folder.glob("*") if file.suffix in (".json", ".safetensors", ".bin"))


def architecture_of(name: str, denoisers: Mapping[str, Any]) -> str:
    """What network a denoiser ends as: its own kind, that of its base, or diffusers' U-Net."""
    entry = denoisers[name]
    if "base" in entry:
        return architecture_of(entry["base"], denoisers)
    return str(entry["kind"]) if entry["kind"] in ("guided_diffusion", "score_sde", "edm") else "unet"


def _classifier_problems(config: Mapping[str, Any]) -> Iterator[str]:
    name, dataset = config["classifier"], config["datasets"][config["dataset"]]
    entry = config["classifiers"][name]
    if entry["kind"] not in PUBLISHED:
        return
    key, classes = f"classifiers.{name}", dataset.get("classes", 10)
    if not Path(entry["path"]).exists():
        yield f"{key}.path: expected published weights, got none at {entry['path']} — {FETCH}"
    if entry["classes"] != classes:
        yield f"{key}.classes: expected {classes}, those of the dataset, got {entry['classes']} — use one made for it"
    if dataset.get("channels", 1 if dataset["kind"] == "digits" else 3) != 3:
        yield f"{key}.kind: expected a classifier of gray images, got {entry['kind']} — it takes three channels"
    if entry.get("size", dataset["size"]) != dataset["size"]:
        yield f"{key}.size: expected {dataset['size']}, the size of the images, got {entry['size']} — change either"


def _denoisers_used(config: Mapping[str, Any]) -> list[str]:
    """Denoisers of the purifiers that run."""
    names = [*config["run"]["sweep"], *config["run"]["controls"]]
    entries = (config["purifiers"][name] for name in names)
    return list(dict.fromkeys(entry["denoiser"] for entry in entries if "denoiser" in entry))


def places_used(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, path) of every file or folder that a run of the configuration reads."""
    name = config["dataset"]
    yield from ((f"datasets.{name}.{key}", str(path)) for key, path in _places(config["datasets"][name]))
    if (entry := config["classifiers"][config["classifier"]])["kind"] in PUBLISHED:
        yield f"classifiers.{config['classifier']}.path", entry["path"]
    for name in _denoisers_used(config):
        if config["denoisers"][name]["kind"] in PUBLISHED_DENOISERS:
            yield f"denoisers.{name}.path", config["denoisers"][name]["path"]


def network_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per published network that is used and not there, or made for other images."""
    yield from _classifier_problems(config)
    for name in _denoisers_used(config):
        key, entry = f"denoisers.{name}", config["denoisers"][name]
        if entry["kind"] in PUBLISHED_DENOISERS and not Path(entry["path"]).exists():
            yield f"{key}.path: expected published weights, got none at {entry['path']} — {FETCH}"
    size = config["datasets"][config["dataset"]]["size"]
    for name in [*config["run"]["sweep"], *config["run"]["controls"]]:
        entry = config["purifiers"][name]
        network = config["denoisers"].get(entry.get("denoiser", ""), {})
        if "size" in network and entry.get("size", size) != network["size"]:
            yield (
                f"purifiers.{name}.size: expected {network['size']}, the size of its denoiser, got "
                f"{entry.get('size', size)} — set it, images are then resized"
            )
