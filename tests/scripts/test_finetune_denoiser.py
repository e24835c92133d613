"""The stage that fine-tunes: a folder that opens like any denoiser's, a record and a card, the same after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel

from purification.data import Dataset
from purification.journal import Journal
from purification.models.edm_unet import EdmUNet
from purification.models.loading import load_denoiser, save_model
from purification.models.published_denoisers import convert_denoiser
from purification.schedule import Level
from purification.training import initialise
from workflow_scripts.finetune_denoiser import run
from workflow_scripts.journal import FileJournal
from workflow_scripts.model_cards import data_hash

SCHEDULE = {"beta_start": 1e-4, "beta_end": 2e-2, "train_steps": 1000}
NETWORK = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
    "add_attention": False,
}  # fmt: skip
ADDT = {"objective": "class", "mapping": "ranks", "mix": "preserving", "iterations": 2, "strength": 0.1, "limit": 0.3}
FILES = ("config.json", "diffusion_pytorch_model.safetensors", "losses.parquet", "training.json", "README.md")


def entry(method: str = "addt") -> dict[str, Any]:
    training = {
        "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup": 1, "gradient_clip": 1.0,
        "ema": 0.5, "low_fraction": 1.0, "low_below": 200,
    }  # fmt: skip
    found = {"kind": "finetuned", "base": "unet", "schedule": SCHEDULE, "levels": "discrete", "training": training}
    found |= {"architecture": "unet"}
    return {**found, "method": "none"} if method == "none" else {**found, "method": method, "adversary": ADDT}


def judge(images: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(-1, 1, 64 * 3).view(64, 3)
    return images.flatten(1) @ weights


@pytest.fixture
def finetune(tmp_path: Path) -> Callable[..., Path]:
    """Function (folder name, method, judge, journal) -> folder of the results."""
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dataset = Dataset(images, torch.arange(12) % 3, {"train": list(range(10)), "validation": [10], "test": [11]})
    initialise(lambda: UNet2DModel(**NETWORK), 0).save_pretrained(tmp_path / "base")

    def make(name: str, method: str = "addt", teacher: Any = judge, journal: Journal | None = None) -> Path:
        folder = tmp_path / name
        paths = {"losses": folder / "losses.parquet", "record": folder / "training.json", "card": folder / "README.md"}
        kept = journal or FileJournal(tmp_path / f"journal_{name}", "a" * 64)
        settings = entry(method)
        run(dataset, settings, tmp_path / "base", teacher, 5, name="tuned", folder=folder, journal=kept, **paths)
        return folder

    return make


def test_the_folder_opens_as_a_denoiser_that_has_moved_from_its_base(
    finetune: Callable[..., Path], tmp_path: Path
) -> None:
    folder = finetune("one")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    tuned, base = (
        load_denoiser(path, SCHEDULE, torch.device("cpu"), torch.float32) for path in (folder, tmp_path / "base")
    )
    u = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    level = tuned.schedule.level(50)
    moved = float((tuned.epsilon(u, level) - base.epsilon(u, level)).abs().max())
    assert 0 < moved < 1


def test_record_and_card_say_what_was_trained_on_what(finetune: Callable[..., Path]) -> None:
    folder = finetune("one")
    record, card = json.loads((folder / "training.json").read_text()), (folder / "README.md").read_text()
    losses = pd.read_parquet(folder / "losses.parquet").loss
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert record["data_sha256"] == data_hash(images[:10], (torch.arange(12) % 3)[:10])
    assert (record["seed"], record["images"]) == (5, 10)
    assert record["settings"] == entry()
    assert record["passes"] == {
        "network_forward": 12, "network_backward": 12, "classifier_forward": 8, "classifier_backward": 8
    }  # fmt: skip
    assert [record["first_loss"], record["last_loss"]] == [losses.iloc[0], losses.iloc[-1]] and len(losses) == 4
    assert record["parameters"] == UNet2DModel(**NETWORK).num_parameters()
    for fact in (
        "`unet` with method `addt`",
        record["data_sha256"],
        "| seed | 5 |",
        "12 network forward",
        "8 classifier",
    ):
        assert fact in card
    assert "{" not in card.partition("## Settings")[0]


def test_other_images_and_labels_have_another_hash() -> None:
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    hashes = {data_hash(images, labels), data_hash(images, labels.flip(0)), data_hash(images + 1, labels)}
    assert len(hashes) == 3


def test_the_control_needs_no_classifier(finetune: Callable[..., Path]) -> None:
    folder = finetune("control", "none", None)
    assert json.loads((folder / "training.json").read_text())["passes"]["network_forward"] == 4


def test_training_goes_on_from_published_weights(finetune: Callable[..., Path], tmp_path: Path) -> None:
    """A folder of diffusers, converted as the workflow does, is a base like one that was trained here."""
    trained = finetune("trained")
    (tmp_path / "base").rename(tmp_path / "published")
    config, weights = convert_denoiser({"kind": "diffusers", "path": tmp_path / "published", "schedule": SCHEDULE}, 1)
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", config, weights)
    again = finetune("again")
    for name in FILES[1:]:
        assert (trained / name).read_bytes() == (again / name).read_bytes(), name


def test_a_network_of_edm_is_tuned_in_its_own_parameterisation(tmp_path: Path) -> None:
    config = {
        "kind": "edm", "size": 8, "channels": 1, "width": 8, "multipliers": [1, 1], "layers": 1, "attention": [4],
        "sigma_data": 0.5,
    }  # fmt: skip
    network = initialise(lambda: EdmUNet(config), 0)
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
    save_model(tmp_path / "base", config, network.state_dict())
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dataset = Dataset(images, torch.arange(12) % 3, {"train": list(range(10))})
    training = {key: value for key, value in entry()["training"].items() if not key.startswith("low")}
    training |= {"log_sigma": [-1.2, 1.2], "sigma_data": 0.5}
    settings = {**entry(), "base": "edm", "architecture": "edm", "levels": "edm", "training": training}
    paths = {"losses": tmp_path / "losses", "record": tmp_path / "training.json", "card": tmp_path / "README.md"}
    run(dataset, settings, tmp_path / "base", judge, 5, name="tuned", folder=tmp_path / "tuned", **paths)
    level = Level(0.0, 0.9)
    tuned, base = (
        load_denoiser(tmp_path / name, SCHEDULE, torch.device("cpu"), torch.float32).epsilon(images, level)
        for name in ("tuned", "base")
    )
    assert json.loads((tmp_path / "tuned" / "config.json").read_text()) == config
    assert 0 < float((tuned - base).abs().max()) < 1
    count = sum(parameter.numel() for parameter in network.parameters())
    assert json.loads((tmp_path / "training.json").read_text())["parameters"] == count


class Killed(FileJournal):
    """Dies after its second save."""

    saves = 0

    def save(self, state: Any, *, last: bool = False) -> None:
        super().save(state, last=last)
        self.saves += 1
        if self.saves == 2:
            raise KeyboardInterrupt


def test_a_killed_training_goes_on_to_the_same_bytes(finetune: Callable[..., Path], tmp_path: Path) -> None:
    whole = finetune("whole")
    with pytest.raises(KeyboardInterrupt):
        finetune("killed", journal=Killed(tmp_path / "kept", "a" * 64, interval=0.0))
    assert not (tmp_path / "killed" / "README.md").exists() and (tmp_path / "kept" / "state").exists()
    again = finetune("killed", journal=FileJournal(tmp_path / "kept", "a" * 64))
    for name in FILES:
        assert (whole / name).read_bytes() == (again / name).read_bytes(), name
