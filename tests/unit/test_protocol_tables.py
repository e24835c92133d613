"""Accuracies, controls and paired comparisons of small rows whose values are written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from purification.reporting.pairs import paired
from purification.reporting.protocol import compared, first_correct, share_correct, under_knowledge, with_controls
from purification.reporting.rows import Rows
from purification.statistics import difference

ATTACKS = {"fixed": {"knowledge": "both"}, "eot": {"knowledge": "none"}, "semi": {"knowledge": "semi"}}
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "base_attack": "fixed",
    "threat": {"norm": "linf", "epsilon": 0.1},
    "attacks": ATTACKS,
    "run": {"headline": "a", "sweep": ["a", "b"], "varied": ["a"], "comparison": {}},
    "evaluation": {"worst_of": 2, "votes": 3, "vote_subsets": 4},
}


def block(purifier: str, attack: str, right: dict[str, list[Any]], images: int = 4) -> pd.DataFrame:
    """Rows with label 1 everywhere; `right` holds ones where the prediction is right, per column."""
    columns = {"fixed": [1] * images, "varied": [[1, 1, 1]] * images, "semi": [[1, 1]] * images}
    columns |= {"fixed_forward": [[1, 1]] * images, "fixed_reverse": [[]] * images}
    columns |= {"matched_fixed": [1] * images, "matched_varied": [[1, 1, 1]] * images, **right}
    frame = pd.DataFrame({"purifier": purifier, "attack": attack, "image": range(10, 10 + images), "label": 1})
    frame = frame.assign(size_linf=0.1, own_accuracy=np.nan, response=0.5)
    return frame.assign(**{k: [np.array(v) if isinstance(v, list) else v for v in vs] for k, vs in columns.items()})


@pytest.fixture
def rows() -> Rows:
    drawn = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]]
    attacked = {"fixed": [0, 1, 1, 0], "varied": drawn, "matched_fixed": [1, 1, 1, 0], "semi": [[1, 0]] * 4}
    parts = [
        block("a", "clean", {"fixed": [1, 1, 0, 1, 1]}, 5),
        block("a", "random", {"fixed": [1, 1, 1, 0, 0]}, 5),
        block("a", "transfer", {}),
        block("a", "fixed", attacked),
        block("a", "eot", {"varied": [[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]}),
        block("a", "semi", {"semi": [[1, 0], [1, 1], [0, 0]]}, 3),
        *(block("b", attack, {}) for attack in ("clean", "random", "transfer", "fixed")),
    ]
    return Rows({"purified": pd.concat(parts, ignore_index=True)}, SETTINGS)


def test_every_estimand_is_shown_without_the_attack_on_the_same_images(rows: Rows) -> None:
    found = {c: {k: e.value for k, e in named.items()} for c, named in with_controls(rows, "a", "fixed")}
    assert found[""]["fixed"] == 0.5 and found[""]["avg"] == 0.5
    assert found[""]["wor_2"] == pytest.approx((1 / 3 + 0 + 1 + 0) / 4)
    assert found[""]["mv_3"] == 0.5
    assert found["_clean"]["fixed"] == 0.75, "the fifth image was not attacked"
    assert found["_random"]["fixed"] == 0.75
    assert found["_matched"] == {"fixed": 0.75, "avg": 1.0, "wor_2": 1.0, "mv_3": 1.0}
    assert [set(named) for named in found.values()] == [{"fixed", "avg", "wor_2", "mv_3"}] * 4
    assert [control for control, _ in with_controls(rows, "a", "clean")] == [""]


def test_accuracy_under_partial_knowledge_is_left_out_where_it_was_not_judged(rows: Rows) -> None:
    found = under_knowledge(rows, rows.purified("a", "fixed"))
    assert {name: (e.value, e.n) for name, e in found.items()} == {"fixed_forward": (1.0, 4), "semi": (0.5, 4)}


def test_shares_and_first_draws(rows: Rows) -> None:
    frame = rows.purified("a", "fixed")
    assert share_correct(frame, "varied").tolist() == pytest.approx([2 / 3, 1 / 3, 1, 0])
    assert first_correct(frame, "varied").tolist() == [True, True, True, False]
    assert share_correct(frame, "fixed").to_dict() == {10: 0.0, 11: 1.0, 12: 1.0, 13: 0.0}
    assert share_correct(frame, "fixed_reverse").empty


def test_a_comparison_is_paired_by_image_and_counts_single_draws(rows: Rows) -> None:
    found = compared(rows, (rows.purified("a", "eot"), "varied"), (rows.purified("a", "fixed"), "fixed"))
    assert found["difference"] == pytest.approx((1 + 2 / 3 + 2 / 3 + 1) / 4 - 0.5) and found["difference_n"] == 4
    assert (found["only_first"], found["only_second"]) == (2, 1)
    assert found["mcnemar_p"] == pytest.approx(1.0)
    assert found["difference_low"] <= found["difference"] <= found["difference_high"]
    short = compared(rows, (rows.purified("a", "semi"), "semi"), (rows.purified("a", "fixed"), "fixed"))
    assert short["difference_n"] == 3 and short["difference"] == pytest.approx(0.5 - 2 / 3)


def test_draws_stay_with_their_image_and_equal_differences_are_no_certainty() -> None:
    """Half of the draws of every image differ: each image counts once, with the half by which it differs."""
    one = pd.DataFrame({"image": range(9), "label": 1, "varied": [np.array([k % 2, 1 - k % 2]) for k in range(9)]})
    two = one.assign(varied=[np.array([0, 0])] * 9)
    found = compared(rows, (one, "varied"), (two, "varied"))
    expected = difference(np.full(9, 0.5))
    assert found["difference"] == 0.5
    assert (found["difference_low"], found["difference_high"]) == (expected.low, expected.high)
    assert expected.low < 0.45 and expected.high > 0.5


def test_purifiers_and_settings_are_compared_under_what_each_attack_knows(rows: Rows) -> None:
    table = paired(rows)
    pairs = list(zip(table.purifier, table.attack, table.judged_by, table.against_attack, strict=True))
    worst = "worst_known"
    between = [("b", worst, worst, worst), ("b", "fixed", "fixed", "fixed"), ("b", "transfer", "varied", "transfer")]
    assert pairs[:3] == between
    own = {(a, j) for p, a, j, _ in pairs if p == "a"}
    assert own == {("transfer", "varied"), ("fixed", "fixed"), ("eot", "varied"), ("semi", "semi")}
    assert {c for p, a, _, c in pairs if a == "eot"} == {"fixed", "clean", "random", "eot/matched"}
    assert {c for p, a, _, c in pairs if a == "semi"} == {"fixed", "clean", "random"}
    beside = table[(table.attack == "fixed") & (table.against_attack == "fixed/matched")].iloc[0]
    assert beside.difference == pytest.approx(-0.25)
