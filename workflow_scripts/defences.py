"""What evaluation stages share: adversarial files, and purifiers, defences and attacks built from entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from purification.tensor_files import read_metadata, read_tensors, write_rows_of_tensor
from purification.user_code import own_classifier
from workflow_scripts.job import replacing


@dataclass(frozen=True)
class Proposals:
    """What an attack proposed for n images, and how it came to it.

    adversarial  (n, C, H, W)
    accuracy     (n,) float32, of the images on the attack's own draws; with known noise 0 or 1. No result.
    stage        (n,) int64, of a sequence the stage that proposed the image, of other attacks 0; -1 where an earlier
                 attack had broken the image, or where nothing better than the clean image was found
    gradient     mode of `gradients` that was used, several with commas between them, or "none"
    """

    adversarial: Tensor
    accuracy: Tensor
    stage: Tensor
    gradient: str


NUMBERS = {"ids": np.int64, "accuracy": np.float32, "stage": np.int64}  # tensors with one number per image


def _write_adversarial(numbers: Mapping[str, Tensor], rows: Iterator[np.ndarray], gradient: str, path: Path) -> None:
    arrays = {name: numbers[name].cpu().numpy().astype(kind) for name, kind in NUMBERS.items()}
    with replacing(path) as temporary:
        write_rows_of_tensor(temporary, arrays, "adversarial", rows, {"gradient": gradient})


def write_adversarial(proposals: Proposals, ids: list[int], path: Path) -> None:
    """Adversarial images with what the attack says of them, and the dataset indices they belong to."""
    numbers = {"ids": torch.tensor(ids), "accuracy": proposals.accuracy, "stage": proposals.stage}
    _write_adversarial(numbers, iter(proposals.adversarial.cpu().numpy()), proposals.gradient, path)


def join_adversarial(parts: Sequence[Path], path: Path) -> None:
    """The images of several files in one, image by image: memory holds one."""
    files = [read_tensors(part, ("adversarial", *NUMBERS)) for part in parts]
    numbers = {name: torch.cat([file[name] for file in files]) for name in NUMBERS}
    rows = (row for file in files for row in file["adversarial"].numpy())
    modes = {mode for part in parts for mode in read_metadata(part, "gradient").split(", ")}
    _write_adversarial(numbers, rows, ", ".join(sorted(modes)), path)


def read_adversarial(path: Path, ids: list[int], start: int = 0) -> Proposals:
    """What an attack proposed for exactly `ids`, which must be those of the file from position `start` on.

    Only these images are read from the disk, when they are used.
    """
    arrays = read_tensors(path, ("adversarial", *NUMBERS))
    stored, stop = arrays["ids"].tolist(), start + len(ids)
    if stored[start:stop] != list(ids):
        raise ValueError(
            f"expected adversarial images of {len(ids)} images in {path}, got those of {len(stored)} others — delete it"
        )
    own = {name: values[start:stop] for name, values in arrays.items()}
    return Proposals(own["adversarial"], own["accuracy"], own["stage"], read_metadata(path, "gradient"))


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
