"""Stage functions called as functions, and what `job` promises around them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from adversarial_files import write_images

from purification.data import Dataset
from purification.defence import Defence
from purification.index_lists import index_hash
from purification.knowledge import KNOWLEDGE, shared_noise
from purification.noise import FORWARD, REVERSE, Noise, NoiseSource
from purification.purifiers import FunctionPurifier
from purification.reporting.formats import compact
from workflow_scripts.attack_images import attack_images
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import count_adversarial, read_adversarial
from workflow_scripts.job import job, replacing, write_text
from workflow_scripts.model_cards import data_hash
from workflow_scripts.prepare_dataset import prepare_dataset
from workflow_scripts.purify_images import purify_images
from workflow_scripts.train_classifier import run as train_classifier

DIGITS = {"kind": "digits", "size": 16, "splits": {"train": 40, "validation": 10, "test": 10}}
CLASSIFIER = {
    **{"widths": [4], "steps": 3, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup": 1, "shift": 1}
}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test", "norm": "linf", "epsilon": 0.1}
JUDGED = {"known_images": 0, "known_draws": 2, "pool": 2, "pools": {}, "threats": {}}
ATTACK = {
    **{
        "kind": "pgd",
        "knowledge": "both",
        "images": 6,
        "steps": 2,
        "step_size": 0.5,
        "random_start": False,
        "loss": "ce",
        "restarts": 1,
    },
    **{"gradient": "replay", "draws": 1, "select": "best", "stop_when_broken": True, "norm": "linf", "epsilon": 0.1},
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "images.safetensors", tmp_path / "subsets.json"
    prepare_dataset(DIGITS, 0, images=paths[0], subsets=paths[1])
    return paths


@pytest.fixture
def dataset(files: tuple[Path, Path]) -> Dataset:
    return read_dataset(*files)


def snakemake_of(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(log=[str(folder / "job.log")], threads=1, rule="attack_images", output=["x.parquet"])


def fragile(images: torch.Tensor, noise: object) -> torch.Tensor:
    return (images - 0.5) * 0.9 + 0.5


def linear_classifier(images: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
    return images.flatten(1) @ weights


def test_the_dataset_is_the_same_bytes_every_time(files: tuple[Path, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors", tmp_path / "again.json"
    prepare_dataset(DIGITS, 0, images=again[0], subsets=again[1])
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]
    prepare_dataset(DIGITS, 1, images=again[0], subsets=again[1])
    assert again[1].read_bytes() != files[1].read_bytes()


def test_a_named_list_becomes_a_subset_with_its_hash(tmp_path: Path) -> None:
    paths = tmp_path / "images.safetensors", tmp_path / "subsets.json"
    entry = {"within": "test", "indices": [7, 0, 3], "sha256": index_hash([7, 0, 3])}
    prepare_dataset(DIGITS, 0, images=paths[0], subsets=paths[1], lists={"three": entry})
    dataset, stored = read_dataset(*paths), json.loads(paths[1].read_text())
    test = dataset.subsets["test"]
    assert dataset.take("three")[2] == [test[7], test[0], test[3]]
    assert stored["three"]["sha256"] == index_hash([test[7], test[0], test[3]])
    torch.testing.assert_close(dataset.take("three")[0][1], dataset.take("test")[0][0], rtol=0, atol=0)


def test_an_edited_index_list_is_refused(files: tuple[Path, Path]) -> None:
    text = files[1].read_text()
    first = text.index('"index": [') + len('"index": [')
    files[1].write_text(text[:first] + "1, " + text[first:])
    with pytest.raises(ValueError, match="it was edited"):
        read_dataset(*files)


def beside(folder: Path) -> dict[str, Path]:
    """What a training writes beside its network."""
    return {"losses": folder / "losses.parquet", "record": folder / "training.json", "card": folder / "README.md"}


def test_a_first_training_leaves_a_record_and_a_card(dataset: Dataset, tmp_path: Path) -> None:
    train_classifier(dataset, CLASSIFIER, 7, name="residual", folder=tmp_path, **beside(tmp_path))
    record, losses = json.loads((tmp_path / "training.json").read_text()), pd.read_parquet(tmp_path / "losses.parquet")
    images, labels, _ = dataset.take("train")
    assert record["data_sha256"] == data_hash(images, labels) and record["seed"] == 7
    steps = CLASSIFIER["steps"]
    assert record["passes"] == {"network_forward": steps, "network_backward": steps}
    assert len(losses) == steps and [record["first_loss"], record["last_loss"]] == losses.loss.iloc[[0, -1]].tolist()
    card = (tmp_path / "README.md").read_text()
    assert "made by training on clean images" in card and record["data_sha256"] in card


def test_training_writes_the_same_weights_every_time(dataset: Dataset, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        train_classifier(dataset, CLASSIFIER, 0, name="residual", folder=folder, **beside(folder))
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "losses.parquet", "training.json", "README.md"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_adversarial_images_and_rows_do_not_depend_on_padding(
    dataset: Dataset, tmp_path: Path, batch_size: int
) -> None:
    """Fewer images than a batch, a batch that does not divide them, and one that does give the same judgements."""
    defence = Defence(FunctionPurifier(fragile), linear_classifier, batch_size)
    output, rows = tmp_path / "adversarial.safetensors", tmp_path / "rows.parquet"
    attack_images(dataset, defence, ATTACK, EVALUATION, 1e9, output=output)
    settings = {**EVALUATION, **JUDGED, "images": 5, "draws": 3, "samples": 2}
    purify_images(dataset, defence, {"fixed": output}, settings, rows=rows, samples=tmp_path / "samples.safetensors")
    frame = pd.read_parquet(rows)
    assert frame.attack.value_counts().to_dict() == {"fixed": 6, "clean": 5, "random": 5}
    attacked = frame[frame.attack == "fixed"]
    assert (attacked.size_linf <= 0.1 + 1e-6).all()
    assert frame[frame.attack == "random"].size_linf.max() == pytest.approx(0.1, abs=1e-6)
    moved = attacked[attacked.size_l2 > 0]
    assert moved.compression.to_numpy() == pytest.approx(0.9, rel=1e-4)
    assert all((row.fixed == pd.Series(row.varied)).all() for row in frame.itertuples())


def telling(images: torch.Tensor, noise: Noise) -> torch.Tensor:
    """What it draws and nothing else, so that a label tells which draws were used."""
    drawn = noise.normal(FORWARD) + 10 * noise.normal(REVERSE)
    return drawn + 0 * images


def told(source: NoiseSource, image: int, draw: int) -> int:
    noise = source([image], draw)
    return int((noise.normal(FORWARD) + 10 * noise.normal(REVERSE)).flatten(1)[:, :10].argmax())


def test_rows_are_judged_under_every_knowledge(dataset: Dataset, tmp_path: Path) -> None:
    """First images only, on the draws of each knowledge, and a pool as large as the attack's own."""
    defence = Defence(FunctionPurifier(telling), lambda x: x.flatten(1)[:, :10], 4)
    attack_images(dataset, defence, {**ATTACK, "stop_when_broken": False}, EVALUATION, 1e9, output=tmp_path / "a")
    settings = {**EVALUATION, "images": 5, "draws": 3, "samples": 1, "known_images": 4, "known_draws": 2, "pool": 2}
    rows, attacks = tmp_path / "rows.parquet", {"fixed": tmp_path / "a", "semi": tmp_path / "a"}
    purify_images(
        dataset, defence, attacks, {**settings, "pools": {"semi": 3}, "threats": {}}, rows=rows, samples=tmp_path / "s"
    )
    fresh = NoiseSource(0, "evaluation", dataset.shape)
    known = {name: shared_noise(fresh, knowledge=name, pool=3) for name in KNOWLEDGE}
    for row in pd.read_parquet(rows).itertuples():
        first = row.image in dataset.take("test", 4)[2]
        expected = {
            "fixed": (told(known["both"], row.image, 0),),
            "varied": tuple(told(fresh, row.image, draw) for draw in range(3)),
            "fixed_forward": tuple(told(known["forward"], row.image, draw) for draw in range(2 * first)),
            "fixed_reverse": tuple(told(known["reverse"], row.image, draw) for draw in range(2 * first)),
            "semi": tuple(told(known["semi"], row.image, d) for d in range((3 if row.attack == "semi" else 2) * first)),
        }
        expected |= {f"matched_{name}": expected[name] for name in ("fixed", "varied")}
        for column, labels in expected.items():
            assert tuple(np.atleast_1d(getattr(row, column))) == labels, column


def test_the_control_beside_a_row_is_noise_of_the_size_of_its_perturbation(dataset: Dataset, tmp_path: Path) -> None:
    """A defence that tells how far an image is from the clean one: the control is as far, in another direction."""
    images, _, ids = dataset.take("test", 6)
    clean = dict(zip(ids, images, strict=True))

    def measuring(x: torch.Tensor, noise: Noise) -> torch.Tensor:
        moved = x - torch.stack([clean[i] for i in noise.images])
        size, first = (100 * moved.flatten(1).abs().amax(1)).round(), moved.flatten(1)[:, :128].sum(1)
        return torch.stack([size, first], 1)[:, None, None, :].expand(-1, 1, 16, 2).repeat(1, 1, 1, 8)

    def tell(x: torch.Tensor) -> torch.Tensor:
        return -(torch.arange(11) - x[:, 0, 0, :1]).abs()

    defence, path = Defence(FunctionPurifier(measuring), tell, 4), tmp_path / "a"
    sizes = torch.tensor([0.0, 0.02, 0.04, 0.06, 0.08, 0.1]).view(-1, 1, 1, 1)
    write_images(images + sizes * torch.where(images > 0.5, -1.0, 1.0), ids, path)
    settings = {**EVALUATION, **JUDGED, "images": 6, "draws": 2, "samples": 1}
    rows = tmp_path / "rows.parquet"
    purify_images(dataset, defence, {"fixed": path}, settings, rows=rows, samples=tmp_path / "s")
    frame = pd.read_parquet(rows).set_index("attack")
    assert frame.loc["fixed"].fixed.tolist() == [0, 2, 4, 6, 8, 10]
    assert frame.loc["fixed"].matched_fixed.tolist() == [0, 2, 4, 6, 8, 10]
    assert [list(row) for row in frame.loc["fixed"].matched_varied] == [[k, k] for k in range(0, 12, 2)]
    assert set(frame.loc["clean"].matched_fixed) == {0} and set(frame.loc["random"].matched_fixed) == {10}


def test_every_distinct_image_is_purified_once_per_draw(dataset: Dataset, tmp_path: Path) -> None:
    """Controls and attacks that coincide with other images cost nothing and agree with them."""
    seen: list[tuple[int, bytes, int]] = []

    def counted(x: torch.Tensor, noise: Noise) -> torch.Tensor:
        seen.extend((i, image.numpy().tobytes(), d) for i, image, d in zip(noise.images, x, noise.draws, strict=True))
        return x

    images, _, ids = dataset.take("test", 4)
    write_images(images, ids, tmp_path / "a")
    settings = {**EVALUATION, **JUDGED, "images": 4, "draws": 3, "samples": 1}
    defence = Defence(FunctionPurifier(counted), linear_classifier, 4)
    rows = tmp_path / "rows.parquet"
    purify_images(dataset, defence, {"fixed": tmp_path / "a"}, settings, rows=rows, samples=tmp_path / "s")
    assert len(seen) == 4 * 2 * (1 + 3)  # clean and random, the frozen and three fresh draws
    frame = pd.read_parquet(rows).set_index("attack")
    assert frame.loc["fixed"].fixed.tolist() == frame.loc["clean"].fixed.tolist()


def test_adversarial_images_of_other_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adversarial.safetensors"
    write_images(torch.zeros(3, 1, 4, 4), [5, 6, 7], path)
    assert count_adversarial(path) == 3
    assert len(read_adversarial(path, [5, 6]).adversarial) == 2
    with pytest.raises(ValueError, match="adversarial images of 2 images"):
        read_adversarial(path, [6, 5])


def test_a_failing_job_says_why_in_its_log_and_fails(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_status, job(snakemake_of(tmp_path)):
        raise ValueError("expected steps <= 5, got 6 — lower steps")
    assert exit_status.value.code == 1
    last = (tmp_path / "job.log").read_text().rstrip().splitlines()[-1]
    assert last.endswith("rule attack_images failed: expected steps <= 5, got 6 — lower steps")


def test_a_finished_job_says_so(tmp_path: Path) -> None:
    with job(snakemake_of(tmp_path)):
        logging.getLogger("purification").info("half way")
    assert [line.split(" ", 2)[2] for line in (tmp_path / "job.log").read_text().splitlines()] == ["half way", "done"]


def test_an_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write_text("old", target)
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_tables_for_people_fold_the_interval_into_the_value() -> None:
    table = pd.DataFrame({"purifier": ["a", "b"], "x": [0.5, None], "x_low": [0.4, None], "x_high": [0.6, None]})
    folded = compact(table)
    assert list(folded) == ["purifier", "x"]
    assert folded.x.tolist() == ["0.500 [0.400, 0.600]", ""]
