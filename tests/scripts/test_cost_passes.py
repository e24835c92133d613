"""What a forecast does where networks are large or files are not there: passes are counted, stand-ins are planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.data import Dataset
from purification.models.denoisers import Denoiser
from purification.models.loading import ARCHITECTURES
from purification.models.published_denoisers import CONVERTERS, describe_denoiser
from purification.noise import Noise
from purification.purifiers import make_purifier, purify
from purification.schedule import Schedule
from workflow_scripts.configuration import merged
from workflow_scripts.cost_passes import TALLY, Passes, counting, measure_passes
from workflow_scripts.cost_plan import plan
from workflow_scripts.cost_probe import Laboratory, measure
from workflow_scripts.cost_standins import stand_ins
from workflow_scripts.cost_trainings import TRAININGS
from workflow_scripts.cost_units import Unit, entry_of
from workflow_scripts.estimate_cost import random_sample
from workflow_scripts.input_files import PUBLISHED_DENOISERS

ROOT = Path(__file__).parents[2]
SCHEDULE = {"beta_start": 1e-4, "beta_end": 2e-2, "train_steps": 1000}
SHAPE = {"size": 16, "width": 16, "multipliers": [1, 2], "layers": 1, "attention": [8], "schedule": SCHEDULE}
NETWORK = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "norm_eps": 1e-5,
    "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False,
}  # fmt: skip
ENTRIES: dict[str, dict[str, Any]] = {
    "diffusers": {"kind": "diffusers", "path": "none", "layout": NETWORK, "schedule": SCHEDULE},
    "guided_diffusion": {
        **SHAPE, "kind": "guided_diffusion", "path": "none", "width": 32, "head_channels": 16, "learned_variance": True,
    },
    "score_sde": {**SHAPE, "kind": "score_sde", "path": "none"},
    "edm": {**SHAPE, "kind": "edm", "path": "none", "sigma_data": 0.5},
}  # fmt: skip
FIRST = {
    "diffusers": "conv_in.weight", "guided_diffusion": "input_blocks.0.0.weight",
    "score_sde": "all_modules.2.weight", "edm": "network.all_modules.2.weight",
}  # fmt: skip
PASSES = Passes(forward=3.0, backward=7.0, weights=1e9, kept=1e6, operations=1.0)
DDPM: dict[str, Any] = {
    **{"kind": "diffusion", "denoiser": "large", "sampler": "ddpm", "variance": "fixed_small", "t_star": 100},
    **{"steps": 20, "forward_noise": True, "clip": "none", "clamp_output": False, "schedule": SCHEDULE},
}


@pytest.fixture
def dataset() -> Dataset:
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Dataset(images, torch.arange(8) % 4, {"train": list(range(8))}, classes=4)


def test_every_published_kind_is_described() -> None:
    assert set(ENTRIES) == set(PUBLISHED_DENOISERS) == set(CONVERTERS)


@pytest.mark.parametrize("kind", ENTRIES)
def test_passes_of_networks_without_files_are_measured(kind: str) -> None:
    found = measure_passes(ENTRIES[kind], (3, 16, 16), 64)
    with torch.device("meta"):
        network = ARCHITECTURES[{"diffusers": "unet"}.get(kind, kind)](describe_denoiser(ENTRIES[kind], 3))
    count = sum(value.numel() for value in network.state_dict().values())
    single, double = found[torch.float32], found[torch.float64]
    assert (single.weights, double.weights) == (4 * count, 8 * count)
    first = 2 * 64 * 64 * 9 * 3 * network.state_dict()[FIRST[kind]].shape[0]  # of the first convolution alone
    assert single.operations == double.operations > 10 * first
    assert single.forward > 0 and single.backward > 0
    assert double.kept == pytest.approx(2 * single.kept, rel=0.05) and single.kept > 3 * 64 * 64 * 16 * 4


@pytest.mark.parametrize("steps", [3, 20])
def test_the_forecast_of_counted_passes_is_exact(steps: int, dataset: Dataset) -> None:
    """Purification: a forward pass per step; a replayed gradient: two and a backward one; of kept steps: one less."""
    entry = {"kind": "edm", "path": "none"}
    config = {"seed": 0, "device": "cpu", "memory_bytes": 0, "denoisers": {"large": entry}}
    config |= {"classifier": "c", "classifiers": {"c": {"kind": "residual", "widths": [4]}}}
    passes = {json.dumps(entry, sort_keys=True): {torch.float32: PASSES, torch.float64: PASSES}}
    text = entry_of({**DDPM, "steps": steps})

    def seconds(unit: Unit, **changes: Any) -> float:
        return measure(unit, Laboratory({**config, **changes}, dataset, 1.0, passes)).seconds

    assert seconds(Unit("purify", text, 5)) == pytest.approx(5 * steps * 3.0, rel=0.02)
    gradient = Unit("gradient", text, 5, "replay")
    assert seconds(gradient) == pytest.approx(5 * steps * (2 * 3.0 + 7.0), rel=0.02)
    assert seconds(gradient, memory_bytes=1e12) == pytest.approx(5 * steps * (3.0 + 7.0), rel=0.02)
    assert seconds(Unit("push", text, 1)) == pytest.approx(steps * (3.0 + 2 * 7.0), rel=0.02)
    assert measure(Unit("purify", text, 5), Laboratory(config, dataset, 1.0, passes)).memory >= 1e9


def test_the_stand_in_counts_images_and_not_calls() -> None:
    denoiser = Denoiser(counting(PASSES), Schedule(**SCHEDULE))
    purifier = make_purifier({**DDPM, "steps": 4}, denoiser, (3, 4, 4), torch.device("cpu"))
    before = TALLY.seconds
    images: Tensor = torch.zeros(6, 3, 4, 4)
    purify(purifier, images, Noise(0, "fixed", tuple(range(6)), (0,) * 6, (3, 4, 4)))
    assert TALLY.seconds - before == 6 * 4 * PASSES.forward


@pytest.mark.parametrize("kind", ["diffusers", "edm"])
def test_fine_tuning_a_published_network_has_a_cost(kind: str, dataset: Dataset) -> None:
    training = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup": 1, "ema": 0.5}
    training |= {"gradient_clip": 1.0, "low_fraction": 0.0, "low_below": 1}
    settings = {"kind": "finetuned", "tuned": ENTRIES[kind], "schedule": SCHEDULE, "training": training}
    settings |= {"method": "none", "levels": "discrete", "architecture": "edm" if kind == "edm" else "unet"}
    config = {"device": "cpu", "classifier": "c", "classifiers": {"c": {"kind": "residual", "widths": [4]}}}
    assert TRAININGS["finetuned"](settings, Laboratory(config, dataset, 1.0)) is not None


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_the_papers_settings_are_planned_without_their_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = ROOT / "config" / f"{name}.yaml"
    config = merged([file])
    config["datasets"][config["dataset"]]["path" if name == "cifar10" else "folders"] = {
        "cifar10": "nowhere/data.tar.gz", "imagenet": {"test": "nowhere/val"},
    }[name]  # fmt: skip
    changes, absent = stand_ins(config, tmp_path)
    made = plan([file], "results/tables", ROOT / "Snakefile", forceall=True, changes=changes)
    assert {"prepare_dataset", "convert_classifier", "convert_denoiser", "compute_jacobian"} <= {
        job.rule for job in made.jobs
    }
    assert any(place.startswith("nowhere/") for place in absent)
    assert made.config["run"]["headline"] == config["run"]["headline"]


def test_what_is_there_keeps_its_place(tmp_path: Path) -> None:
    there = tmp_path / "w.pt"
    there.touch()
    config = {
        "classifiers": {"a": {"kind": "wide_resnet", "path": str(there)}, "b": {"kind": "huggingface", "path": "no"}},
        "datasets": {"d": {"kind": "parquet", "files": {"test": [str(there), "none.parquet"]}}},
    }
    changes, absent = stand_ins(config, tmp_path / "stand")
    assert set(changes["classifiers"]) == {"b"} and Path(changes["classifiers"]["b"]["path"]).is_dir()
    assert len(changes["datasets"]["d"]["files"]["test"]) == 2 and absent == ["none.parquet", "no"]


def test_random_images_have_the_size_and_number_of_the_real_ones() -> None:
    entry = {"kind": "folders", "size": 224, "classes": 1000, "splits": {"train": 100, "test": 200, "validation": 1}}
    data, reading, held = random_sample({"dataset": "i", "datasets": {"i": entry}})
    assert data.shape == (3, 224, 224) and data.num_classes == 1000
    assert reading == 0 and held == 4 * 100 * 3 * 224 * 224
