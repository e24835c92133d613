"""What evaluation stages share: adversarial files, and purifiers, defences and attacks built from entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.models.classifiers import Classifier
from purification.models.denoisers import Denoiser
from purification.models.loading import load_classifier, load_denoiser
from purification.models.placing import Place
from purification.noise import NoiseSource
from purification.purifiers import Purifier, make_purifier
from purification.tensor_files import read_tensors, write_rows_of_tensor
from purification.user_code import own_classifier
from workflow_scripts.job import replacing


def _write_adversarial(ids: Sequence[int], rows: Iterator[np.ndarray], path: Path) -> None:
    with replacing(path) as temporary:
        write_rows_of_tensor(temporary, {"ids": np.array(ids, dtype=np.int64)}, "adversarial", rows)


def write_adversarial(adversarial: Tensor, ids: list[int], path: Path) -> None:
    """Adversarial images and the dataset indices they belong to."""
    _write_adversarial(ids, iter(adversarial.cpu().numpy()), path)


def join_adversarial(parts: Sequence[Path], path: Path) -> None:
    """The images of several files in one, image by image: memory holds one."""
    files = [read_tensors(part, ("adversarial", "ids")) for part in parts]
    rows = (row for file in files for row in file["adversarial"].numpy())
    _write_adversarial([identity for file in files for identity in file["ids"].tolist()], rows, path)


def read_adversarial(path: Path, ids: list[int], start: int = 0) -> Tensor:
    """Adversarial images of exactly `ids`, which must be those of the file from position `start` on.

    Only these are read from the disk, when they are used.
    """
    arrays = read_tensors(path, ("adversarial", "ids"))
    stored = arrays["ids"].tolist()
    if stored[start : start + len(ids)] != list(ids):
        raise ValueError(
            f"expected adversarial images of {len(ids)} images in {path}, got those of {len(stored)} others — delete it"
        )
    adversarial: Tensor = arrays["adversarial"]
    return adversarial[start : start + len(ids)]


def count_adversarial(path: Path) -> int:
    """How many images an adversarial file holds."""
    return len(read_tensors(path, ("ids",))["ids"])


def load_placed(folder: Path, schedule: Mapping[str, Any], place: Place, dtype: torch.dtype) -> Denoiser:
    """The denoiser of a folder, whose network runs where `place` says."""
    denoiser = load_denoiser(folder, schedule, place.prepare(), dtype)
    return replace(denoiser, epsilon=place.network(denoiser.epsilon))


def _unguided(
    settings: Mapping[str, Any], folders: Sequence[Path], place: Place, dtype: torch.dtype
) -> Denoiser | None:
    return load_placed(folders[0], settings["schedule"], place, dtype) if folders else None


def _guided(settings: Mapping[str, Any], folders: Sequence[Path], place: Place, dtype: torch.dtype) -> Denoiser | None:
    denoiser = _unguided(settings, folders[:1], place, dtype)
    if denoiser is None or not folders[1:]:
        return denoiser
    return replace(denoiser, auxiliary=place.network(load_classifier(folders[1], place.prepare(), dtype)))


NETWORKS: dict[str, Callable[..., Denoiser | None]] = {
    "guided": _guided,
    "diffusion": _unguided,
    "identity": _unguided,
    "constant": _unguided,
    "blur": _unguided,
    "python": _unguided,
}


def place_of(settings: Mapping[str, Any]) -> Place:
    """Where and how networks run, of the settings that evaluations share."""
    return Place(settings["device"], settings["precision"])


def load_purifier(
    settings: Mapping[str, Any],
    files: Sequence[str],
    dataset: Dataset,
    place: Place,
    dtype: torch.dtype = torch.float32,
) -> Purifier:
    """Purifier of a configuration entry; `files` are those of its networks: a denoiser, then a guide, if any."""
    folders = list(dict.fromkeys(Path(file).parent for file in files))
    network = NETWORKS[settings["kind"]](settings, folders, place, dtype)
    return make_purifier(settings, network, dataset.shape, place.prepare())


def load_twins(
    entry: Mapping[str, Any], inputs: Any, dataset: Dataset, settings: Mapping[str, Any]
) -> dict[str, Purifier]:
    """The purifier as "trained" and, where it has a denoiser, the same sampler on the Gaussian model as "null"."""
    place = place_of(settings)
    twins = {"trained": load_purifier(entry, inputs.denoiser, dataset, place)}
    if inputs.null:
        twins["null"] = load_purifier(entry, inputs.null, dataset, place)
    return twins


def load_judge(
    chosen: Mapping[str, Any], files: Sequence[str], dataset: Dataset, place: Place, dtype: torch.dtype
) -> Classifier:
    """The classifier of an entry: trained, from its files, or a user's, which is always left its own precision."""
    device = place.prepare()
    if chosen["kind"] == "python":
        own = own_classifier(chosen, dataset.shape, dataset.num_classes, device)
        return Place(place.device, "fp32").network(own)
    return place.network(load_classifier(Path(files[0]).parent, device, dtype))


def load_defence(
    entry: Mapping[str, Any],
    inputs: Any,
    dataset: Dataset,
    settings: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Defence:
    """The purifier of an entry in front of the classifier whose entry is settings["classifier"]."""
    place = place_of(settings)
    purifier = load_purifier(entry, inputs.denoiser, dataset, place, dtype)
    judge = load_judge(settings["classifier"], inputs.classifier, dataset, place, dtype)
    return Defence(purifier, judge, settings["batch_size"], gradient_batch_size=settings.get("gradient_batch_size"))


def noise_source(seed: int, role: str, dataset: Dataset) -> NoiseSource:
    """Noise of one role for images of this dataset, on the CPU whatever the networks' device."""
    return NoiseSource(seed, role, dataset.shape)
