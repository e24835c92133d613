"""Assertions on the results of a run; rule `check_results` calls them with RESULTS, EPSILON, NORM and THREATS set."""

from __future__ import annotations

import json
import os
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

RESULTS = os.environ["RESULTS"]
SELF_CHECKS = ("A0", "A10")
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(RESULTS) / "tables" / f"{name}.csv")


def rows(kind: str, purifier: str) -> pd.DataFrame:
    return pd.read_parquet(Path(RESULTS) / kind / f"{purifier}.parquet")


def test_every_claim_has_a_verdict_and_no_self_check_fails() -> None:
    claims = table("claims").set_index("claim")
    assert list(claims.index) == [f"A{i}" for i in range(18)]
    assert set(claims.verdict) <= {"pass", "fail", "inconclusive"}
    assert (claims.loc[list(SELF_CHECKS)].verdict != "fail").all(), claims.loc[list(SELF_CHECKS)].note.tolist()


def test_a_claim_is_decided_with_the_images_it_needs() -> None:
    """Claims with one threshold and no second test, by what n counts; the rounding of the tables is allowed for."""
    claims = table("claims").set_index("claim").drop(["A1", "A9", "A11", "A17"])
    for claim in claims[claims.reliable & claims.needed_n.notna()].itertuples():
        if abs(claim.needed_n - claim.n) > 1:
            assert (claim.needed_n <= claim.n) == (claim.verdict != "inconclusive"), claim


def test_a_verdict_is_that_of_its_p_value() -> None:
    """A claim passes where its one-sided p-value is below .025, and keeps that only where the corrected one is too."""
    claims = table("claims").set_index("claim").drop("A17")
    known = claims[claims.reliable & claims.p_value.notna()]
    assert len(known)
    for claim in known.itertuples():
        assert (claim.p_value < 0.025) == (claim.verdict == "pass"), claim
    about_the_paper = known[known.p_holm.notna()]
    assert (about_the_paper.p_holm >= about_the_paper.p_value - 1e-5).all()
    assert ((about_the_paper.p_holm < 0.025) == (about_the_paper.holm == "pass")).all()


def test_what_rests_on_an_evaluation_that_does_not_count_is_marked() -> None:
    found = table("reliability").set_index(["purifier", "attack"]).reliable
    counts = table("known_noise").set_index("purifier").reliable
    assert set(counts.index) == set(table("points").purifier)
    for entry in table("robustness").to_dict("records"):
        attack, purifier = entry["attack"], entry["purifier"]
        if attack in ("clean", "random"):
            expected = True
        elif attack == "transfer":
            expected = counts["identity"]
        else:
            expected = counts[purifier] and found.get((purifier, attack), True)
        assert entry["reliable"] == expected, entry


def test_the_worst_known_can_be_recomputed_from_the_rows() -> None:
    """At least as many images are broken as by any attack within the budget."""
    epsilon, norm = float(os.environ["EPSILON"]), os.environ["NORM"]
    for entry in table("known_noise").to_dict("records"):
        own = rows("purified", entry["purifier"])
        within = own[own[f"size_{norm}"] <= epsilon + 1e-5]
        groups = [each for _, each in within.groupby("attack") if len(each) == entry["worst_known_n"]]
        least = min((each.fixed == each.label).mean() for each in groups)
        assert entry["worst_known"] <= least + 1e-5
        assert entry["worst_known"] <= entry["base"]


@pytest.mark.parametrize("name", ["robustness", "points", "compression", "randomness", "distances", "prediction"])
def test_every_interval_contains_its_value_and_names_its_n(name: str) -> None:
    """Where the images determine an interval: the distance from a clean start is 0 for all of them."""
    frame = table(name)
    triples = [c for c in frame if f"{c}_low" in frame and f"{c}_high" in frame]
    assert triples and any(c == "n" or c.endswith("_n") for c in frame)
    for column in triples:
        ends = frame[[f"{column}_low", f"{column}_high"]]
        assert (ends.isna().all(axis=1) == ends.isna().any(axis=1)).all(), column
        filled = frame[frame[column].notna() & ends.notna().all(axis=1)]
        slack = 1e-5 * filled[column].abs() + 1e-9
        assert (filled[f"{column}_low"] <= filled[column] + slack).all(), column
        assert (filled[column] <= filled[f"{column}_high"] + slack).all(), column


def test_every_accuracy_can_be_recomputed_from_the_rows() -> None:
    frame = table("robustness")
    worst = next(c for c in frame if c.startswith("wor_") and c.count("_") == 1)
    n = int(worst.removeprefix("wor_"))
    for entry in frame.to_dict("records"):
        own = rows("purified", entry["purifier"])
        own = own[own.attack == entry["attack"]]
        correct = np.stack(own.varied.to_list()) == own.label.to_numpy()[:, None]
        assert entry["n"] == len(own)
        assert entry["fixed"] == pytest.approx((own.fixed == own.label).mean(), abs=1e-5)
        assert entry["avg"] == pytest.approx(correct.mean(), abs=1e-5)
        if correct.shape[1] >= n:
            draws = correct.shape[1]
            exact = np.mean([comb(int(k), n) / comb(draws, n) for k in correct.sum(axis=1)])
            assert entry[worst] == pytest.approx(exact, abs=1e-5)


def test_compression_can_be_recomputed_from_the_rows() -> None:
    for entry in table("compression").to_dict("records"):
        own = rows("compression", entry["purifier"])
        own = own[(own.model == "trained") & (own.probe_scale == entry["probe_scale"])]
        assert entry["compression"] == pytest.approx((own.radius_after / own.radius_before).mean(), rel=1e-5)


def test_adversarial_images_stay_in_the_ball_and_in_the_box() -> None:
    configured = {"norm": os.environ["NORM"], "epsilon": float(os.environ["EPSILON"])}
    own = json.loads(os.environ["THREATS"])
    data = load_file(Path(RESULTS) / "dataset" / "images.safetensors")
    scale = 255.0 if data["images"].dtype == np.uint8 else 1.0
    files = sorted((Path(RESULTS) / "adversarial").glob("*/*.safetensors"))
    assert files
    for path in files:
        arrays = load_file(path)
        adversarial = arrays["adversarial"]
        clean = data["images"][np.searchsorted(data["ids"], arrays["ids"])] / np.float32(scale)
        difference = (adversarial - clean).reshape(len(adversarial), -1)
        threat = own.get(path.parent.name, configured)
        sizes = np.linalg.norm(difference, ord=ORDERS[threat["norm"]], axis=1)
        assert sizes.max() <= threat["epsilon"] + 1e-5, path
        assert adversarial.min() >= 0.0 and adversarial.max() <= 1.0, path


def test_clean_rows_are_unperturbed() -> None:
    frame = table("robustness").set_index(["purifier", "attack"])
    for purifier in frame.index.get_level_values(0).unique():
        own = rows("purified", purifier)
        assert (own[own.attack == "clean"].size_linf == 0).all()


def test_the_steps_of_the_ladder_add_up_and_follow_from_the_rows() -> None:
    frame = table("ladder")
    assert frame.points.iloc[1:].sum() == pytest.approx(100 * (frame.robust.iloc[0] - frame.robust.iloc[-1]), abs=1e-3)
    own = rows("purified", frame.purifier[0])
    judged = [
        own[own.attack == rung.attack].set_index("image")[[rung.judged_by, "label"]] for rung in frame.itertuples()
    ]
    some = set.intersection(*(set(j.index[j.iloc[:, 0].map(np.size) > 0]) for j in judged))
    for rung, found in zip(frame.itertuples(), judged, strict=True):
        shares = [np.mean(np.atleast_1d(row.iloc[0]) == row.label) for image, row in found.iterrows() if image in some]
        assert (rung.robust_n, rung.robust) == (len(some), pytest.approx(np.mean(shares), abs=1e-5)), rung.attack


def test_expectations_name_their_verdict_and_every_rate_its_controls() -> None:
    assert set(table("expectations").verdict) <= {"pass", "fail", "inconclusive", "not run"}
    attacked = table("robustness").query("attack not in ['clean', 'random']")
    for estimand in ("fixed", "avg"):
        for control in ("clean", "random", "matched"):
            assert attacked[f"{estimand}_{control}"].notna().all(), (estimand, control)
