"""Defences beside what they are compared with, and the law of the plain purifiers that they are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from purification.reporting.comparison import defences, plain, sides
from purification.reporting.pairs import paired
from purification.reporting.rows import Rows

N = 40
RATES = {"p1": 0.1, "p2": 0.2, "p3": 0.3, "p4": 0.4, "p5": 0.5, "p6": 0.6, "p7": 0.15}
KNOWN = {"fixed": "both", "eot": "none", "bpda": "both", "one_draw": "none", "forward": "forward", "transfer": "none"}
DRAWS = {"eot": 5, "one_draw": 1}


def law_of(rate: float) -> float:
    return float(0.9 * expit(-12 * (rate - 0.35)))


def settings() -> dict[str, Any]:
    entry = {"kind": "diffusion", "denoiser": "unet", "sampler": "ddpm", "t_star": 100}
    purifiers = {name: dict(entry) for name in RATES}
    purifiers |= {"tuned": {**entry, "denoiser": "addt"}, "guided": {**entry, "kind": "guided"}}
    return {
        "seed": 0,
        "base_attack": "fixed",
        "threat": {"norm": "linf", "epsilon": 0.1},
        "attacks": {
            name: {"knowledge": known, "draws": DRAWS.get(name, 1), "gradient": "bpda" if name == "bpda" else "replay"}
            for name, known in KNOWN.items()
        },
        "purifiers": purifiers,
        "denoisers": {"unet": {"kind": "unet"}, "addt": {"kind": "finetuned"}},
        "fit": {"level": 0.9},
        "evaluation": {"worst_of": 2, "votes": 3, "vote_subsets": 4},
        "run": {
            "headline": "p1",
            "sweep": [*RATES, "tuned", "guided"],
            "controls": [],
            "varied": [],
            "attacks": {name: [] for name in ("eot", "bpda", "one_draw", "forward")},
            "comparison": {"tuned": "p1", "guided": "p2"},
        },
    }


def block(purifier: str, attack: str, right: int, draws: int = 4) -> pd.DataFrame:
    """The first `right` of N images with label 1 are right in every column."""
    correct = (np.arange(N) < right).astype(int)
    drawn = [np.full(draws, value) for value in correct]
    frame = pd.DataFrame({"purifier": purifier, "attack": attack, "image": range(N), "label": 1, "fixed": correct})
    frame = frame.assign(varied=drawn, fixed_forward=drawn, fixed_reverse=[np.array([])] * N)
    frame = frame.assign(size_linf=0.1, own_accuracy=np.nan, response=0.5)
    return frame.assign(matched_fixed=1, matched_varied=[np.ones(draws, int)] * N)


@pytest.fixture
def rows() -> Rows:
    compression = {**RATES, "tuned": 0.3, "guided": 0.3}
    robust = {name: round(N * law_of(rate)) for name, rate in RATES.items()} | {"tuned": 20, "guided": 40}
    parts = [block(name, attack, N) for name in robust for attack in ("clean", "random", "transfer")]
    parts += [block(name, "fixed", right) for name, right in robust.items()]
    for name in ("p1", "tuned"):
        right = 25 if name == "p1" else 30
        parts += [block(name, attack, right).assign(fixed=1) for attack in ("eot", "bpda", "one_draw", "forward")]
    measured = [
        {"purifier": name, "model": "trained", "image": i, "probe_scale": 1.0, "compression": rate}
        for name, rate in compression.items()
        for i in range(5)
    ]
    frames = {"purified": pd.concat(parts, ignore_index=True), "compression": pd.DataFrame(measured)}
    return Rows(frames, settings())


def test_a_purifier_is_compared_in_the_strongest_exact_attack_of_every_knowledge(rows: Rows) -> None:
    assert sides(rows, "tuned") == {
        "clean": ("clean", "varied"),
        "fixed": ("worst_known", "worst_known"),
        "base": ("fixed", "fixed"),
        "avg": ("eot", "varied"),
        "forward": ("forward", "fixed_forward"),
    }
    assert sides(rows, "guided").keys() == {"clean", "fixed", "base"}


def test_every_estimand_stands_beside_the_paired_difference(rows: Rows) -> None:
    table = defences(rows).set_index("purifier")
    assert table.index.tolist() == ["p1", "p2", "tuned", "guided"]
    tuned = table.loc["tuned"]
    assert (tuned.fixed, tuned.avg, tuned.wor_2, tuned.mv_3, tuned.forward) == (0.5, *[0.75] * 4)
    assert {tuned[f"{name}_n"] for name in ("clean", "fixed", "avg", "wor_2", "mv_3", "forward")} == {N}
    base = round(N * law_of(0.1))
    assert tuned.base_difference == pytest.approx((20 - base) / N)
    assert (tuned.base_only_first, tuned.base_only_second) == (0, base - 20)
    assert tuned.fixed_difference == tuned.base_difference, "no other attack breaks more"
    assert tuned.avg_difference == pytest.approx(5 / N) and tuned.avg_mcnemar_p == pytest.approx(2 * 0.5**5)
    assert table.fixed_difference.isna().tolist() == [True, True, False, False]
    assert np.isnan(table.avg_difference["guided"]), "p2 was not attacked so"


def test_a_defence_is_held_against_the_law_of_the_plain_purifiers(rows: Rows) -> None:
    assert plain(rows) == list(RATES)
    table = defences(rows).set_index("purifier")
    assert table.law["tuned"] == table.law["guided"] == pytest.approx(law_of(0.3), abs=0.02)
    assert table.law["p2"] == pytest.approx(law_of(0.2), abs=0.05)
    off = {"p1": "no", "p2": "no", "tuned": "no", "guided": "yes"}
    assert table.off_the_law.to_dict() == off, "20 of 40 are within sampling of .58, 40 of 40 are not"
    assert (table.law_note == "determined").all() and table.off_by_chance.tolist() == pytest.approx([0.1] * 4)


def test_without_enough_plain_purifiers_there_is_no_law(rows: Rows) -> None:
    few = rows.settings | {"run": {**rows.settings["run"], "sweep": ["p1", "p2", "tuned", "guided"]}}
    table = defences(Rows(rows.frames, few))
    assert len(table) == 4 and table.law.isna().all() and set(table.off_the_law) == {"not determined"}
    assert set(table.law_note) == {"not determined by these points: 2 usable points, fewer than 6"}


def test_without_a_comparison_the_table_is_empty(rows: Rows) -> None:
    none = rows.settings | {"run": {**rows.settings["run"], "comparison": {}}}
    assert defences(Rows(rows.frames, none)).empty


def test_every_attack_on_both_is_a_row_of_the_paired_table(rows: Rows) -> None:
    table = paired(rows)
    own = table[table.purifier.isin(["tuned", "guided"]) & (table.attack == table.against_attack)]
    pairs = {(row.purifier, row.attack, row.judged_by, row.against) for row in own.itertuples()}
    assert {("tuned", "clean", "varied", "p1"), ("tuned", "forward", "fixed_forward", "p1")} <= pairs
    assert {("tuned", "bpda", "fixed", "p1"), ("guided", "random", "varied", "p2")} <= pairs
    assert not table.duplicated(["purifier", "attack", "judged_by", "against", "against_attack"]).any()
