"""What all attacks together leave under frozen noise, and how far they beat the base attack."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purification.reporting.known import ENOUGH, Known, accuracy, known_results

BUDGET = {"norm": "linf", "epsilon": 0.1}


def rows_of(attack: str, right: list[bool], size: float = 0.1, first: int = 0) -> pd.DataFrame:
    """Rows of one attack whose label is 3, from image `first` on."""
    labels = [3 if each else 5 for each in right]
    images = range(first, first + len(right))
    return pd.DataFrame({"attack": attack, "image": images, "label": 3, "fixed": labels, "size_linf": size})


def known(*frames: pd.DataFrame, **options: Any) -> Known:
    return known_results(pd.concat(frames, ignore_index=True), "base", **{**BUDGET, **options})


def test_an_image_counts_as_broken_by_whatever_broke_it() -> None:
    found = known(
        rows_of("base", [True, True, False, True]),
        rows_of("transfer", [True, False, True, True]),
        rows_of("random", [True, True, True, True]),
        rows_of("challenge", [False, True], first=0),
    )
    assert found.right.tolist() == [True, True, False, True]
    assert found.worst.tolist() == [False, False, False, True]
    assert found.counts() == {"transfer": 1, "challenge": 1}
    assert accuracy(found.worst).value == 0.25


def test_an_attack_beyond_the_budget_does_not_count() -> None:
    found = known(rows_of("base", [True] * 3), rows_of("wide", [False] * 3, size=0.2))
    assert found.worst.all()
    near = known(rows_of("base", [True] * 3), rows_of("whole", [False] * 3, size=0.1 + 1e-8))
    assert not near.worst.any(), "sizes are rounded to float32"


def test_attacks_beside_the_rows_count_where_they_ran() -> None:
    strength = pd.Series({0: 0.0, 2: 1.0})
    found = known(rows_of("base", [True] * 3), others={"base in 40 steps": strength})
    assert found.worst.tolist() == [False, True, True]
    assert found.counts() == {"base in 40 steps": 1}


def test_only_the_named_attacks_count_in_a_comparison() -> None:
    frames = (rows_of("base", [True] * 2), rows_of("a", [False, True]), rows_of("b", [True, False]))
    assert known(*frames, among=["a"]).worst.tolist() == [False, True]
    assert known(*frames, among=[]).worst.tolist() == [True, True]


def test_the_gap_is_measured_on_the_images_that_most_attacks_share() -> None:
    """300 images of the base attack and of transferred ones, a challenge on the first 100 of them."""
    broken = [number not in (1, 2, 3, 150) for number in range(300)]
    challenged = [number != 7 for number in range(100)]
    found = known(rows_of("base", [True] * 300), rows_of("transfer", broken), rows_of("challenge", challenged))
    gap = found.gap()
    assert gap is not None and (gap.n, gap.value) == (100, 0.04)
    assert found.gap_on("transfer").value == pytest.approx(5 / 300)
    assert found.beaten(0.02) and not found.beaten(0.05)


def test_few_images_beat_the_base_attack_only_with_their_whole_interval() -> None:
    base = rows_of("base", [True] * 300)
    lucky = known(base, rows_of("few", [False, *[True] * 19]))
    assert lucky.gap_on("few").value == 0.05 and not lucky.beaten(0.02)
    sure = known(base, rows_of("few", [False] * 10 + [True] * 10))
    assert sure.beaten(0.02)


def test_nothing_found_has_an_upper_end() -> None:
    found = known(rows_of("base", [True] * 120), rows_of("challenge", [True] * 120))
    gap = found.gap()
    assert gap is not None and gap.value == 0 and 0.02 < gap.high < 0.04
    assert known(rows_of("base", [True] * 120)).gap() is None


def test_a_smaller_run_counts_all_its_images() -> None:
    assert ENOUGH > 10
    found = known(rows_of("base", [True] * 10), rows_of("challenge", [False, *[True] * 9]))
    gap = found.gap()
    assert gap is not None and gap.n == 10 and found.beaten(0.02)


@given(
    st.lists(st.booleans(), min_size=1, max_size=12),
    st.dictionaries(st.sampled_from("abc"), st.lists(st.booleans(), min_size=1, max_size=12), max_size=3),
)
def test_the_worst_known_is_below_every_attack_and_falls_with_every_further_one(
    base: list[bool], others: dict[str, list[bool]]
) -> None:
    frames = [rows_of("base", base), *(rows_of(name, right) for name, right in others.items())]
    found = known(*frames)
    assert found.worst.sum() <= found.right.sum()
    assert accuracy(found.worst).n == len(base)
    for name in others:
        fewer = known(*frames, among=[other for other in others if other != name])
        assert found.worst.sum() <= fewer.worst.sum()
        shared = min(len(base), len(others[name]))
        assert found.gap_on(name).n == shared
    assert sum(found.counts().values()) >= found.right.sum() - found.worst.sum()
    assert not math.isnan(accuracy(found.worst).value)
