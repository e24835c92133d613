"""The ladder splits the whole drop on the same images; expectations are judged on their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from purification.reporting.figures.ladder import rung_label
from purification.reporting.ladder import expectations, ladder
from purification.reporting.rows import Rows

N = 60
KNOWLEDGE = {"adjoint": "none", "one_draw": "none", "eot": "none", "bpda": "both", "semi": "semi", "fixed": "both"}
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "base_attack": "fixed",
    "attacks": {name: {"knowledge": known, "gradient": "replay", "draws": 1} for name, known in KNOWLEDGE.items()},
    "run": {"headline": "a", "ladder": ["adjoint", "one_draw", "eot", "semi", "fixed"]},
}
RIGHT = {"clean": 57, "random": 54, "transfer": 50, "adjoint": 48, "one_draw": 36, "eot": 30, "semi": 24, "fixed": 12}


def block(attack: str, images: int) -> pd.DataFrame:
    """The first RIGHT[attack] images are right on every draw, in every column."""
    right = np.arange(images) < RIGHT.get(attack, 30)
    frame = pd.DataFrame(
        {"purifier": "a", "attack": attack, "image": range(images), "label": 1, "fixed": right.astype(int)}
    )
    drawn = [np.array([int(r)] * 3) for r in right]
    return frame.assign(varied=drawn, semi=drawn, matched_fixed=1, matched_varied=[np.array([1, 1, 1])] * images)


@pytest.fixture
def rows() -> Rows:
    """More images for the base attack and the clean ones than for the rungs of the ladder."""
    larger = ("clean", "random", "fixed", "transfer")
    parts = [block(attack, N + 20 if attack in larger else N) for attack in [*RIGHT, "bpda"]]
    return Rows({"purified": pd.concat(parts, ignore_index=True)}, SETTINGS)


def test_the_ladder_compares_the_same_images_and_its_steps_add_up_to_the_drop(rows: Rows) -> None:
    table = ladder(rows)
    assert table.attack.tolist() == ["clean", *SETTINGS["run"]["ladder"]]
    assert table.judged_by.tolist() == ["varied", "varied", "varied", "varied", "semi", "fixed"]
    assert set(table.robust_n) == {N} and set(table.points_n.dropna()) == {N}
    assert (table.robust * N).tolist() == pytest.approx([RIGHT[a] for a in table.attack])
    assert table.points.iloc[1:].sum() == pytest.approx(100 * (RIGHT["clean"] - RIGHT["fixed"]) / N)
    assert table.points.iloc[2] == pytest.approx(20) and table.share.iloc[1:].sum() == pytest.approx(1)
    assert (table.points_low.iloc[1:] <= table.points.iloc[1:]).all()
    assert (table.points.iloc[1:] <= table.points_high.iloc[1:]).all()


def test_every_rung_stands_beside_the_same_judgement_without_an_attack(rows: Rows) -> None:
    table = ladder(rows).set_index("attack")
    assert table.clean.tolist() == pytest.approx([57 / 60] * 6) and table.random.tolist() == pytest.approx(
        [54 / 60] * 6
    )
    assert table.matched.drop("semi").tolist() == [1.0] * 5 and np.isnan(table.matched["semi"])


def test_a_rung_that_was_not_run_is_left_out(rows: Rows) -> None:
    purified = rows.frames["purified"]
    table = ladder(Rows({"purified": purified[purified.attack != "adjoint"]}, SETTINGS))
    assert table.attack.tolist() == ["clean", "one_draw", "eot", "semi", "fixed"]


def test_expectations_are_judged_by_their_interval_and_margin(rows: Rows) -> None:
    table = expectations(rows).set_index("expectation")
    verdict = {name.split(":")[0]: value for name, value in table.verdict.items()}
    assert verdict["known noise is attacked best"] == "pass"
    assert verdict["BPDA overstates by at least 5 points"] == "pass"
    assert verdict["the adjoint overstates"] == "pass"
    assert verdict["the surrogate overstates"] == "not run"
    # on fresh draws the base attack's images do more harm here than EOT's: that must be said, not hidden
    assert verdict["images made for the frozen noise do less harm on fresh draws than EOT's"] == "fail"
    ran = table[table.verdict != "not run"]
    assert (ran.difference_n == N).all() and ran.mcnemar_p.notna().all()
    assert (ran.upper_accuracy - ran.lower_accuracy).tolist() == pytest.approx(ran.difference.tolist())


@pytest.mark.parametrize(("right", "verdict"), [(5, "fail"), (13, "inconclusive"), (16, "inconclusive")])
def test_an_expectation_below_or_about_its_margin_does_not_hold(rows: Rows, right: int, verdict: str) -> None:
    frame, statement = rows.frames["purified"].copy(), "BPDA overstates by at least 5 points"
    frame.loc[(frame.attack == "bpda") & (frame.image >= right), "fixed"] = 0
    table = expectations(Rows({"purified": frame}, SETTINGS)).set_index("expectation")
    assert table.difference[statement] == pytest.approx((right - 12) / 60)
    assert table.verdict[statement] == verdict


def test_a_rung_of_several_stages_is_called_by_its_name(rows: Rows) -> None:
    stages = {"attack": "strong", "gradient": "", "draws": "", "pool": "", "knowledge": "both"}
    assert rung_label(rows, stages) == "strong, knows the noise"
    assert rung_label(rows, {**stages, "gradient": "replay"}) == "exact, knows the noise"
