"""Our attacks against an independent implementation; tests/compare_autoattack.py has the whole comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from attack_cases import AUTO_PGD, FAB_T, SQUARE
from attack_oracles import PURIFIERS, case_of, ours, published, share, theirs

COUNT, STEPS = 200, 30
PARTS: dict[str, tuple[Any, int, int]] = {
    "apgd-ce": (replace(AUTO_PGD, steps=STEPS), STEPS, 1),
    "apgd-dlr": (replace(AUTO_PGD, steps=50, loss="dlr", restarts=3), 50, 3),
    "apgd-t": (replace(AUTO_PGD, steps=STEPS, loss="targeted_dlr", targets=9), STEPS, 1),
    "fab-t": (replace(FAB_T, steps=STEPS, targets=9), STEPS, 1),
    "square": (replace(SQUARE, queries=300, rescale=False), STEPS, 1),
}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_leaves_no_more_standing_than_the_reference_s(name: str, norm: str) -> None:
    """Within one point of 200 images, or lower; no larger balls on either side."""
    settings, steps, restarts = PARTS[name]
    case = case_of("none", COUNT)
    assert share(ours(case, settings, norm)) <= share(theirs(case, norm, steps, 300, [name], restarts)) + 0.01


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("purifier", PURIFIERS)
def test_autoattack_leaves_no_more_standing_than_the_reference_s_standard(purifier: str, norm: str) -> None:
    """Its published settings of the norm, on known noise, with fewer steps, queries and images than published."""
    count, steps, queries = (300, 20, 100) if purifier == "none" else (100, 10, 20)
    case = case_of(purifier, count)
    left = share(ours(case, published(norm, steps, queries), norm))
    reference = share(theirs(case, norm, steps, queries))
    assert 0.02 < reference < 0.9
    assert left <= reference + 0.01
