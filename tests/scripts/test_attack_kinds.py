"""Attacks as configured: draws of the attacker's own, and what each kind refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.noise import Noise
from purification.purifiers import FunctionPurifier
from workflow_scripts.attack_images import attack_images
from workflow_scripts.configuration_kinds import kind_problems
from workflow_scripts.defences import noise_source, read_adversarial

OWN: dict[str, Any] = {
    **{"kind": "own_draws", "knowledge": "none", "images": 8, "steps": 10, "step_size": 0.25, "random_start": False},
    **{"loss": "ce", "gradient": "replay", "draws": 1, "select": "last", "stop_when_broken": False},
    **{"norm": "linf", "epsilon": 0.1, "restarts": 1},
}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test", "norm": "linf", "epsilon": 0.1}


def secret(images: Tensor, noise: Noise) -> Tensor:
    """The noise decides along which direction an image can be attacked."""
    return 0.5 + (images - 0.5) * noise.normal("own")


def classify(purified: Tensor) -> Tensor:
    margin = 0.1 + 0.1 * (purified - 0.5).flatten(1).sum(dim=1)
    return torch.stack([margin, -margin], dim=1)


@pytest.mark.parametrize("kind", ["own_draws", "pgd"])
def test_images_made_against_one_draw_break_it_and_hardly_another(tmp_path: Path, kind: str) -> None:
    """On the own draw the margin is .1 - .01 sum |n|, below zero; on others .1 plus noise of standard deviation .06."""
    dataset = Dataset(
        torch.full((8, 1, 6, 6), 0.5), torch.zeros(8, dtype=torch.long), {"test": list(range(8))}, classes=2
    )
    defence, output = Defence(FunctionPurifier(secret), classify, 4), tmp_path / "x.safetensors"
    attack_images(dataset, defence, {**OWN, "kind": kind}, EVALUATION, 1e9, output=output)
    ids = list(range(8))
    adversarial = read_adversarial(output, ids).adversarial

    def accuracy(role: str, draw: int) -> float:
        predicted = defence.predict(adversarial, ids, noise_source(0, role, dataset), draw)
        return float((predicted == 0).double().mean())

    others = [accuracy(role, draw) for role in ("fixed", "evaluation") for draw in range(8)]
    assert sum(others) / len(others) > 0.8
    assert (accuracy("attack", 0) == 0.0) == (kind == "own_draws")


# --- purifiers that autograd cannot follow, and attacks that depend on another


def digits_of_noise(count: int) -> tuple[Dataset, Tensor]:
    """Images with the labels that a linear classifier of weights (36, 3) gives them."""
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.rand(count, 1, 6, 6, generator=generator), torch.randn(36, 3, generator=generator)
    labels = (images.flatten(1) @ weights).argmax(dim=1)
    return Dataset(images, labels, {"test": list(range(count))}, classes=3), weights


def quantised(images: Tensor, noise: Noise) -> Tensor:
    """As a codec works: without a derivative, and close to the identity."""
    return (32 * images.detach()).round() / 32


KNOWN: dict[str, Any] = {**OWN, "kind": "pgd", "knowledge": "both", "select": "best", "stop_when_broken": True}
QUERIES: dict[str, Any] = {
    **{"kind": "square", "knowledge": "both", "images": 8, "queries": 20, "fraction": 0.8, "rescale": True},
    **{"paired": False, "draws": 1, "stop_when_broken": True, "restarts": 1, "norm": "linf", "epsilon": 0.1},
}
SEQUENCE: dict[str, Any] = {
    **{"kind": "sequence", "knowledge": "both", "images": 8, "norm": "linf", "epsilon": 0.1},
    "stages": [QUERIES, KNOWN],
}
UNFOLLOWED = {
    "pgd": KNOWN,
    "adjoint": {**KNOWN, "gradient": "adjoint"},
    "own draws": OWN,
    "diffattack": {**KNOWN, "kind": "diffattack", "deviation": 1.0},
    "sequence": SEQUENCE,
}


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_a_purifier_without_a_derivative_is_attacked_by_bpda_and_the_file_says_so(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, weights = digits_of_noise(8)
    defence = Defence(FunctionPurifier(quantised), lambda x: x.flatten(1) @ weights, 4)
    attack_images(dataset, defence, UNFOLLOWED[name], EVALUATION, 1e9, output=tmp_path / "x")
    found = read_adversarial(tmp_path / "x", list(range(8)))
    assert found.gradient == "bpda" and caplog.text.count("attacking with gradient bpda instead: expected") == 1
    wrong = defence.predict(found.adversarial, list(range(8)), noise_source(0, "fixed", dataset), 0) != dataset.labels
    assert int(wrong.sum()) >= 4


def test_what_takes_no_gradient_says_none_and_needs_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, weights = digits_of_noise(8)
    defence = Defence(FunctionPurifier(quantised), lambda x: x.flatten(1) @ weights, 4)
    attack_images(dataset, defence, QUERIES, EVALUATION, 1e9, output=tmp_path / "x")
    assert read_adversarial(tmp_path / "x", list(range(8))).gradient == "none" and "bpda" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        (KNOWN, "replay"),
        (SEQUENCE, "replay"),
        ({**SEQUENCE, "stages": [{**KNOWN, "gradient": "bpda"}, KNOWN]}, "bpda, replay"),
    ],
    ids=str,
)
def test_the_file_says_which_gradient_was_used(tmp_path: Path, settings: dict[str, Any], mode: str) -> None:
    dataset, weights = digits_of_noise(8)
    defence = Defence(FunctionPurifier(lambda x, noise: x), lambda x: x.flatten(1) @ weights, 4)
    attack_images(dataset, defence, settings, EVALUATION, 1e9, output=tmp_path / "x")
    assert read_adversarial(tmp_path / "x", list(range(8))).gradient == mode


def test_an_error_of_another_kind_is_no_missing_derivative(tmp_path: Path) -> None:
    dataset, weights = digits_of_noise(8)
    infinite = FunctionPurifier(lambda x, noise: x + (x - x).sqrt())
    defence = Defence(infinite, lambda x: x.flatten(1) @ weights, 4)
    with pytest.raises(ValueError, match="expected a finite loss and gradient"):
        attack_images(dataset, defence, KNOWN, EVALUATION, 1e9, output=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_files_say_which_stage_broke_an_image_and_what_the_attack_saw(tmp_path: Path) -> None:
    dataset, weights = digits_of_noise(12)
    ids = list(range(12))
    defence = Defence(FunctionPurifier(lambda x, noise: x), lambda x: x.flatten(1) @ weights, 4)
    weak = {**KNOWN, "images": 12, "steps": 1, "step_size": 0.2, "epsilon": 0.05}
    strong = {**KNOWN, "images": 12, "steps": 20, "step_size": 0.1, "epsilon": 0.05}
    sequence = {**SEQUENCE, "images": 12, "epsilon": 0.05, "stages": [weak, strong]}
    files = {}
    for name, settings, after in (
        ("weak", weak, None),
        ("sequence", sequence, None),
        ("after", {**strong, "after": "weak"}, tmp_path / "weak"),
        ("sequence after", {**sequence, "after": "weak"}, tmp_path / "weak"),
    ):
        attack_images(dataset, defence, settings, EVALUATION, 1e9, output=tmp_path / name, after=after)
        files[name] = read_adversarial(tmp_path / name, ids)
        wrong = defence.predict(files[name].adversarial, ids, noise_source(0, "fixed", dataset), 0) != dataset.labels
        assert torch.equal(files[name].accuracy, (~wrong).float())
    first, all_wrong = files["weak"].accuracy == 0, files["sequence"].accuracy == 0
    assert 0 < int(first.sum()) < int(all_wrong.sum())
    assert files["weak"].stage.tolist() == [0] * 12
    assert torch.equal(files["sequence"].stage[all_wrong], torch.where(first[all_wrong], 0, 1))
    for name, stage in (("after", 0), ("sequence after", 1)):
        assert torch.equal(files[name].accuracy, files["sequence"].accuracy)
        assert torch.equal(files[name].adversarial[first], files["weak"].adversarial[first])
        assert torch.equal(files[name].stage[all_wrong], torch.where(first[all_wrong], -1, stage))


def config(**entry: Any) -> dict[str, Any]:
    """A configuration with one attack beside the base attack."""
    plain = {"kind": "pgd", "knowledge": "both", "gradient": "replay", "restarts": 1}
    return {
        "attacks": {"fixed": plain, "other": {**plain, **entry}},
        "base_attack": "fixed",
        "threat": {"norm": "linf", "epsilon": 0.1},
        "purifiers": {"ddpm_50": {"kind": "diffusion"}, "gdmp": {"kind": "guided"}},
        "run": {"attacks": {"other": ["ddpm_50"]}},
    }


@pytest.mark.parametrize(
    "entry",
    [{}, {"kind": "own_draws", "knowledge": "none"}, {"kind": "diffattack", "deviation": 1.0}, {"kind": "diffhammer"}],
    ids=str,
)
def test_kinds_that_fit_have_no_problem(entry: dict[str, Any]) -> None:
    assert list(kind_problems(config(**entry))) == []


@pytest.mark.parametrize(
    ("entry", "elsewhere", "said"),
    [
        ({"kind": "own_draws"}, {}, "attacks.other.knowledge: expected none for kind own_draws, got 'both'"),
        ({"kind": "diffattack"}, {}, "attacks.other.deviation: expected a weight with kind diffattack"),
        ({"deviation": 1.0}, {}, "attacks.other.deviation: expected a weight with kind diffattack and none without"),
        (
            {"kind": "diffattack", "deviation": 1.0, "gradient": "bpda"},
            {},
            "attacks.other.gradient: expected replay or",
        ),
        (
            {"kind": "diffattack", "deviation": 1.0},
            {"run": {"attacks": {"other": ["gdmp"]}}},
            "run.attacks.other: expected no guided or resized",
        ),
        (
            {"kind": "diffhammer"},
            {"threat": {"norm": "l1"}},
            "attacks.other.kind: expected another attack than diffhammer",
        ),
        (
            {"kind": "diffhammer", "threat": {"norm": "l1"}},
            {},
            "attacks.other.kind: expected another attack than diffhammer",
        ),
        ({"kind": "diffattack", "deviation": 1.0, "restarts": 2}, {}, "attacks.other.restarts: expected 1, and no"),
        ({"kind": "own_draws", "knowledge": "none", "targets": 2}, {}, "attacks.other.restarts: expected 1, and no"),
    ],
    ids=str,
)
def test_kinds_that_contradict_are_named(entry: dict[str, Any], elsewhere: dict[str, Any], said: str) -> None:
    (found,) = kind_problems({**config(**entry), **elsewhere})
    assert found.startswith(said)
