"""Stage functions called as functions, and what `job` promises around them."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from purification.data import Dataset
from purification.defence import Defence
from purification.purifiers import FunctionPurifier
from workflow_scripts.attack_images import attack_images
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import count_adversarial, read_adversarial, write_adversarial
from workflow_scripts.job import job, replacing, write_text
from workflow_scripts.prepare_dataset import prepare_dataset
from workflow_scripts.purify_images import purify_images
from workflow_scripts.render_tables import compact
from workflow_scripts.train_classifier import run as train_classifier

DIGITS = {"kind": "digits", "size": 16, "splits": {"train": 40, "validation": 10, "test": 10}}
CLASSIFIER = {
    **{"widths": [4], "steps": 3, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup": 1, "shift": 1}
}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test", "norm": "linf", "epsilon": 0.1}
ATTACK = {
    **{
        "kind": "pgd",
        "knowledge": "both",
        "images": 6,
        "steps": 2,
        "step_size": 0.5,
        "random_start": False,
        "loss": "ce",
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


def test_an_edited_index_list_is_refused(files: tuple[Path, Path]) -> None:
    text = files[1].read_text()
    first = text.index('"index": [') + len('"index": [')
    files[1].write_text(text[:first] + "1, " + text[first:])
    with pytest.raises(ValueError, match="it was edited"):
        read_dataset(*files)


def test_training_writes_the_same_weights_every_time(dataset: Dataset, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        train_classifier(dataset, CLASSIFIER, 0, folder=folder, losses=folder / "losses.parquet")
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "losses.parquet"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_adversarial_images_and_rows_do_not_depend_on_padding(
    dataset: Dataset, tmp_path: Path, batch_size: int
) -> None:
    """Fewer images than a batch, a batch that does not divide them, and one that does give the same judgements."""
    defence = Defence(FunctionPurifier(fragile), linear_classifier, batch_size)
    output, rows = tmp_path / "adversarial.safetensors", tmp_path / "rows.parquet"
    attack_images(dataset, defence, ATTACK, EVALUATION, 1e9, output=output)
    settings = {**EVALUATION, "images": 5, "draws": 3, "samples": 2}
    purify_images(dataset, defence, {"fixed": output}, settings, rows=rows, samples=tmp_path / "samples.safetensors")
    frame = pd.read_parquet(rows)
    assert frame.attack.value_counts().to_dict() == {"fixed": 6, "clean": 5, "random": 5}
    attacked = frame[frame.attack == "fixed"]
    assert (attacked.size_linf <= 0.1 + 1e-6).all()
    assert frame[frame.attack == "random"].size_linf.max() == pytest.approx(0.1, abs=1e-6)
    moved = attacked[attacked.size_l2 > 0]
    assert moved.compression.to_numpy() == pytest.approx(0.9, rel=1e-4)
    assert all((row.fixed == pd.Series(row.varied)).all() for row in frame.itertuples())


def test_adversarial_images_of_other_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adversarial.safetensors"
    write_adversarial(torch.zeros(3, 1, 4, 4), [5, 6, 7], path)
    assert count_adversarial(path) == 3
    assert len(read_adversarial(path, [5, 6])) == 2
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
