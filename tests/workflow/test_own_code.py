"""Code of a user from a folder of its own: tracked, attacked without training anything, and named when it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import Project

CLASSIFIER = """
import torch

from scaling import scale


class Linear(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, images):
        return scale * images.flatten(1) @ self.weights


def make_classifier(params, image_shape, num_classes, device):
    generator = torch.Generator().manual_seed(params["seed"])
    return Linear(torch.randn(image_shape[1] * image_shape[2], num_classes, generator=generator))
"""
BROKEN = """
def make_purifier(params, image_shape, device):
    return lambda images, noise: images / (images.amax((1, 2, 3), keepdim=True) - images)
"""
ATTACKED, COMPRESSED = (
    f"results/own/{name}" for name in ("adversarial/transfer/identity.safetensors", "compression/{}.parquet")
)
TARGETS = (ATTACKED, COMPRESSED.format("linear"))
ATTACK = {"attack_images identity transfer"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, a module of the first, and a file that nobody imports."""
    folder = tmp_path_factory.mktemp("of_a_user")
    for name, content in {"networks": CLASSIFIER, "scaling": "scale = 2.0\n", "broken": BROKEN, "notes": ""}.items():
        (folder / f"{name}.py").write_text(content)
    return folder


def own(folder: Path, **params: Any) -> dict[str, Any]:
    """The configuration with the classifier and the purifier of the folder."""
    entry = {"kind": "python", "path": str(folder / "networks.py"), "factory": "make_classifier"}
    broken = {"kind": "python", "path": str(folder / "broken.py"), "factory": "make_purifier", "params": {}}
    return {
        "results": "results/own",
        "classifier": "mine",
        "classifiers": {"mine": {**entry, "params": {"seed": 1, **params}}},
        "purifiers": {"broken": broken},
    }


@pytest.fixture(scope="module")
def attacked(project: Project, folder: Path) -> Project:
    """The project with the undefended classifier attacked, and a purifier measured that needs none."""
    done = project.snakemake("--cores", "2", "--", *TARGETS, config=own(folder))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return project


def append(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(path.read_text() + "\nX = 1\n")

    return edit


CHANGES: dict[str, tuple[Callable[[Path], None], dict[str, Any], set[str]]] = {
    "nothing": (lambda folder: None, {}, set()),
    "touched file": (lambda folder: (folder / "networks.py").touch(), {}, set()),
    "file of the classifier": (append("networks.py"), {}, ATTACK),
    "module it imports": (append("scaling.py"), {}, ATTACK),
    "other file of the folder": (append("notes.py"), {}, set()),
    "file of a purifier that is not asked for": (append("broken.py"), {}, set()),
    "params of the classifier": (lambda folder: None, {"seed": 2}, ATTACK),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_what_used_the_classifier(attacked: Project, folder: Path, change: str) -> None:
    edit, params, expected = CHANGES[change]
    kept = {path: path.read_bytes() for path in folder.glob("*.py")}
    try:
        edit(folder)
        assert attacked.planned(own(folder, **params), TARGETS) == expected
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_nothing_is_trained_for_a_classifier_of_ones_own(project: Project, folder: Path) -> None:
    planned = project.planned(own(folder))
    assert "train_classifier" not in planned
    assert {"train_denoiser unet", "purify_images linear", "audit_gradients linear"} <= planned
    assert "train_classifier" in project.planned({"results": "results/other"})


def test_a_purifier_that_fails_in_a_job_is_named_in_one_sentence(attacked: Project, folder: Path) -> None:
    done = attacked.snakemake("--cores", "1", "--", COMPRESSED.format("broken"), config=own(folder))
    sentence = f"{folder / 'broken.py'}, make_purifier: expected finite values, got NaN or infinity for "
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
    log = attacked.folder / "results/own/logs/measure_compression/broken.log"
    assert f"rule measure_compression failed: {sentence}" in log.read_text().rstrip().splitlines()[-1]
    assert not (attacked.folder / COMPRESSED.format("broken")).exists()
