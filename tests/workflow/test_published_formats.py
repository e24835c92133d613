"""Toy networks and pictures in the published formats go through the stages of the paper's configurations."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import UNet2DModel
from PIL import Image

from purification.models.guided_unet import GuidedUNet
from purification.models.published import published_network
from tests.workflow.conftest import Project, copy_project

NAMES = ("cifar10", "imagenet")
STATISTICS = {"mean": [0.0] * 3, "std": [1.0] * 3}


def random_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.05 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if "num_batches" not in name and name not in ("mean", "std")
    }


def write_cifar(folder: Path) -> dict[str, Any]:
    """A tiny CIFAR-10 archive, a WRN-10-1 in RobustBench's layout, a small diffusers folder."""
    rng = np.random.default_rng(0)
    archive = folder / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as file:
        for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
            pixels = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
            content = pickle.dumps({b"data": pixels, b"labels": [k % 10 for k in range(12)]}, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    sizes = {"depth": 10, "width": 1, "classes": 10}
    network = published_network({"kind": "wide_resnet", **sizes, **STATISTICS}).network
    (folder / "weights").mkdir()
    state = {f"module.{name}": value for name, value in random_state(network).items()}
    torch.save({"state_dict": state}, folder / "weights" / "wrn_28_10_standard.pt")
    unet = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4,
        down_block_types=["DownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "UpBlock2D"], add_attention=False,
    )  # fmt: skip
    unet.load_state_dict({**unet.state_dict(), **random_state(unet)})
    unet.save_pretrained(folder / "weights" / "ddpm-cifar10-32")
    entry = {"datasets": {"cifar10": {"splits": {"train": 40, "validation": 4, "test": 10}}}}
    written = json.loads((folder / "weights" / "ddpm-cifar10-32" / "config.json").read_text())
    wanted = yaml.safe_load((folder / "config" / "cifar10.yaml").read_text())["denoisers"]["ddpm"]["layout"]
    layout = {key: written[key] for key in wanted}
    return {**entry, "classifiers": {"standard": sizes}, "denoisers": {"ddpm": {"layout": layout}}}


def write_imagenet(folder: Path) -> dict[str, Any]:
    """Ten classes of one picture, a ResNet-50 of torchvision's layout, a narrow network of guided diffusion."""
    rng = np.random.default_rng(0)
    for k in range(24):
        place = folder / "data" / "imagenet" / "val" / f"n{k % 10:08}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(place / f"val_{k:08}.JPEG")
    (folder / "weights").mkdir()
    sizes = {"depth": 50, "width": 1, "classes": 10}
    network = published_network({"kind": "imagenet_resnet", **sizes, **STATISTICS}).network
    torch.save(random_state(network), folder / "weights" / "resnet50.pth")
    small = {"size": 32, "width": 32, "multipliers": [1, 1], "layers": 1, "attention": [16], "head_channels": 16}
    adm = GuidedUNet({**small, "channels": 3, "learned_variance": True})
    torch.save(random_state(adm), folder / "weights" / "256x256_diffusion_uncond.pt")
    dataset = {"size": 28, "resize": 32, "classes": 10, "splits": {"train": 10, "validation": 2, "test": 10}}
    purifiers = {f"ddpm_{t}": {"size": 32} for t in (0, 25, 50, 75, 100, 150)}
    purifiers |= {key: {"size": 32} for key in ("reverse_only_100", "one_step_100", "wiener")}
    entry = {"datasets": {"imagenet": dataset}, "classifiers": {"resnet50": sizes}, "purifiers": purifiers}
    return {**entry, "denoisers": {"adm": small, "stationary": {"size": 32}}}


WRITERS = {"cifar10": write_cifar, "imagenet": write_imagenet}
STAGES = (
    *("purified", "distances", "randomness", "compression", "jacobian", "attack_strength", "attack_adequacy"),
    "gradient_noise",
)
SMALL = yaml.safe_load((Path(__file__).parents[2] / "config" / "smoke.yaml").read_text())


def toy(name: str) -> dict[str, Any]:
    """What the configuration of the smallest run says about numbers of images, steps and draws."""
    keys = ("evaluation", "distances", "randomness", "compression", "jacobian", "audit", "attack_strength")
    config = {key: SMALL[key] for key in (*keys, "attack_adequacy", "gradient_noise") if key in SMALL}
    ran = ("strong", "strong_climb", "strong_aim", "stronger", "longer_climb", "restarted_margin", "more_targets")
    ran += ("margin", "challenge", "quick_exemplars", "quick_margin", "quick_bpda", "quick_square")
    ran += ("fixed", "transfer", "bpda", "eot", "one_draw", "adjoint", "surrogate", "semi")
    config["attacks"] = {key: SMALL["attacks"][key] for key in ran if key in SMALL["attacks"]}
    config["attacks"]["surrogate"]["surrogate_steps"] = 2
    config["purifiers"] = {f"ddpm_{t}": {"steps": 3} for t in (25, 50, 75, 100, 150)}
    return config


def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    both = {key: merge(a[key], b[key]) for key in a.keys() & b.keys() if isinstance(a[key], dict)}
    return {**a, **b, **both}


@pytest.mark.parametrize("name", NAMES)
def test_toy_networks_in_the_published_formats_go_through_the_stages(name: str, tmp_path: Path) -> None:
    folder = copy_project(tmp_path / "project")
    for place in ("data", "weights"):
        shutil.rmtree(folder / place, ignore_errors=True)
    config = merge(toy(name), WRITERS[name](folder))
    (folder / "toy.yaml").write_text(yaml.safe_dump({**config, "batch_size": 5, "gradient_batch_size": 5}))
    headline = yaml.safe_load((folder / "config" / f"{name}.yaml").read_text())["run"]["headline"]
    target = f"results/{name}/purified/{headline}.parquet"
    project = Project(folder, Path(f"config/{name}.yaml"))
    stages = [f"results/{name}/{stage}/{headline}.parquet" for stage in STAGES]
    done = project.snakemake("--cores", "1", "--configfile", f"config/{name}.yaml", "toy.yaml", "--", *stages)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    rows = pd.read_parquet(folder / target)
    assert {"clean", "strong", "transfer"} <= set(rows.attack) and rows.image.nunique() == 10
    kind = json.loads(
        (
            folder / f"results/{name}/models/denoisers" / ("ddpm" if name == "cifar10" else "adm") / "config.json"
        ).read_text()
    )
    assert kind.get("kind") == (None if name == "cifar10" else "guided_diffusion")
