"""The stages of anomaly detection: what they write, resumed after a kill to the same bytes, and read by the tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from purification.anomaly.detectors import ARMS
from purification.blocks import Block
from purification.data import Dataset
from purification.journal import NO_JOURNAL, Journal, State
from purification.models.loading import load_denoiser
from purification.reporting.anomaly import anomaly, certified_anomaly
from purification.reporting.figures import Extras, draw
from purification.reporting.rows import Rows
from workflow_scripts.anomalies import load_parts, read_items
from workflow_scripts.certify_anomalies import certify_anomalies
from workflow_scripts.journal import FileJournal
from workflow_scripts.measure_anomalies import measure_anomalies, pixel_auroc, shown
from workflow_scripts.model_cards import data_hash
from workflow_scripts.parts import join_rows, join_tensors
from workflow_scripts.prepare_anomalies import prepare_anomalies
from workflow_scripts.train_detector import run

SCHEDULE = {"beta_start": 1e-4, "beta_end": 2e-2, "train_steps": 1000}
NETWORK = {
    "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 4, "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2, "add_attention": False,
}  # fmt: skip
TRAINING = {
    "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup": 1, "gradient_clip": 1.0,
    "ema": 0.5, "low_fraction": 1.0, "low_below": 200,
}  # fmt: skip
DETECTOR = {"kind": "unet", "schedule": SCHEDULE, "network": NETWORK, "training": TRAINING}
CLASSES = {
    "kind": "classes", "normal": [0, 2], "images": {"normal": 4, "other": 3, "defective": 3},
    "defects": ["scratch", "patch", "paste"], "share": 0.4,
}  # fmt: skip
AIM = {"kind": "pgd", "loss": "margin", "gradient": "replay", "stop_when_broken": False}
PGD = {**AIM, "norm": "linf", "epsilon": 0.05, "steps": 3, "step_size": 0.5, "random_start": False, "restarts": 1}
SETTINGS: dict[str, Any] = {
    "seed": 3, "device": "cpu", "precision": "fp32", "batch_size": 5, "gradient_batch_size": 4, "schedule": SCHEDULE,
    "components": 3,
    "scales": [1, 2], "window": 3, "summary": "max", "calibration": 1, "level": 100, "shots": 1, "draws": 3,
    "samples": 4,
    "purifier": {
        "kind": "diffusion", "sampler": "ddpm", "variance": "fixed_small", "t_star": 100, "steps": 2,
        "forward_noise": True, "clip": "none", "clamp_output": False,
    },
    "attacks": {
        "known": {**PGD, "knowledge": "both", "draws": 1, "select": "best"},
        "eot": {**PGD, "norm": "l2", "epsilon": 0.3, "knowledge": "none", "draws": 2, "select": "last"},
    },
    "certification": {"level": 50, "samples": 30, "percentile": 0.5, "failure": 0.1, "radii": [0.0, 0.05, 10.0]},
}  # fmt: skip


class Killed(Exception):
    """What a kill leaves: nothing but the journal."""


class Stopping:
    """A journal that keeps every state and ends the job after so many of them."""

    def __init__(self, inner: FileJournal, left: list[int]) -> None:
        self.inner, self.left = inner, left

    def load(self) -> State:
        return self.inner.load()

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.inner.save(state, last=True)
        self.left[0] -= 1
        if self.left[0] == 0:
            raise Killed

    def part(self, name: str) -> Journal:
        return Stopping(self.inner.part(name), self.left)


def dataset() -> Dataset:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Dataset(images, torch.arange(40) % 4, {"train": list(range(20)), "test": list(range(20, 40))})


def prepare(folder: Path, data: dict[str, Any]) -> tuple[Path, Path]:
    paths = folder / "items.safetensors", folder / "items.parquet"
    prepare_anomalies(dataset(), data, 3, subset="test", images=paths[0], kinds=paths[1])
    return paths


def train(folder: Path, items: tuple[Path, Path], journal: Journal = NO_JOURNAL) -> Path:
    paths = {"losses": folder / "losses.parquet", "record": folder / "training.json", "card": folder / "README.md"}
    run(read_items(*items), DETECTOR, 3, name="zeros", folder=folder, journal=journal, **paths)
    return folder


def measure(folder: Path, items: tuple[Path, Path], network: Path, journal: Journal = NO_JOURNAL) -> dict[str, bytes]:
    found, paths = read_items(*items), (folder / "rows.parquet", folder / "samples.safetensors")
    measure_anomalies(
        found, load_parts(found, SETTINGS, network), SETTINGS, 1e9, rows=paths[0], samples=paths[1], journal=journal
    )
    return {path.name: path.read_bytes() for path in paths}


def certify(folder: Path, items: tuple[Path, Path], network: Path, journal: Journal = NO_JOURNAL) -> dict[str, bytes]:
    found, path = read_items(*items), folder / "certificate.parquet"
    certify_anomalies(found, load_parts(found, SETTINGS, network), SETTINGS, output=path, journal=journal)
    return {path.name: path.read_bytes()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything once: items, network, rows, certificate."""
    folder = tmp_path_factory.mktemp("detector")
    items = prepare(folder, CLASSES)
    train(folder, items)
    measure(folder, items, folder)
    certify(folder, items, folder)
    return folder


def items_of(folder: Path) -> tuple[Path, Path]:
    return folder / "items.safetensors", folder / "items.parquet"


def rows_of(folder: Path) -> Rows:
    frames = {
        "anomaly": pd.read_parquet(folder / "rows.parquet"),
        "certificates": pd.read_parquet(folder / "certificate.parquet"),
    }
    named = {kind: frame.assign(purifier="zeros") for kind, frame in frames.items()}
    return Rows(
        named,
        {
            "seed": 0,
            "reliability": {},
            "anomaly": {"zeros": SETTINGS},
            "run": {"sweep": [], "controls": []},
        },
    )


def test_the_network_learns_from_normal_images_alone_and_opens_as_a_denoiser(made: Path) -> None:
    record, card = json.loads((made / "training.json").read_text()), (made / "README.md").read_text()
    images = dataset().images[[0, 2, 4, 6, 8, 10, 12, 14, 16, 18]]
    assert record["data_sha256"] == data_hash(images, torch.zeros(10, dtype=torch.int64)) and record["images"] == 10
    assert record["seed"] == 3 and record["passes"] == {"network_forward": 4, "network_backward": 4}
    assert "training a denoiser on normal images" in card and record["data_sha256"] in card
    assert len(pd.read_parquet(made / "losses.parquet")) == 4
    assert load_denoiser(made, SCHEDULE, torch.device("cpu"), torch.float32).schedule.train_steps == 1000


@pytest.mark.parametrize("states", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bytes(made: Path, tmp_path: Path, states: int) -> None:
    journal = FileJournal(tmp_path / "journal", "a" * 64)
    with pytest.raises(Killed):
        train(tmp_path, items_of(made), Stopping(journal, [states]))
    again = train(tmp_path, items_of(made), journal)
    for name in ("diffusion_pytorch_model.safetensors", "config.json", "losses.parquet", "training.json", "README.md"):
        assert (again / name).read_bytes() == (made / name).read_bytes(), name


@pytest.mark.parametrize("states", [2, 9, 20])
def test_a_killed_measurement_goes_on_to_the_same_bytes(made: Path, tmp_path: Path, states: int) -> None:
    journal = FileJournal(tmp_path / "journal", "a" * 64)
    with pytest.raises(Killed):
        measure(tmp_path, items_of(made), made, Stopping(journal, [states]))
    for name, content in measure(tmp_path, items_of(made), made, journal).items():
        assert content == (made / name).read_bytes(), name


def test_a_killed_certification_goes_on_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal", "a" * 64)
    with pytest.raises(Killed):
        certify(tmp_path, items_of(made), made, Stopping(journal, [40]))
    for name, content in certify(tmp_path, items_of(made), made, journal).items():
        assert content == (made / name).read_bytes(), name


@pytest.mark.parametrize("count", [2, 7])
def test_parts_make_the_bytes_of_one_job(made: Path, tmp_path: Path, count: int) -> None:
    found = read_items(*items_of(made))
    parts, rows, samples, certificates = load_parts(found, SETTINGS, made), [], [], []
    for number in range(1, count + 1):
        block = Block(number, count)
        rows.append(tmp_path / f"{number}.parquet")
        samples.append(tmp_path / f"{number}.safetensors")
        certificates.append(tmp_path / f"certificate_{number}.parquet")
        measure_anomalies(found, parts, SETTINGS, 1e9, rows=rows[-1], samples=samples[-1], block=block)
        certify_anomalies(found, parts, SETTINGS, output=certificates[-1], block=block)
    join_rows(rows, tmp_path / "rows.parquet", by=["arm", "attack"])
    join_tensors(samples, tmp_path / "samples.safetensors")
    join_rows(certificates, tmp_path / "certificate.parquet", by=["arm", "radius"])
    for name in ("rows.parquet", "samples.safetensors", "certificate.parquet"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def test_rows_hold_every_arm_attack_and_image(made: Path) -> None:
    frame = pd.read_parquet(made / "rows.parquet")
    assert list(frame.arm.unique()) == list(ARMS) and list(frame.attack.unique()) == ["clean", "known", "eot"]
    assert (frame.groupby(["arm", "attack"]).size() == 10).all()
    assert frame[frame.attack == "clean"].size_linf.max() == 0.0
    known, eot = frame[frame.attack == "known"], frame[frame.attack == "eot"]
    assert 0 < known.size_linf.max() <= 0.05 + 1e-6 and 0 < eot.size_l2.max() <= 0.3 + 1e-5
    assert known.size_linf[known.anomalous].max() > 0 and known.size_linf[~known.anomalous].max() > 0
    assert all(len(scores) == 3 for scores in frame.varied) and all(len(scores) == 3 for scores in frame.matched)
    defects = frame.kind.isin(["scratch", "patch", "paste"])
    assert frame[defects].pixel_auroc.between(0, 1).all() and frame[~defects].pixel_auroc.isna().all()
    advrad = frame[(frame.arm == "advrad") & (frame.attack == "clean")]
    assert len({advrad.fixed.iloc[0], *advrad.varied.iloc[0]}) == 4, "draws of different roles share numbers"


def test_an_attack_on_known_noise_works_under_it(made: Path) -> None:
    """Scores under the frozen noise move the attack's way for every image, in all arms."""
    frame = pd.read_parquet(made / "rows.parquet").set_index("image")
    for arm in ARMS:
        own = frame[frame.arm == arm]
        gain = own[own.attack == "known"].fixed - own[own.attack == "clean"].fixed
        assert (np.where(own[own.attack == "clean"].anomalous, -gain, gain) > 0).all(), arm


def test_a_certificate_starts_at_the_score_and_ends_at_nothing(made: Path) -> None:
    frame = pd.read_parquet(made / "certificate.parquet")
    assert (frame[frame.radius == 0.0].lower <= frame[frame.radius == 0.0].upper).all()
    assert np.isinf(frame[frame.radius == 10.0][["lower", "upper"]]).all().all()
    near, far = (frame[frame.radius == radius].reset_index() for radius in (0.0, 0.05))
    assert (far.lower <= near.lower).all() and (far.upper >= near.upper).all()
    assert frame.sigma.iloc[0] == pytest.approx(0.5 * np.sqrt((1 - 0.96995) / 0.96995), rel=1e-3)


def test_tables_hold_areas_with_intervals_and_the_comparison(made: Path) -> None:
    table = anomaly(rows_of(made))
    assert len(table) == 3 * 3 * 3 and set(table.anomalies) == {"all", "other classes", "defects"}
    assert (table.normal_n == 4).all() and set(table.anomalous_n) == {6, 3}
    for name in ("auroc", "fixed", "matched", "difference"):
        assert (table[f"{name}_low"] <= table[name] + 1e-9).all()
        assert (table[name] <= table[f"{name}_high"] + 1e-9).all()
    assert (table[table.arm == "purified"].difference == 0).all()
    masked = table[table.anomalies != "other classes"]
    assert (masked.pixel_n == 3).all() and masked.pixel_auroc.between(
        masked.pixel_auroc_low, masked.pixel_auroc_high
    ).all()
    assert table[table.anomalies == "other classes"].pixel_auroc.isna().all()
    certified = certified_anomaly(rows_of(made))
    assert (certified[certified.radius == 10.0].certified == 0).all()
    assert (certified.groupby(["arm", "anomalies"]).certified.diff().dropna() <= 0).all()


def test_figures_are_drawn(made: Path) -> None:
    samples = {key: value.numpy() for key, value in load_file(made / "samples.safetensors").items()}
    for name in ("anomaly", "error_maps"):
        assert len(draw(name, rows_of(made), Extras(samples=samples)).axes) >= 2
    assert len(draw("error_maps", rows_of(made), Extras()).axes) == 1


def test_the_figure_shows_every_kind(made: Path) -> None:
    found = read_items(*items_of(made))
    assert {found.kinds[place] for place in shown(found, 6)} == set(found.kinds)
    assert shown(found, 99) == list(range(10))


def test_the_area_of_a_map_against_its_mask() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert pixel_auroc(torch.tensor([[2.0, 1.0], [2.0, 3.0]]), mask) == pytest.approx((1 + 0.5 + 0) / 3)
    assert np.isnan(pixel_auroc(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)))


def test_folders_in_mvtecs_layout_pass_through_every_stage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"train/good/{k:03}" for k in range(6)] + [
        f"test/{kind}/{k:03}" for kind in ("good", "cut") for k in (0, 1)
    ]
    for name in names:
        path = tmp_path / "grid" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:4, 2:4] = 255
    (tmp_path / "grid/ground_truth/cut").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "grid/ground_truth/cut/001_mask.png")
    data = {"kind": "mvtec", "path": str(tmp_path / "grid"), "channels": 3, "size": 8, "resize": 0, "convert": False}
    items = prepare(tmp_path, data)
    train(tmp_path, items)
    measure(tmp_path, items, tmp_path)
    certify(tmp_path, items, tmp_path)
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert list(frame.kind[:4]) == ["normal", "normal", "cut", "cut"] and frame.pixel_auroc.notna().sum() == 9
    assert set(anomaly(rows_of(tmp_path)).anomalies) == {"all"}


def test_items_come_back_as_they_were(made: Path) -> None:
    found = read_items(*items_of(made))
    assert replace(found, kinds=[]).ids == found.ids and found.masks.dtype == torch.bool
    assert found.anomalous.sum() == 6 and found.test.shape == (10, 1, 8, 8)
