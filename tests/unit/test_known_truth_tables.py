"""Tables and the figure of protocols on defences of known truth, from rows that are written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from purification.known_truth.catalogue import set_up
from purification.known_truth.coverage import sample_intervals
from purification.known_truth.evaluators import Sizes
from purification.known_truth.randomised import RANDOMISED
from purification.reporting.figures import style
from purification.reporting.figures.known_truth import known_truth
from purification.reporting.known_truth import bias, coverage, folded, ranks, verdicts

SIZES = Sizes(steps=1, step_size=1.0, draws=1, iterates=1, fresh=20, worst_of=10, votes=9, vote_subsets=20)
ATTACK = {
    "steps": 4, "step_size": 0.5, "random_start": False, "loss": "margin", "gradient": "replay", "select": "last",
    "stop_when_broken": False, "restarts": 1,
}  # fmt: skip


def row(group: str, defence: str, protocol: str, estimand: str, truth: float, reported: float, **more: object) -> dict:
    """One defence under one protocol."""
    ends = {"reported_low": reported - 0.1, "reported_high": reported + 0.1, "n": 100, "marked": False, "why": ""}
    named = {"group": group, "defence": defence, "protocol": protocol, "estimand": estimand}
    return {**named, "truth": truth, "reported": reported, **ends, **more}


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(
        [
            row("randomised", "a", "AutoAttack rand", "one draw", 0.6, 0.4),
            row("randomised", "a", "ours", "avg", 0.6, 0.61),
            row("randomised", "a", "ours", "fixed", 0.6, 0.58),
            row("randomised", "b", "AutoAttack rand", "one draw", 0.5, 0.45),
            row("randomised", "b", "ours", "avg", 0.5, 0.5),
            row("randomised", "b", "ours", "fixed", 0.5, 0.5),
            row("masking", "c", "AutoAttack rand", "one draw", 0.1, 0.9),
            row("masking", "c", "ours", "fixed", 0.1, 0.8, marked=True, why="masked"),
            row("masking", "d", "AutoAttack rand", "one draw", 0.2, 0.9),
            row("masking", "d", "ours", "fixed", 0.2, 0.3),
            row("masking", "e", "AutoAttack rand", "one draw", 0.3, 0.3),
            row("masking", "e", "ours", "fixed", 0.3, 0.32),
        ]
    )


def test_bias_is_the_mean_error_over_defences_with_and_without_marked_ones(rows: pd.DataFrame) -> None:
    found = bias(rows).set_index(["group", "protocol"])
    published = found.loc[("random, right gradient", "AutoAttack rand")]
    assert (
        published.bias == pytest.approx(-12.5) and published.largest == pytest.approx(-20.0) and published["of"] == "a"
    )
    ours = found.loc[("random, right gradient", "ours")]
    assert (ours.defences, ours.bias) == (2, pytest.approx(0.5)), "the average over draws, not the known noise"
    assert ours.bias_low <= 0.5 <= ours.bias_high
    masking = found.loc["deterministic, masking"]
    assert masking.bias["ours"] == pytest.approx((70 + 10 + 2) / 3)
    assert (masking.defences["ours, unmarked"], masking.bias["ours, unmarked"]) == (2, pytest.approx(6.0))


def test_a_defence_is_marked_or_right_or_named(rows: pd.DataFrame) -> None:
    found = verdicts(rows, 0.02).set_index("group")
    masking = found.loc["deterministic, masking"]
    assert (masking.marked, masking.unmarked_right, masking.unmarked_wrong, masking.which) == (1, 1, 1, "d")
    assert found.loc["random, right gradient"].unmarked_wrong == 0


def test_ranks_are_asked_of_pairs_that_differ_and_ties_are_wrong(rows: pd.DataFrame) -> None:
    found = ranks(rows, 0.05).set_index("protocol")
    published = found.loc["AutoAttack rand"]
    # right: a > e and b > e; c and d are tied, all others the other way round
    assert (published.pairs, published.wrong) == (10, 8)
    assert found.loc["ours"].pairs == 10 and found.loc["ours"].wrong == 4
    assert (found.loc["ours, unmarked"].pairs, found.loc["ours, unmarked"].wrong) == (6, 0)
    assert ranks(rows, 0.95).share.isna().all()


def test_coverage_counts_intervals_that_contain_the_truth() -> None:
    samples = pd.DataFrame(
        {"estimand": ["avg"] * 3 + ["fixed"], "truth": 0.5, "low": [0.4, 0.5, 0.6, 0.1], "high": [0.6, 0.7, 0.8, 0.4]}
    )
    found = coverage(samples).set_index("estimand")
    assert found.coverage["avg"] == pytest.approx(2 / 3) and found.coverage["fixed"] == 0.0
    assert found.coverage["all"] == 0.5 and found.intervals["all"] == 4
    assert "[" in folded(coverage(samples)).coverage[0]


def test_the_figure_shows_every_defence_under_every_protocol(rows: pd.DataFrame, tmp_path: Path) -> None:
    figure = known_truth(rows)
    titles = [" ".join(axis.get_title(loc="left").split()) for axis in figure.axes]
    assert [title.endswith(ending) for title, ending in zip(titles, ("right gradient", "masking"), strict=True)]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["AutoAttack rand", "ours", "ours, unmarked"]
    style.save(figure, pdf=tmp_path / "a.pdf", png=tmp_path / "a.png")
    style.save(known_truth(rows), pdf=tmp_path / "b.pdf", png=tmp_path / "b.png")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_intervals_of_samples_cover_the_truth_of_their_population() -> None:
    """20 samples of 40 images of three defences."""
    found = []
    for name in ("noise .3", "coin", "matrix, noise .15, l2"):
        entry = RANDOMISED[name]
        known = set_up(name, "randomised", entry, ids=range(800), seed=5, batch_size=400, gradient_batch_size=400)
        found.append(sample_intervals(known, ATTACK, SIZES, 40))
    table = coverage(pd.concat(found)).set_index("estimand")
    assert table.intervals["all"] == 20 * (4 + 4 + 4)
    assert 0.9 < table.coverage["all"] <= 1.0, table
    shifted = pd.concat(found).assign(truth=lambda frame: frame.truth + 0.2)
    assert coverage(shifted).set_index("estimand").coverage["all"] < 0.7


def test_rounding_of_intervals_for_people() -> None:
    table = pd.DataFrame({"bias": [1.0, np.nan], "bias_low": [0.0, np.nan], "bias_high": [2.0, np.nan]})
    assert list(folded(table).bias) == ["1.0 [0.0, 2.0]", "nan"]
