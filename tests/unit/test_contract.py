"""A table of mistakes in a user's file: each is found by its check and by no other, in plain words; good files pass."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from purification.contract import FAILED, NOTE, Finding, check
from purification.contract.trial import random_state

ROOT = Path(__file__).parents[2]
SHAPE, CLASSES = (1, 8, 8), 5
HEAD = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
"""


@pytest.fixture(autouse=True)
def _same_initial_weights() -> None:
    """Layers of the files below are initialised from torch's global state."""
    torch.manual_seed(0)


def purifier(body: str, before: str = "") -> str:
    """A file whose `purify` has this body, after statements of the factory."""
    lines = [HEAD, "def make_purifier(params, image_shape, device):"]
    lines += [textwrap.indent(before, "    "), "    def purify(images, noise):"]
    return "\n".join([*lines, textwrap.indent(body, "        "), "    return purify"])


def classifier(body: str, before: str = "") -> str:
    """A file whose classifier has this body; `weights` (64, 5) are its linear map."""
    lines = [HEAD, "def make_classifier(params, image_shape, num_classes, device):"]
    lines += ["    weights = torch.linspace(-1, 1, 64 * num_classes, device=device).view(64, num_classes).sin()"]
    lines += [textwrap.indent(before, "    "), "    def classify(images):"]
    return "\n".join([*lines, textwrap.indent(body, "        "), "    return classify"])


def found(tmp_path: Path, source: str, kind: str, params: dict[str, Any] | None = None) -> list[Finding]:
    path = tmp_path / "mine.py"
    path.write_text(source)
    entry = {"path": str(path), "factory": f"make_{kind}", "params": params or {}}
    return check(kind, entry, SHAPE, CLASSES)


IDENTITY = """
class Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4
    @staticmethod
    def backward(ctx, gradient):
        return gradient
"""
# Mistake -> (file, check that must fail, what its sentence says).
PURIFIERS: dict[str, tuple[str, str, str]] = {
    "not python": ("def make_purifier(:\n", "loads", "got SyntaxError.*: invalid syntax"),
    "no factory": ("def make_purifiers(): pass\n", "loads", "expected a function 'make_purifier' in .*, found none"),
    "missing package": ("import a_package_of_nobody\n", "loads", "got ModuleNotFoundError in line 1: No module named"),
    "missing param": (purifier("return images", "params['sigma']"), "loads", "got KeyError in line 8: 'sigma'"),
    "factory returns no function": (
        "def make_purifier(params, image_shape, device): return 3\n",
        "loads",
        "expected a function, got int",
    ),
    "raises": (purifier("return images @ images[0, 0, :3]"), "runs", "got RuntimeError in line 10: mat1 and mat2"),
    "wrong shape": (purifier("return images.flatten(1)"), "shape", r"expected shape \(6, 1, 8, 8\), got \(6, 64\)"),
    "array": (purifier("return images.numpy()"), "shape", "expected a tensor, got ndarray"),
    "float64": (purifier("return images.double()"), "dtype", "expected torch.float32 .*, got torch.float64"),
    "0 / 0": (purifier("return images / images.amax((1, 2, 3), True)"), "finite", "NaN or infinity for 1 of 6 images"),
    "NaN outside the box": (purifier("return images.sqrt()"), "finite", "of 6 images slightly outside"),
    "forgot to divide by 255": (purifier("return 255 * images"), "range", "got 0 to 255 — undo the scaling"),
    "left in [-1, 1]": (purifier("return 2 * images - 1"), "range", "got -1 to 1 — undo the scaling"),
    "no_grad": (
        purifier("with torch.no_grad():\n    return 0.9 * images"),
        "differentiable",
        "got one without a gradient .* no .detach",
    ),
    "detached": (purifier("return images.detach() * 0.9"), "differentiable", "got one without a gradient"),
    "numpy": (
        purifier("return torch.from_numpy(np.tanh(images.numpy()))"),
        "differentiable",
        r"Can't call numpy\(\) on Tensor that requires grad",
    ),
    "detached with weights": (
        purifier(
            "return network(images.detach())",
            "network = nn.Conv2d(1, 1, 1, device=device)\nnn.init.constant_(network.weight, 0.5)",
        ),
        "differentiable",
        "got one without a gradient",
    ),
    "rounding": (purifier("return (16 * images).round() / 16"), "differentiable", "zero everywhere: it rounds"),
    "constant": (purifier("return 0 * images + 0.5"), "differentiable", "zero everywhere: it ignores the images"),
    "infinite slope at black": (
        purifier("return images.clamp(min=0).sqrt()"),
        "differentiable",
        "NaN or infinity for 1 of 6 images",
    ),
    "straight through": (
        purifier("return images + (images.mul(16).round().div(16) - images).detach()"),
        "gradient",
        r"differs from it by \d+ %",
    ),
    "straight-through clamp": (
        purifier("noisy = images + noise.normal('forward')\nreturn noisy + (noisy.clamp(0, 1) - noisy).detach()"),
        "gradient",
        "differs from it by",
    ),
    "straight-through clamp of the images": (
        purifier("return images + (images.clamp(0, 1) - images).detach()"),
        "gradient",
        "differs from it by",
    ),
    "infinite slope outside the box": (
        purifier("return torch.where(images >= 0, images**1.5, 0 * images)"),
        "gradient",
        "expected a finite gradient slightly outside",
    ),
    "backward of its own": (purifier("return Pass.apply(images)", IDENTITY), "gradient", "replace no backward pass"),
    "part without a gradient": (
        purifier("with torch.no_grad():\n    part = 0.05 * images.square()\nreturn images + part"),
        "gradient",
        "differs from it by",
    ),
    "torch.randn": (
        purifier("return images + 0.1 * torch.randn_like(images)"),
        "repeatable",
        "draws random numbers of its own .* take them from `noise`",
    ),
    "numpy random": (
        purifier("return images + 0.1 * float(np.random.rand())"),
        "repeatable",
        "draws random numbers of its own",
    ),
    "memory": (
        purifier("calls.append(1)\nreturn images + 0.01 * len(calls)", "calls = []"),
        "repeatable",
        "keeps something between calls",
    ),
    "generator of its own": (
        purifier(
            "return images + 0.1 * torch.rand(images.shape, generator=g).to(images)",
            "g = torch.Generator().manual_seed(0)",
        ),
        "repeatable",
        "a generator of its own",
    ),
    "mean over the batch": (purifier("return images - 0.1 * images.mean(0)"), "batch", "take no mean over the batch"),
    "batch statistics": (
        purifier("return F.batch_norm(images, None, None, training=True).sigmoid()"),
        "batch",
        "in other company",
    ),
    "one noise for all": (
        purifier("return images + 0.1 * noise.normal('forward')[:1]"),
        "batch",
        "depend on no other image",
    ),
    "no single image": (purifier("return images.squeeze().unsqueeze(1)"), "batch", "also one image alone; .*shape"),
    "BatchNorm in training": (
        purifier("return norm(images).sigmoid()", "norm = nn.BatchNorm2d(1, device=device)"),
        "evaluation",
        "BatchNorm2d in training mode — call .eval",
    ),
    "in place": (purifier("images += 0.1\nreturn images"), "input", "got them changed in place"),
    "in place through numpy": (purifier("images.numpy()[:] *= 0.5\nreturn images * 1"), "input", "changed in place"),
    "cuda": (purifier("return images.to('cuda')"), "device", "CUDA"),
    "cuda in the factory": (purifier("return images", "torch.ones(3).cuda()"), "device", "CUDA"),
    "tensor on the CPU": (
        purifier("return images * torch.full((8, 8), 0.9)"),
        "device",
        "make them with device=device",
    ),
    "moved to the CPU": (purifier("return images.cpu() * 0.9"), "device", "make them with device=device"),
    "made on the CPU": (purifier("return torch.eye(8) @ images"), "device", "make them with device=device"),
}
CLASSIFIERS: dict[str, tuple[str, str, str]] = {
    "too few classes": (
        classifier("return images.flatten(1) @ weights[:, :4]"),
        "shape",
        r"expected shape \(6, 5\), got \(6, 4\)",
    ),
    "labels": (classifier("return (images.flatten(1) @ weights).argmax(1)"), "shape", r"got \(6,\)"),
    "NaN": (classifier("return (images / images.std()).log().flatten(1) @ weights"), "finite", "NaN or infinity"),
    "dropout": (
        classifier("return F.dropout(images, 0.5).flatten(1) @ weights"),
        "repeatable",
        "the same images, .* switch dropout off",
    ),
    "dropout layer": (
        classifier("return drop(images).flatten(1) @ weights", "drop = nn.Dropout(0.5)"),
        "evaluation",
        "Dropout in training mode",
    ),
    "standardised over the batch": (
        classifier("return ((images - images.mean()) / images.std()).flatten(1) @ weights"),
        "batch",
        "in other company",
    ),
    "normalised in place": (
        classifier("images.sub_(0.5)\nreturn images.flatten(1) @ weights"),
        "input",
        "got them changed in place",
    ),
    "one-hot": (
        classifier("return F.one_hot((images.flatten(1) @ weights).argmax(1), 5).to(images.dtype)"),
        "differentiable",
        "without a gradient",
    ),
    "probabilities": (
        classifier("return (images.flatten(1) @ weights.to(images.dtype)).softmax(dim=1)"),
        "logits",
        "expected logits, got probabilities .* return the values before the softmax",
    ),
    "sharp probabilities": (
        classifier("return (30 * (images - 0.5).flatten(1) @ weights.to(images.dtype)).softmax(dim=1)"),
        "logits",
        "expected logits, got probabilities",
    ),
    "quantised": (
        classifier("return (images.mul(8).floor() + images - images.detach()).flatten(1) @ weights.to(images.dtype)"),
        "gradient",
        "differs from it by",
    ),
    "weights on the CPU": (classifier("return images.flatten(1) @ torch.ones(64, 5)"), "device", "device=device"),
}
CASES = [("purifier", name) for name in PURIFIERS] + [("classifier", name) for name in CLASSIFIERS]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}: {name}" for kind, name in CASES])
def test_a_mistake_is_found_by_its_check_and_by_no_other(tmp_path: Path, kind: str, name: str) -> None:
    source, expected, sentence = {"purifier": PURIFIERS, "classifier": CLASSIFIERS}[kind][name]
    findings = found(tmp_path, source, kind)
    failed = [finding for finding in findings if finding.verdict == FAILED]
    assert [finding.check for finding in failed] == [expected], findings
    assert re.search(sentence, failed[0].sentence), failed[0].sentence
    assert "\n" not in failed[0].sentence


DIFFUSION = purifier(
    """
state = 2 * images - 1 + 0.3 * noise.normal("forward")
for step in range(3):
    state = state - 0.2 * network(state) + 0.05 * noise.normal("reverse", step)
return (state + 1) / 2
""",
    """
network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
generator = torch.Generator().manual_seed(0)
for parameter in network.parameters():
    parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
network = network.to(device).eval().requires_grad_(False)
""",
)
GUIDED = purifier(
    """
with torch.enable_grad():
    leaf = images if images.requires_grad else images.detach().requires_grad_()
    energy = (leaf - leaf.roll(1, -1)).square().sum()
    (slope,) = torch.autograd.grad(energy, leaf, create_graph=True)
return images - 0.1 * slope
"""
)
MODULE = f"""{HEAD}
class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, classes)

    def forward(self, images):
        return self.head(self.drop(F.relu(self.norm(self.convolution(images))).mean((2, 3))))


def make_classifier(params, image_shape, num_classes, device):
    torch.manual_seed(0)
    return Small(num_classes)
"""
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
GOOD: dict[str, tuple[str, str, set[str]]] = {
    "readme": (README, "purifier", {"range"}),
    "identity": (purifier("return images"), "purifier", set()),
    "clamped": (purifier("return (images + 0.3 * noise.normal('forward')).clamp(0, 1)"), "purifier", set()),
    "empty cell": (
        purifier("return images if True else later", "def unused(): nonlocal later\nlater = 1\ndel later"),
        "purifier",
        set(),
    ),
    "median": (purifier("return F.unfold(images, 3, padding=1).median(1).values.view_as(images)"), "purifier", set()),
    "guided": (GUIDED, "purifier", set()),
    "diffusion in float32 only": (DIFFUSION, "purifier", {"range", "float64"}),
    "diffusion cast inside": (
        DIFFUSION.replace("network(state)", "network(state.float()).to(images.dtype)"),
        "purifier",
        {"range"},
    ),
    "reads values": (purifier("return images * (0.9 if float(images.new_ones(1)) else 1)"), "purifier", set()),
    "forgotten steps": (
        purifier("return images + 1e-8 * sum(noise.normal('reverse') for _ in range(3))"),
        "purifier",
        {"noise"},
    ),
    "useless noise": (purifier("return images + 0 * noise.normal('forward')"), "purifier", {"noise"}),
    "network": (MODULE, "classifier", set()),
    "linear": (classifier("return images.flatten(1) @ weights.to(images.dtype)"), "classifier", set()),
    "log-probabilities": (
        classifier("return (images.flatten(1) @ weights.to(images.dtype)).log_softmax(dim=1)"),
        "classifier",
        set(),
    ),
    "no negative logits": (
        classifier("return (images.flatten(1) @ weights.to(images.dtype)).exp()"),
        "classifier",
        set(),
    ),
    "not frozen": (
        classifier("return linear(images.flatten(1))", "linear = nn.Linear(64, 5, device=device)"),
        "classifier",
        {"evaluation", "float64"},
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_passes_with_the_notes_it_deserves(tmp_path: Path, name: str) -> None:
    source, kind, notes = GOOD[name]
    findings = found(tmp_path, source, kind, {"sigma": 0.1})
    assert [finding for finding in findings if finding.verdict == FAILED] == []
    assert {finding.check for finding in findings if finding.verdict == NOTE} == notes
    assert len(findings) == (15 if kind == "purifier" else 14)


def test_checking_leaves_the_globalrandom_state_alone(tmp_path: Path) -> None:
    source = purifier("return images + 0.1 * torch.randn_like(images) + float(np.random.rand() + random.random())")
    before = [str(part) for part in random_state()]
    found(tmp_path, "import random\n" + source, "purifier")
    assert [str(part) for part in random_state()] == before


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return images", "draws no noise: a deterministic purifier"),
        ("return images + noise.normal('forward') + noise.uniform('mine', 2)", "'forward' x 1, 'mine' x 1"),
        ("return images + sum(noise.normal('reverse', i) for i in range(4))", "random: draws 'reverse' x 4"),
    ],
)
def test_which_noise_a_purifier_draws_is_found_out(tmp_path: Path, body: str, sentence: str) -> None:
    (finding,) = (f for f in found(tmp_path, purifier(body), "purifier") if f.check == "noise")
    assert sentence in finding.sentence
