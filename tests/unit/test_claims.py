"""Claims say what was asked, how large the effect is, and on which p-value their verdict rests."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from degenerate_rows import HEADLINE, NAMED, Case, rows_of

from purification.intervals import TAIL
from purification.reporting.claim import (
    SELF_CHECKS,
    Asked,
    Claim,
    also,
    claims_table,
    judge,
    make_claim,
    null_notes,
)
from purification.reporting.claims import CLAIMS
from purification.reporting.path_ends import growth
from purification.reporting.rows import Rows
from purification.reporting.tables import TABLES
from purification.statistics import difference, mean

OURS = ("A0", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "A10", "A11", "A16")
SAMPLERS = (HEADLINE, "ddpm_10", "ddim_50")


def with_paths(ratios: dict[str, float], *, null: float = 1.5, images: int = 12, ssim: float = -0.1) -> Rows:
    """Rows in which every sampler multiplies the distance of 12 images by about a number of its own."""
    rows = rows_of(Case(images=images))
    rng = np.random.default_rng(0)
    parts = []
    for purifier, ratio in ratios.items():
        for model, factor in (("trained", ratio), ("null", null)):
            start = 1.0 + 0.1 * rng.random(images)
            ends = {
                0.0: (start, 0.9),
                2.0: (factor * start * (1.0 + 0.02 * rng.normal(size=images)), 0.9 + ssim),
            }
            for position, (l2, similarity) in ends.items():
                head = {
                    "purifier": purifier,
                    "model": model,
                    "start": "adversarial",
                    "position": position,
                }
                noise = 0.001 * rng.normal(size=images)
                values = {
                    "image": range(images),
                    "l2": l2,
                    "linf": 0.1 * l2,
                    "ssim": similarity + noise,
                }
                parts.append(pd.DataFrame({**head, **values}))
    run = {**rows.settings["run"], "distances": list(ratios)}
    return replace(
        rows,
        frames={**rows.frames, "distances": pd.concat(parts)},
        settings={**rows.settings, "run": run},
    )


def row_of(rows: Rows, name: str) -> dict[str, Any]:
    (row,) = claims_table([CLAIMS[name](rows)]).to_dict("records")
    return row


# --- A1: every sampler


def test_growth_is_claimed_of_every_sampler_whatever_the_null_model_does() -> None:
    """One sampler that leads back refutes it, although its null model leads back further."""
    rows = with_paths({HEADLINE: 2.0, "ddpm_10": 0.7, "ddim_50": 3.0}, null=0.6)
    row = row_of(rows, "A1")
    assert row["verdict"] == row["holm"] == "fail"
    assert row["ours"] == pytest.approx(0.7, abs=0.02) and "with ddpm_10" in row["effect"]
    assert row["left_out"] == "nothing: all 3 purifiers of run.distances are asked"
    for purifier in SAMPLERS:
        assert purifier in row["note"]
    assert row["null"].startswith("0.596 [") and row["p_value"] > 0.999


def test_growth_passes_where_every_sampler_does_and_its_p_value_is_the_largest() -> None:
    rows = with_paths({HEADLINE: 2.0, "ddpm_10": 1.02, "ddim_50": 3.0})
    row = row_of(rows, "A1")
    assert row["verdict"] == "pass"
    assert row["p_value"] == max(growth(rows, name).p_value(above=1.0) for name in SAMPLERS)
    assert row["of_the_paper"] == pytest.approx(0.02 / 2.1, abs=0.005)
    assert "the null model moves further from 1: +0.491" in row["note"]


def test_one_sampler_just_below_1_among_many_refutes_nothing() -> None:
    """A single test at the full level would: a correction for nine samplers does not."""
    settings = rows_of(Case()).settings["purifiers"]
    names = [name for name in settings if settings[name]["kind"] == "diffusion"][:7]
    rows = with_paths({**dict.fromkeys(names, 2.0), names[-1]: 0.9977})
    weakest = growth(rows, names[-1])
    assert TAIL / 7 < weakest.p_value(below=1.0) < TAIL and judge(weakest, above=1.0) == "fail"
    row = row_of(rows, "A1")
    assert row["verdict"] == "inconclusive"
    assert "not after a correction for 7 samplers" in row["note"]


def test_a_sampler_that_was_not_measured_leaves_growth_undecided() -> None:
    rows = with_paths({HEADLINE: 2.0, "ddpm_10": 2.0, "ddim_50": 2.0})
    distances = rows.frames["distances"]
    fewer = replace(rows, frames={**rows.frames, "distances": distances[distances.purifier != "ddim_50"]})
    row = row_of(fewer, "A1")
    assert row["verdict"] == "inconclusive" and math.isnan(row["p_value"])
    assert "not measured" in row["note"]


def test_the_table_of_distances_has_the_ratio_of_every_sampler_with_its_null() -> None:
    rows = with_paths({HEADLINE: 2.0, "ddpm_10": 0.7}, null=0.6)
    table = TABLES["distances"](rows).query("metric == 'l2'").set_index("purifier")
    assert table.ratio.tolist() == pytest.approx([2.0, 0.7], abs=0.02)
    assert table.ratio_null.tolist() == pytest.approx([0.6, 0.6], abs=0.02)
    assert (table.ratio_low < table.ratio).all() and (table.ratio_null < table.ratio_null_high).all()


# --- effects


def test_an_effect_of_three_hundredths_of_the_papers_reads_so() -> None:
    """The sign passes; the size and the null model, which moves as far, stand beside it."""
    row = row_of(with_paths({HEADLINE: 1.1}, ssim=-0.005), "A2")
    assert row["verdict"] == "pass"
    assert row["of_the_paper"] == pytest.approx(0.005 / 0.172, abs=0.005)
    assert row["effect"].startswith("SSIM changes by -0.00") and row["null"].startswith("-0.00")
    assert row["left_out"] == f"every purifier but {HEADLINE}"


@pytest.mark.parametrize(
    ("bounds", "ours", "null", "noted"),
    [
        ({"above": 1.0}, 1.065, 1.41, True),
        ({"above": 1.0}, 1.065, 1.01, False),
        ({"below": 0.0}, -0.005, -0.172, True),
        ({"below": 0.4}, 0.2, 0.3, False),
        ({"above": -0.05, "below": 0.05}, 0.0, 1.0, False),
        ({"above": 1.0}, 1.065, math.nan, False),
    ],
)
def test_a_null_model_that_moves_further_is_named(
    bounds: dict[str, float], ours: float, null: float, noted: bool
) -> None:
    own, other = (mean(np.array([value - 0.001, value + 0.001])) for value in (ours, null))
    assert bool(null_notes(Asked("A", "", "", **bounds), own, other)) == noted


@pytest.mark.parametrize("name", OURS)
def test_every_claim_is_a_sentence_and_names_effect_null_and_what_was_left_out(name: str) -> None:
    row = row_of(rows_of(Case(images=6)), name)
    assert row["statement"][0].isupper() and row["statement"].endswith(".")
    assert row["effect"] != "not measured" and row["null"] and row["left_out"]


def test_what_was_not_measured_is_undecided_and_says_so() -> None:
    rows = rows_of(NAMED["nothing of the headline"])
    for name in OURS:
        row = row_of(rows, name)
        assert (row["verdict"], row["effect"]) == ("inconclusive", "not measured"), name
        assert "not measured on any image" in row["note"] or "no interval" in row["note"], row


# --- p-values


@pytest.mark.parametrize("name", [name for name in OURS if name not in ("A1", "A9", "A11")])
def test_a_verdict_is_that_of_its_p_value(name: str) -> None:
    """In many made-up runs: a claim passes exactly where its one-sided p-value is below .025."""
    decided = set()
    for seed in range(12):
        claim = CLAIMS[name](rows_of(Case(seed=seed, images=6)))
        if not math.isnan(claim.p_value):
            assert (claim.p_value < TAIL) == (claim.verdict == "pass"), claim
            decided.add(claim.verdict)
    assert decided


def claim_of(name: str, p_value: float, verdict: str) -> Claim:
    made = make_claim(Asked(name, "It is so.", "", above=0.0), difference(np.ones(9)), effect="1")
    return replace(made, p_value=p_value, verdict=verdict)


def test_claims_about_the_paper_are_corrected_for_their_number_and_self_checks_are_not() -> None:
    claims = [
        claim_of("A1", 0.001, "pass"),
        claim_of("A2", 0.02, "pass"),
        claim_of("A3", math.nan, "inconclusive"),
        claim_of("A4", 0.99, "fail"),
        *(claim_of(name, 0.02, "pass") for name in SELF_CHECKS),
    ]
    table = claims_table(claims).set_index("claim")
    assert table.p_holm[["A1", "A2", "A4"]].tolist() == pytest.approx([0.004, 0.06, 1.0])
    assert table.holm[["A1", "A2", "A3", "A4"]].tolist() == [
        "pass",
        "inconclusive",
        "inconclusive",
        "fail",
    ]
    assert table.verdict["A2"] == "pass", "without the correction"
    assert table.p_holm[list(SELF_CHECKS)].isna().all() and (table.holm[list(SELF_CHECKS)] == "").all()


def test_a_second_test_can_only_take_a_claim_back() -> None:
    claim = claim_of("A11", 0.01, "pass")
    assert also(claim, "pass", 0.004, 3.0) == replace(claim, needed_n=max(claim.needed_n, 3.0))
    assert also(claim, "inconclusive", 0.2, 3.0).verdict == "inconclusive"
    assert also(claim, "inconclusive", 0.2, 3.0).p_value == 0.2
    assert also(claim, "fail", 0.9, 3.0).verdict == "fail"
    assert math.isnan(also(claim, "pass", math.nan, 3.0).p_value)


def test_knowing_the_noise_matters_only_where_both_tests_say_so() -> None:
    """All 9 images right under EOT and wrong with known noise: McNemar's p is 2 to the power of -9."""
    rows = rows_of(Case(images=9, draws=4))
    frame = rows.frames["purified"].copy()
    own = frame.purifier == HEADLINE
    eot, known = own & (frame.attack == "eot"), own & (frame.attack == "fixed")
    frame.loc[eot, "varied"] = pd.Series([np.full(4, label) for label in frame.label[eot]], index=frame.index[eot])
    frame.loc[known, "fixed"] = frame.label[known] + 1
    row = row_of(replace(rows, frames={**rows.frames, "purified": frame}), "A11")
    assert row["verdict"] == "pass" and row["p_value"] == pytest.approx(2.0**-9)
    assert row["effect"] == "+100.0 points of accuracy: 100.0 % under EOT, 0.0 % under the attack that knows the noise"
    few = frame[frame.image < 5]
    row = row_of(replace(rows, frames={**rows.frames, "purified": few}), "A11")
    assert row["verdict"] == "inconclusive" and row["p_value"] == pytest.approx(2.0**-5)
