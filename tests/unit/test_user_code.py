"""Files of users: what belongs to them, which module is imported, and what every call refuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from purification.defence import Defence
from purification.errors import NoDerivative
from purification.noise import NoiseSource
from purification.purifiers import make_purifier
from purification.sources import defined_names, siblings, source_files
from purification.user_code import UserFunction, are_probabilities, forget_siblings, own_classifier, own_purifier

CPU, SHAPE = torch.device("cpu"), (1, 4, 4)
FACTORY = "def make_purifier(params, image_shape, device):\n    return lambda images, noise: "


@pytest.fixture(autouse=True)
def own_imports() -> Iterator[None]:
    """Forget what a test imported and where from."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(("/tmp", os.environ.get("TMPDIR", "/tmp"))):
            del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    """Write files (`__` is a slash) and return the first."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / f"{next(iter(files))}.py"


def entry(path: Path, factory: str = "make_purifier", **params: Any) -> dict[str, Any]:
    return {"kind": "python", "path": str(path), "factory": factory, "params": params}


def purifier(path: Path) -> UserFunction:
    return own_purifier(entry(path), SHAPE, CPU)


def call(path: Path, images: torch.Tensor | None = None) -> torch.Tensor:
    return purifier(path)(torch.rand(2, *SHAPE) if images is None else images, None)


# --- which files


def test_a_file_and_what_it_imports_beside_it_belong_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        mine="import numpy, torch.nn\nimport first\nfrom package import part\n",
        first="def f():\n    import second.deep as s\n    return s\n",
        second="import mine\n",
        package__init="",
        package__part="",
        package__other="",
        stranger="",
        torch="",
    )
    (tmp_path / "package" / "init.py").rename(tmp_path / "package" / "__init__.py")
    names = ["first", "package/__init__", "package/other", "package/part", "second", "torch"]
    assert source_files(path) == [path, *(tmp_path / f"{name}.py" for name in names)]
    assert set(siblings(path)) == {"first", "package", "second", "torch"}


def test_the_projects_own_packages_are_no_siblings(tmp_path: Path) -> None:
    path = write(tmp_path, mine="import purification.noise, workflow_scripts\n", purification="", workflow_scripts="")
    assert source_files(path) == [path]


@pytest.mark.parametrize("content", ["def (", "\0", None])
def test_a_file_that_cannot_be_read_is_still_itself(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    assert source_files(path) == [path]


def test_relative_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, mine="import layers\n", layers="")
    monkeypatch.chdir(tmp_path)
    assert source_files(Path("mine.py")) == [Path("mine.py"), Path("layers.py")]


def test_names_a_file_defines_are_read_without_running_it(tmp_path: Path) -> None:
    path = write(tmp_path, mine='"""Doc."""\nimport a.b, c as d\nx = y = 1\nz: int = 2\ndef f(): w = 1\nclass G: ...\n')
    assert defined_names(path) == {"a.b", "d", "x", "y", "z", "f", "G"}
    path.write_text("if 1:\n    def f():\n        inner = 1\n")
    assert defined_names(path) == {"f"}
    path.write_text("from a import *\n")
    assert defined_names(path) == {"*"}


# --- which module


def test_a_module_beside_the_file_is_imported_also_later(tmp_path: Path) -> None:
    late = f"{FACTORY}__import__('layers_late').double(images)\n"
    write(tmp_path, mine=late, layers_late="def double(x): return 2 * x\n")
    images = torch.rand(2, *SHAPE)
    assert torch.equal(call(tmp_path / "mine.py", images), 2 * images)


def test_the_file_and_what_is_beside_it_are_imported_anew(tmp_path: Path) -> None:
    """What one purifier keeps there, the next does not know once the modules are forgotten."""
    counting = "def count():\n    calls.append(1)\n    return len(calls)\n"
    text = f"import kept\nfrom box import inner\n{FACTORY}images * kept.count() * inner.count()\n"
    write(tmp_path, mine=text, kept=f"calls = []\n{counting}", box__init="", box__inner=f"calls = []\n{counting}")
    (tmp_path / "box" / "init.py").rename(tmp_path / "box" / "__init__.py")
    images = torch.rand(2, *SHAPE)
    for _ in range(2):
        forget_siblings(tmp_path / "mine.py")
        assert torch.equal(call(tmp_path / "mine.py", images), images)
    assert torch.equal(call(tmp_path / "mine.py", images), 4 * images)


def test_two_folders_with_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    text = f"from layers import scale\n{FACTORY}scale * images\n"
    one = write(tmp_path / "one", mine=text, layers="scale = 2\n")
    two = write(tmp_path / "two", mine=text, layers="scale = 3\n")
    images = torch.rand(2, *SHAPE)
    assert torch.equal(call(one, images), 2 * images)
    with pytest.raises(ValueError, match=r"expected its module 'layers' from .*two/layers.py, got .*one/layers.py"):
        purifier(two)


@pytest.mark.parametrize("name", ["json", "queue", "sys"])
def test_a_module_named_like_an_installed_one_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, mine=f"import {name}\n{FACTORY}images\n", **{name: ""})
    with pytest.raises(ValueError, match=f"expected its module '{name}' from .* — rename {name}.py"):
        purifier(path)


def test_errors_name_the_line_of_a_file_given_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, mine=f"{FACTORY}images.nonsense\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^mine.py, make_purifier: expected .* got AttributeError in line 2: "):
        call(Path("mine.py"))


# --- what every call refuses

BAD = {
    "images.flatten(1)": r"mine.py, make_purifier: expected shape \(2, 1, 4, 4\), got \(2, 16\)",
    "images[:1]": r"expected shape \(2, 1, 4, 4\), got \(1, 1, 4, 4\)",
    "images.double()": "mine.py, make_purifier: expected torch.float32 as the images, got torch.float64",
    "images / 0": "mine.py, make_purifier: expected finite values, got NaN or infinity for 2 of 2 images",
    "images.to('meta')": "mine.py, make_purifier: expected the images' device cpu, got meta",
    "None": "mine.py, make_purifier: expected a tensor, got NoneType",
    "images.add_(1)": "mine.py, make_purifier: expected the images to be left as they are",
    "images + missing": "mine.py, make_purifier: expected it to run, got NameError in line 2: ",
}


@pytest.mark.parametrize("body", BAD)
def test_a_bad_result_stops_the_purification_and_names_the_file(tmp_path: Path, body: str) -> None:
    path = write(tmp_path, mine=f"{FACTORY}{body}\n")
    made = make_purifier(entry(path), None, SHAPE, CPU)
    defence = Defence(made, lambda images: images.flatten(1), 2)
    with pytest.raises(ValueError, match=BAD[body]):
        defence.purify(torch.rand(2, *SHAPE), [0, 1], NoiseSource(0, "fixed", SHAPE), 0)


def test_a_gradient_is_asked_for_only_where_one_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, mine=f"{FACTORY}images.detach()\n")
    images = torch.rand(2, *SHAPE, requires_grad=True)
    with torch.no_grad():
        assert call(path, images).shape == images.shape
    with pytest.raises(NoDerivative, match=r"mine.py, make_purifier: expected a result that depends differentiably"):
        call(path, images)


def test_numpy_inside_a_purifier_is_a_missing_derivative_and_in_evaluation_no_fault(tmp_path: Path) -> None:
    """As libraries of image formats use it; other errors stay what they are."""
    path = write(tmp_path, mine=f"import torch\n{FACTORY}torch.tensor(images.numpy().round())\n")
    images = torch.rand(2, *SHAPE, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(call(path, images.detach()), images.round())
    with pytest.raises(NoDerivative, match=r"mine.py, make_purifier: .* Can't call numpy\(\)"):
        call(path, images)
    other = write(tmp_path, other=f"{FACTORY}images.nonsense\n")
    with pytest.raises(ValueError, match="AttributeError") as error:
        call(other, images)
    assert not isinstance(error.value, NoDerivative)


def test_a_classifier_without_a_derivative_is_no_purifier_without_one(tmp_path: Path) -> None:
    """No approximate gradient of the purifier mends it."""
    path = write(tmp_path, mine=CLASSIFIER.replace("images.flatten(1)", "images.detach().flatten(1)"))
    classifier = own_classifier(entry(path, "make_classifier"), SHAPE, 3, CPU)
    with pytest.raises(ValueError, match="depends differentiably on the images") as error:
        classifier(torch.rand(2, *SHAPE, requires_grad=True))
    assert not isinstance(error.value, NoDerivative)


CLASSIFIER = """
import torch
class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = torch.nn.Linear(16, classes)
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, images):
        return self.drop(self.linear(images.flatten(1)))
def make_classifier(params, image_shape, num_classes, device):
    assert image_shape == (1, 4, 4) and device.type == "cpu"
    return Net(num_classes + params.get("more", 0))
"""


def test_a_network_is_frozen_evaluated_and_cast_to_the_type_of_the_images(tmp_path: Path) -> None:
    path = write(tmp_path, mine=CLASSIFIER)
    classifier = own_classifier(entry(path, "make_classifier"), SHAPE, 3, CPU)
    images = torch.rand(2, *SHAPE)
    assert torch.equal(classifier(images), classifier(images)) and not classifier(images).requires_grad
    assert classifier(images.double()).dtype == torch.float64
    leaf = images.requires_grad_()
    assert torch.autograd.grad(classifier(leaf).sum(), leaf)[0].any()


def test_logits_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, mine=CLASSIFIER)
    classifier = own_classifier(entry(path, "make_classifier", more=1), SHAPE, 3, CPU)
    defence = Defence(make_purifier({"kind": "identity"}, None, SHAPE, CPU), classifier, 2)
    with pytest.raises(ValueError, match=r"mine.py, make_classifier: expected shape \(2, 3\), got \(2, 4\)"):
        defence.predict(torch.rand(2, *SHAPE), [0, 1], NoiseSource(0, "fixed", SHAPE), 0)


LOGITS = 3 * torch.linspace(-1, 1, 40).sin().view(10, 4).roll(1, dims=0)
ROWS: dict[str, tuple[torch.Tensor, bool]] = {
    "softmax": (LOGITS.softmax(dim=1), True),
    "softmax in sixteen bits": (LOGITS.bfloat16().softmax(dim=1).float(), True),
    "softmax of two classes": (LOGITS[:, :2].softmax(dim=1), True),
    "certain": (torch.eye(4), True),
    "logits": (LOGITS, False),
    "logits that are not negative": (LOGITS.relu() + 0.25, False),
    "log-probabilities": (LOGITS.log_softmax(dim=1), False),
    "sigmoids": (LOGITS.sigmoid(), False),
    "the same for every image": (torch.full((10, 4), 0.25), False),
    "one image": (LOGITS[:1].softmax(dim=1).expand(10, 4), False),
    "zeros": (torch.zeros(10, 4), False),
    "one row that is none": (torch.cat([LOGITS.softmax(dim=1), torch.ones(1, 4)]), False),
}


@pytest.mark.parametrize("name", ROWS)
def test_probabilities_are_told_from_logits(name: str) -> None:
    rows, expected = ROWS[name]
    assert are_probabilities(rows) == expected


def test_a_classifier_that_returns_probabilities_is_refused_in_its_first_call(tmp_path: Path) -> None:
    path = write(tmp_path, mine=CLASSIFIER.replace("images.flatten(1))", "images.flatten(1)).softmax(dim=1)"))
    classifier = own_classifier(entry(path, "make_classifier"), SHAPE, 3, CPU)
    with pytest.raises(ValueError, match=r"mine.py, make_classifier: expected logits, got probabilities .* softmax"):
        classifier(torch.rand(8, *SHAPE))


def test_a_factory_must_return_a_function(tmp_path: Path) -> None:
    path = write(tmp_path, mine="def make_purifier(params, image_shape, device): pass\n")
    with pytest.raises(ValueError, match=r"mine.py, make_purifier: expected a function, got NoneType"):
        purifier(path)
