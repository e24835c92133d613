"""Gradient noise against its closed form, variations of attacks, and the checks of what more of a setting adds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_figures import made_up_rows
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.measure.audit import Sample
from purification.measure.gradient_noise import gradient_noise
from purification.noise import NoiseSource
from purification.purifiers import FunctionPurifier
from purification.reporting.adequacy import adequacy_checks, along, attack_adequacy, stronger_attack
from purification.reporting.rows import Rows
from purification.reporting.self_check import SelfCheck
from workflow_scripts.measure_attack_adequacy import measure_attack_adequacy
from workflow_scripts.variations import head_of, steps_of, varied, with_steps

SHAPE = (1, 16, 16)
REFERENCE = 128
Function = Callable[[Tensor, object], Tensor]


def noisy(strength: float) -> Defence:
    """Gradient of the margin: the weights' difference, every pixel times 1 + strength * normal."""
    weights = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))

    def purify(x: Tensor, noise: object) -> Tensor:
        return x * (1.0 + strength * noise.normal("forward"))  # type: ignore[attr-defined]

    return Defence(FunctionPurifier(purify), lambda x: x.flatten(1) @ weights.to(x.dtype), 4)


def measured(strength: float, draws: list[int]) -> dict[int, dict[str, Tensor]]:
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    sample = Sample(images, torch.zeros(6, dtype=torch.int64), range(6), NoiseSource(0, "audit", SHAPE))
    return gradient_noise(noisy(strength), sample, draws=draws, reference=REFERENCE, loss="margin")


@pytest.mark.parametrize("count", [1, 4, 16])
def test_the_relative_variance_has_its_closed_form(count: int) -> None:
    """s^2 (1 / N + 1 / R) / (1 + s^2 / R), and the cosine (1 + s^2 / N)^-1/2 (1 + s^2 / R)^-1/2."""
    strength = 0.7
    found = measured(strength, [1, 4, 16])[count]
    variance = strength**2
    expected = variance * (1 / count + 1 / REFERENCE) / (1 + variance / REFERENCE)
    assert float(found["relative_variance"].mean()) == pytest.approx(expected, rel=0.08)
    cosine = ((1 + variance / count) * (1 + variance / REFERENCE)) ** -0.5
    assert float(found["cosine"].mean()) == pytest.approx(cosine, rel=0.02)


def test_without_noise_one_draw_is_enough() -> None:
    found = measured(0.0, [1, 2])
    for columns in found.values():
        assert float(columns["relative_variance"].max()) < 1e-12
        torch.testing.assert_close(columns["cosine"], torch.ones(6, dtype=torch.float64))
        assert columns["same_sign"].tolist() == [1.0] * 6


def test_signs_agree_more_often_with_more_draws() -> None:
    found = measured(2.0, [1, 16])
    assert 0.5 < float(found[1]["same_sign"].mean()) < float(found[16]["same_sign"].mean()) - 0.1


def test_attacks_are_judged_on_the_noise_they_know_or_on_fresh_draws(tmp_path: Path) -> None:
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    defence = noisy(0.5)
    labels = defence.logits(images).argmax(dim=1)
    data = Dataset(images, labels, {"test": [0, 1, 2, 3, 4, 5]})
    common = {"kind": "pgd", "loss": "ce", "gradient": "replay", "select": "last", "random_start": False, "restarts": 1}
    shared = {"norm": "linf", "epsilon": 0.05, "steps": 2, "step_size": 1.0, "stop_when_broken": False, "images": 6}
    attacks = {
        "known": {**common, **shared, "knowledge": "both", "draws": 1},
        "fresh": {**common, **shared, "knowledge": "none", "draws": 2},
    }
    variations = [{"attack": "known", "scale": 0.0}, {"attack": "known", "steps": 4}, {"attack": "fresh", "draws": 1}]
    options = {"images": 5, "draws": 3, "variations": variations}
    evaluation = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test"}
    path = tmp_path / "rows.parquet"
    measure_attack_adequacy(data, dict.fromkeys(attacks, defence), attacks, options, evaluation, 1e9, output=path)
    frame = pd.read_parquet(path)
    assert frame.groupby(["attack", "steps", "draws"]).judged.first().to_dict() == {
        **{("fresh", 2, 1): 3, ("known", 2, 1): 1},
        ("known", 4, 1): 1,
    }
    none = frame[frame.scale == 0.0]
    clean = defence.predict(images[:5], range(5), NoiseSource(0, "fixed", SHAPE), 0) == labels[:5]
    assert none.correct.tolist() == clean.double().tolist()
    full = frame[(frame.attack == "known") & (frame.scale == 1.0)]
    assert full.loss.mean() > none.loss.mean() and full.correct.mean() < none.correct.mean()
    assert set(frame[frame.attack == "fresh"].correct.mul(3).round(9)) <= {0.0, 1.0, 2.0, 3.0}


ENTRY = {"steps": 20, "step_size": 0.125, "draws": 10, "random_start": False, "epsilon": 0.1, "restarts": 1}


def test_a_variation_changes_what_it_names_and_keeps_the_length_of_the_way() -> None:
    assert varied(ENTRY, {"attack": "eot"}) == ENTRY
    fewer = varied(ENTRY, {"attack": "eot", "steps": 5, "draws": 2, "scale": 0.5})
    assert fewer == {**ENTRY, "steps": 5, "step_size": 0.5, "draws": 2, "epsilon": 0.05}
    again = varied(ENTRY, {"attack": "eot", "restarts": 3})
    assert again == {**ENTRY, "restarts": 3, "random_start": True}


APGD: dict[str, Any] = {"kind": "apgd", "steps": 10, "loss": "ce", "draws": 1, "restarts": 1, "epsilon": 0.1}
SEQUENCE: dict[str, Any] = {
    "kind": "sequence",
    "epsilon": 0.1,
    "stages": [{"kind": "square", "queries": 5, "restarts": 1}, {**ENTRY, "draws": 1}, {**APGD, "steps": 5}],
}


def test_steps_of_auto_pgd_have_no_size() -> None:
    assert with_steps(APGD, 30) == {**APGD, "steps": 30}
    assert head_of(APGD) == {"steps": 10, "random_start": True, "restarts": 1, "draws": 1}


def test_the_stages_of_a_sequence_keep_their_proportions() -> None:
    assert steps_of(SEQUENCE) == 20
    queries, plain, auto = varied(SEQUENCE, {"steps": 40, "restarts": 2, "scale": 2.0})["stages"]
    assert queries == {"kind": "square", "queries": 5, "restarts": 2}
    assert (plain["steps"], plain["step_size"], plain["restarts"], plain["random_start"]) == (40, 0.0625, 2, True)
    assert (auto["steps"], auto["restarts"]) == (10, 2)
    assert varied(SEQUENCE, {"scale": 2.0})["epsilon"] == 0.2
    assert with_steps(SEQUENCE, 1)["stages"][2]["steps"] == 1, "a quarter of a step is one"
    assert varied(SEQUENCE, {})["stages"] == SEQUENCE["stages"]


def rows_with(correct: dict[int, list[float]], axis: str = "draws", **frames: pd.DataFrame) -> Rows:
    base = {"purifier": "ddpm_150", "attack": "eot", "scale": 1.0, "steps": 9, "restarts": 1, "draws": 1, "judged": 2}
    base["random_start"] = False
    parts = [
        pd.DataFrame({**base, axis: value, "image": range(len(seen)), "correct": seen, "loss": 1.0})
        for value, seen in correct.items()
    ]
    rows = made_up_rows()
    return Rows({**rows.frames, "attack_adequacy": pd.concat(parts), **frames}, rows.settings)


def check_of(rows: Rows) -> tuple[str, SelfCheck]:
    """The only check of a variation."""
    ((name, check),) = ((name, check) for name, check in adequacy_checks(rows).items() if name.startswith("eot"))
    return name, check


@pytest.mark.parametrize("axis", ["steps", "restarts", "draws"])
def test_a_check_fails_when_more_makes_the_attack_stronger(axis: str) -> None:
    same, lower = [1.0, 0.5, 0.0, 0.5] * 10, [0.5, 0.0, 0.0, 0.0] * 10
    name, check = check_of(rows_with({1: lower, 4: same, 8: lower}, axis))
    assert name == f"eot: 8 {axis} against 4"
    assert check.verdict == "fail" and check.seen.startswith("takes +37.5 points")


def test_nothing_found_on_few_images_decides_nothing_and_on_many_it_does() -> None:
    for count, verdict in ((1, "inconclusive"), (40, "inconclusive"), (400, "pass")):
        _, check = check_of(rows_with({4: [1.0, 0.0, 0.0] * count, 8: [1.0, 0.0, 0.0] * count}))
        assert check.verdict == verdict, count
        assert f"{3 * count} images" in check.seen


def attacked(right: list[bool], attack: str) -> pd.DataFrame:
    labels = [3 if each else 4 for each in right]
    columns = {"label": 3, "fixed": labels, "size_linf": 0.1, "own_accuracy": np.nan, "response": 0.5}
    return pd.DataFrame({"purifier": "ddpm_150", "attack": attack, "image": range(len(right)), **columns})


@pytest.mark.parametrize(
    ("images", "taken", "verdict"),
    [(300, 0, "pass"), (300, 1, "pass"), (300, 6, "inconclusive"), (300, 20, "fail"), (60, 0, "inconclusive")],
)
def test_the_stronger_attack_must_take_less_than_the_margin(images: int, taken: int, verdict: str) -> None:
    """.02 of 300 images are six."""
    base = attacked([True] * images, "strong")
    strong = attacked([number >= taken for number in range(images)], "stronger")
    rows = rows_with({1: [1.0]}, purified=pd.concat([base, strong]))
    assert stronger_attack(rows, "ddpm_150").verdict == verdict


def test_a_stronger_attack_that_did_not_run_decides_nothing() -> None:
    rows = rows_with({1: [1.0]}, purified=attacked([True] * 10, "strong"))
    assert stronger_attack(rows, "ddpm_150").verdict == "inconclusive"


def test_only_variations_of_one_setting_are_compared() -> None:
    frame = rows_with({1: [1.0], 4: [1.0]}).frames["attack_adequacy"]
    other = frame.assign(steps=3, draws=8)
    assert [attack for attack, _ in along(pd.concat([frame, other]), "draws")] == ["eot"]
    ((_, group),) = along(pd.concat([frame, other]), "draws")
    assert sorted(group.draws) == [1, 4]
    assert list(along(pd.concat([frame, other]), "steps")) == []
    begun = frame.assign(random_start=True)
    assert [len(group) for _, group in along(pd.concat([frame, begun]), "draws")] == [2], "another start is another set"


def test_the_table_averages_draws_within_images() -> None:
    table = attack_adequacy(rows_with({2: [1.0, 0.5, 0.0, 0.5]}))
    assert table.robust.tolist() == [0.5] and table.robust_n.tolist() == [4]
    assert np.isclose(table.loss.iloc[0], 1.0)
