"""Protocols on a defence of known robustness: ours report it, the flawed ones what chance makes of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import pytest
import torch

from purification.noise import NoiseSource
from purification.protocol_control import SHAPE, Control, bench, fake_defence, flawed_ones, offered, predicted

ROOT = Path(__file__).parents[2]
SMALL = Control(
    seed=1, probability=0.85, images=150, epsilon=8 / 255, steps=4, draws=3, fresh=20, worst_of=10, votes=9, pool=4,
    iterates=(5, 10, 20), candidates=3,
)  # fmt: skip


def error_of(each: pd.Series) -> float:
    """Distance to the prediction in standard errors of a proportion of that many images."""
    spread = max((each.predicted * (1 - each.predicted) / each.n) ** 0.5, 1 / each.n)
    return float(abs(each.reported - each.predicted) / spread)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    on, expected = bench(SMALL), predicted(SMALL)
    return pd.DataFrame(
        {
            "protocol": each.protocol,
            "flawed": each.flawed,
            "estimand": each.estimand,
            "truth": each.truth,
            "reported": each.reported.value,
            "n": each.reported.n,
            "predicted": expected.get(each.protocol, each.truth),
        }
        for each in [*offered(on), *flawed_ones(on)]
    )


def test_the_defence_is_right_with_its_probability_on_any_input_and_its_gradient_is_useless() -> None:
    defence, classes = fake_defence(0.85, 100)
    labels, ids = torch.arange(1000) % 10, list(range(1000))
    source = NoiseSource(0, "evaluation", SHAPE)
    clean = classes[labels]
    moved = (clean + 0.1 * torch.ones(SHAPE)).clamp(0, 1)
    right = [defence.predict(x, ids, source, 0) == labels for x in (clean, moved)]
    assert torch.equal(*right) and float(right[0].float().mean()) == pytest.approx(0.85, abs=0.04)
    slope = defence.loss_gradient(clean, labels, ids, source, 0, loss="ce", mode="replay", kept_steps=0)[1]
    assert bool((slope.flatten(1)[:, :15].abs().amax(dim=1) > 0).all()), "an attack has something to follow"


def test_every_protocol_we_offer_reports_the_truth(table: pd.DataFrame) -> None:
    ours = table[~table.flawed]
    assert (ours.truth[ours.estimand.isin(["avg", "wor_1", "mv_1", "fixed", "semi", "forward"])] == 0.85).all()
    assert len(ours) == 18 and all(error_of(each) < 3.5 for _, each in ours.iterrows()), ours


def test_flawed_protocols_report_what_chance_makes_of_it(table: pd.DataFrame) -> None:
    flawed = table[table.flawed].set_index("protocol")
    assert all(error_of(each) < 3.5 for _, each in flawed.iterrows()), flawed
    assert flawed.reported["single-draw selection, as AutoAttack rand"] < 0.85 - 0.1
    assert flawed.reported["minimum of noisy estimates, as ADDT's fixed AutoAttack"] < 0.85 - 0.04
    assert flawed.reported["stop at the first success, 20 iterates"] < 0.15


def test_what_chance_makes_of_it_is_what_was_published_about_such_protocols() -> None:
    """p = .85: .85^3, the mean of the least of three means of 20 draws, .85^10, .85^20 and .85^100."""
    found = predicted(Control(**{**vars(SMALL), "iterates": (10, 20, 100)}))
    assert found["single-draw selection, as AutoAttack rand"] == pytest.approx(0.614, abs=1e-3)
    assert found["minimum of noisy estimates, as ADDT's fixed AutoAttack"] == pytest.approx(0.783, abs=5e-3)
    stopped = [found[f"stop at the first success, {count} iterates"] for count in (10, 20, 100)]
    assert stopped == pytest.approx([0.1969, 0.0388, 0.0], abs=1e-3)
    assert found["the same with the majority of 10 draws, 100 iterates"] == pytest.approx(0.37, abs=0.01)


def test_flawed_protocols_are_called_by_this_experiment_only() -> None:
    users = []
    for path in [*ROOT.glob("purification/**/*.py"), *ROOT.glob("workflow_scripts/*.py"), *ROOT.glob("rules/*.smk")]:
        if path.suffix == ".smk":
            users += [path.name] if "flawed_protocols" in path.read_text() else []
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", "") or ""
            if any("flawed_protocols" in name for name in [*names, module]):
                users.append(path.name)
    assert users == ["protocol_control.py"]
