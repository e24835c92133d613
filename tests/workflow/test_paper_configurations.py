"""The configurations with the paper's settings: refused without their files, planned with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.conftest import Project, copy_project
from workflow_scripts.input_files import places_used
from workflow_scripts.retrieve_files import REGISTRY, accepted, needed, read_registry

NAMES = ("cifar10", "imagenet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("paper"))


def planned(folder: Path, name: str) -> tuple[int, str]:
    done = Project(folder, Path(f"config/{name}.yaml")).snakemake("-n", "-q", "rules", "--", "results/tables")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_knows_every_file(name: str) -> None:
    config = accepted([f"config/{name}.yaml"])
    sources = read_registry(REGISTRY, Path("nowhere"))
    assert {source.path for source in needed(config, sources)} and len(list(places_used(config))) == 3


@pytest.mark.parametrize("name", NAMES)
def test_without_its_files_the_plan_says_how_to_get_them(folder: Path, name: str) -> None:
    status, said = planned(folder, name)
    assert status != 0 and "Traceback" not in said
    lines = [line for line in said.splitlines() if "correct the path, or `make retrieve`" in line]
    assert len(lines) == 3, said[-3000:]


@pytest.mark.parametrize("name", NAMES)
def test_with_its_files_everything_is_planned(folder: Path, name: str) -> None:
    for _, path in places_used(accepted([str(folder / "config" / f"{name}.yaml")])):
        place = folder / path
        if place.suffix:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)
    status, said = planned(folder, name)
    assert status == 0, said[-3000:]
    assert {"convert_classifier", "convert_denoiser", "fit_null_model", "attack_images"} <= set(
        said.replace(",", " ").split()
    )
    assert not {"train_classifier", "train_denoiser"} & set(said.replace(",", " ").split())
