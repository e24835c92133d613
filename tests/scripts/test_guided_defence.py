"""Guided purifiers from files: the auxiliary network is trained by a stage, found among all networks, and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from purification.data import Dataset
from purification.defence import Defence
from purification.guidance import NetworkGuidance
from purification.models.placing import Place
from purification.noise import NoiseSource
from purification.purifiers import GuidedPurifier, purify
from purification.training import initialise
from workflow_scripts.attacking import attacked
from workflow_scripts.code_digest import Project
from workflow_scripts.cost_probe import Laboratory
from workflow_scripts.defences import load_judge, load_purifier, load_twins
from workflow_scripts.train_robust_classifier import run

ROBUST = {
    "kind": "robust", "widths": [4], "steps": 3, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0,
    "warmup": 1, "shift": 1, "noise": 0.1,
    "adversary": {"iterations": 1, "epsilon": 0.1, "step_size": 1.0, "weight": 1.0},
}  # fmt: skip
NETWORK = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
    "add_attention": False,
}  # fmt: skip
ENTRY: dict[str, Any] = {
    "kind": "guided", "denoiser": "unet", "sampler": "ddpm", "variance": "fixed_large", "t_star": 36, "steps": 2,
    "forward_noise": True, "clip": "none", "clamp_output": False, "rounds": 1,
    "schedule": {"beta_start": 1e-4, "beta_end": 2e-2, "train_steps": 1000},
    "guidance": {"guide": "network", "network": "robust", "label": "predicted", "place": "state", "scale": 50.0},
}  # fmt: skip
PGD = {"kind": "pgd", "gradient": "replay"}
FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@pytest.fixture
def dataset() -> Dataset:
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Dataset(images, torch.arange(12) % 3, {"train": list(range(9)), "validation": [9, 10], "test": [11]})


@pytest.fixture
def networks(tmp_path: Path, dataset: Dataset) -> list[str]:
    """Files of a robust classifier and of denoisers, as the workflow keeps and sorts them."""
    folder = tmp_path / "classifiers" / "robust"
    paths = {"losses": folder / "losses.parquet", "record": folder / "training.json", "card": folder / "README.md"}
    run(dataset, ROBUST, 0, name="robust", folder=folder, **paths)
    for number, name in enumerate(("other", "robust", "unet")):
        network = initialise(lambda: UNet2DModel(**NETWORK), number)
        network.save_pretrained(tmp_path / "denoisers" / name)
    return sorted(str(path) for path in tmp_path.glob("*/*/*") if path.name in FILES)


def networks_of(entry: Mapping[str, Any], networks: list[str]) -> list[str]:
    """Files of a purifier's networks, as the rules give them: its denoiser's, then its guide's."""
    wanted = [("denoisers", entry.get("denoiser")), ("classifiers", entry.get("guidance", {}).get("network"))]
    return [path for place in wanted for path in networks if Path(path).parts[-3:-1] == place]


def test_a_guided_purifier_is_guided_by_the_network_of_its_files(networks: list[str], dataset: Dataset) -> None:
    files = networks_of(ENTRY, networks)
    guided = load_purifier(ENTRY, files, dataset, Place("cpu", "fp32"))
    assert isinstance(guided, GuidedPurifier) and isinstance(guided.guidance, NetworkGuidance)
    images, noise = dataset.images[:2], NoiseSource(0, "fixed", (1, 8, 8))([0, 1])
    unguided = load_purifier({**ENTRY, "kind": "diffusion"}, files[:2], dataset, Place("cpu", "fp32"))
    with torch.no_grad():
        assert not torch.equal(purify(guided, images, noise), purify(unguided, images, noise))


def test_the_null_twin_has_the_same_guide(networks: list[str], dataset: Dataset) -> None:
    files = networks_of(ENTRY, networks)
    inputs = SimpleNamespace(denoiser=files, null=[*networks_of({"denoiser": "other"}, networks), *files[2:]])
    twins = load_twins(ENTRY, inputs, dataset, {"device": "cpu", "precision": "fp32"})
    images = dataset.images[:2]
    guides = [twin.inner.denoiser.auxiliary(images) for twin in twins.values() if isinstance(twin, GuidedPurifier)]
    assert len(guides) == 2 and torch.equal(*guides)


def test_an_attack_goes_through_the_expected_label_where_the_purifier_takes_the_predicted_one(
    networks: list[str], dataset: Dataset
) -> None:
    """Loss and labels are those of what runs; the derivative is the one that a hard label does not have."""
    place, inputs = Place("cpu", "fp32"), SimpleNamespace(denoiser=networks_of(ENTRY, networks))
    expected = {**ENTRY, "guidance": {**ENTRY["guidance"], "label": "expected"}}
    judge = load_judge({"kind": "robust"}, inputs.denoiser[2:], dataset, place, torch.float32)
    runs, other = (
        Defence(load_purifier(entry, inputs.denoiser, dataset, place), judge, 4) for entry in (ENTRY, expected)
    )
    settings = {"gradient": "surrogate", "surrogate_steps": 2, "surrogate_guidance": {"label": "expected"}}
    through = attacked(runs, ENTRY, settings, inputs, dataset, place)

    def differentiated(defence: Defence, mode: str) -> tuple[torch.Tensor, ...]:
        noise = NoiseSource(0, "fixed", (1, 8, 8))
        images, labels = dataset.images[:2], dataset.labels[:2]
        return defence.loss_gradient(images, labels, [0, 1], noise, 0, loss="ce", mode=mode, kept_steps=0)

    made, own, smooth = (
        differentiated(through, "surrogate"),
        differentiated(runs, "replay"),
        differentiated(other, "replay"),
    )
    assert torch.equal(made[0], own[0]) and torch.equal(made[2], own[2]) and not torch.equal(made[0], smooth[0])
    assert torch.equal(made[1], smooth[1]) and not torch.allclose(made[1], own[1], rtol=1e-3)


def test_the_auxiliary_network_has_a_record_and_a_card(networks: list[str]) -> None:
    folder = Path(networks_of(ENTRY, networks)[2]).parent
    record = json.loads((folder / "training.json").read_text())
    assert record["passes"] == {"network_forward": 12, "network_backward": 9} and record["images"] == 9
    assert "made by adversarial training (TRADES) on noisy images" in (folder / "README.md").read_text()


def test_the_forecast_makes_guided_purifiers_too(dataset: Dataset) -> None:
    network = {key: NETWORK[key] for key in NETWORK if key not in ("sample_size", "in_channels", "out_channels")}
    denoisers = {"unet": {"kind": "unet", "network": network}}
    config = {"device": "cpu", "denoisers": denoisers, "classifiers": {"robust": ROBUST}}
    purifier = Laboratory(config, dataset, 1.0).purifier(json.dumps(ENTRY))
    assert isinstance(purifier, GuidedPurifier) and purifier.inner.denoiser.auxiliary is not None
    image = NoiseSource(0, "fixed", (1, 8, 8))([0])
    assert purify(purifier, dataset.images[:1], image).shape == (1, 1, 8, 8)


def test_a_purifier_depends_on_the_code_of_its_own_guidance_only() -> None:
    project = Project(Path(__file__).parents[2], ("purification", "workflow_scripts"))

    def guidance_of(attack: Mapping[str, Any] = PGD, **changes: Any) -> set[str]:
        found = project.reached("workflow_scripts.attack_images", [{**ENTRY, **changes}, attack])
        return {".".join(item[1:]) for item in found if item[0] == "purification.guidance"}

    assert guidance_of(kind="diffusion", guidance={}) == set()
    own = guidance_of()
    assert {"GUIDES.network", "LABELS.predicted", "PLACES.state"} <= own
    assert not own & {"GUIDES.image", "LABELS.expected", "PLACES.estimate", "ssim"}
    through = {**PGD, "gradient": "surrogate", "surrogate_steps": 2, "surrogate_guidance": {"label": "expected"}}
    assert guidance_of(through) - own == {"LABELS.expected", "expected"}
    image = guidance_of(guidance={"guide": "image", "distance": "mse", "reference": "noised", "scale": 1, "assumed": 1})
    assert {"GUIDES.image", "DISTANCES.mse"} <= image and not image & {"GUIDES.network", "DISTANCES.ssim"}


def test_a_training_depends_on_the_code_of_its_own_method_only() -> None:
    project = Project(Path(__file__).parents[2], ("purification", "workflow_scripts"))
    settings = {"kind": "finetuned", "method": "none", "levels": "discrete"}
    found = project.reached("workflow_scripts.finetune_denoiser", [settings, {"classifier": {"kind": "residual"}}])
    names = {".".join(item[1:]) for item in found if item[0] == "purification.finetuning"}
    assert {"METHODS.none", "LEVELS.discrete", "plain"} <= names
    assert not names & {"METHODS.addt", "METHODS.adbm", "LEVELS.continuous", "addt", "adbm", "ranks", "bridge"}
