"""The law in tables, claims and figures: what it says of points, what was resampled, and when it
says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from law_rows import CONTROLS, first_right, law_rows, names_of
from law_simulation import RATES, Scatter, judged
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from scipy.stats import spearmanr

from purification.fit import Undetermined
from purification.reporting import law, law_claims
from purification.reporting.claim import Claim
from purification.reporting.comparison import defences
from purification.reporting.controls import controls
from purification.reporting.figures import Extras, draw
from purification.reporting.predictions import prediction, predictions
from purification.reporting.rows import Rows
from purification.reporting.tables import fit, points
from purification.resampling import PLAIN, Spread
from purification.sigmoids import scaled
from workflow_scripts.fit_compression_robustness import fit_compression_robustness

LAW = (10.4, 0.378, 0.55)
CLAIMS = {
    "A12": law_claims.robustness_falls,
    "A13": law_claims.sigmoid_fits,
    "A14": law_claims.extrapolates,
    "A15": law_claims.base_curve_explains,
}
SENTENCE = "not determined by these points"


def scattered(dispersion: float = 6.6, images: int = 300, seed: int = 2) -> Rows:
    return law_rows(
        list(RATES),
        judged(LAW, Scatter(dispersion, star=0.4), images, np.random.default_rng(seed)),
    )


@pytest.fixture(scope="module")
def rows() -> Rows:
    return scattered()


@pytest.fixture(scope="module")
def claims(rows: Rows) -> dict[str, Claim]:
    return {name: claim(rows) for name, claim in CLAIMS.items()}


# --- what is resampled


def test_claims_about_purifiers_resample_purifiers_and_say_so(claims: dict[str, Claim]) -> None:
    for name, claim in claims.items():
        assert claim.n == 25 and claim.images == 300, name
        for unit in ("images [", "purifiers [", "groups ["):
            assert unit in claim.note, (name, claim.note)
        assert "the verdict rests on the widest" in claim.note
        assert claim.low < claim.ours < claim.high and 0 < claim.p_value < 1


def test_the_interval_over_images_alone_is_the_narrowest(rows: Rows) -> None:
    sweep = law_claims.Sweep.of(rows)
    found = law_claims.relation(sweep, law_claims.rank_correlation, law_claims.FISHER)
    intervals = found.pivot.intervals()  # type: ignore[union-attr]
    widths = {unit: high - low for unit, (low, high) in intervals.items()}
    assert widths["images"] < widths["purifiers"] < widths["groups"]
    assert (found.low, found.high) == pytest.approx(intervals["groups"])


def test_the_intercept_of_the_claim_is_that_of_the_table_and_its_interval_a_little_wider(
    rows: Rows, claims: dict[str, Claim]
) -> None:
    (row,) = fit(rows).query("subset == 'all' and form == 'scaled' and anchor == 'without'").to_dict("records")
    claim = claims["A14"]
    assert claim.ours == pytest.approx(row["intercept"] - 0.9)
    width = (row["intercept_high"] - row["intercept_low"]) / 2
    assert width < (claim.high - claim.low) / 2 < 1.1 * width


def test_the_shared_part_of_the_images_is_what_purifiers_have_in_common() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(4000, 1)) @ np.ones((1, 5))
    alone = rng.normal(size=(4000, 5))
    for samples, expected in ((common, 0.8), (alone, 0.0), (common + alone, 0.8)):
        apart = law_claims._out_of_step(samples)
        spread, shared = law_claims.image_spread(samples.mean(axis=1), apart.mean(axis=1), PLAIN)
        assert isinstance(spread, Spread) and spread.variance == pytest.approx(samples.mean(axis=1).var(), rel=1e-3)
        assert shared == pytest.approx(expected, abs=0.06)


def test_a_rank_correlation_is_scipys_and_a_perfect_one_is_not_certain() -> None:
    rate, robust = RATES, np.random.default_rng(0).random(25)
    assert law_claims.rank_correlation(rate, robust) == spearmanr(rate, robust).statistic
    assert math.isnan(law_claims.rank_correlation(rate, np.ones(25)))
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    perfect = law_rows(rates, first_right([0.9, 0.7, 0.5, 0.4, 0.2, 0.1], 100))
    claim = law_claims.robustness_falls(perfect)
    assert -1.0 < claim.ours < -0.97 and -0.4 < claim.high < 0.4
    assert claim.verdict == "inconclusive", "six points in order do not show a rank correlation below -.8"


def test_points_close_to_a_falling_curve_pass() -> None:
    """The claims can hold: 25 points on the sigmoid, with the clean accuracy as its intercept."""
    robust = scaled(RATES, 13.2, 0.31, 0.915)
    close = law_rows(list(RATES), first_right(list(robust), 3000))
    verdicts = {name: claim(close) for name, claim in CLAIMS.items()}
    assert [verdicts[name].verdict for name in ("A12", "A13", "A14")] == ["pass"] * 3
    assert all(verdicts[name].p_value < 0.025 for name in ("A12", "A13", "A14"))


def test_an_intercept_that_is_not_determined_is_never_the_clean_accuracy() -> None:
    """The tolerance is fixed: a wide interval about a gap of 0 decides nothing."""
    robust = scaled(RATES, 7.0, 0.15, 1.25)
    rows = law_rows(list(RATES), first_right(list(robust), 300), clean=0.9)
    claim = law_claims.extrapolates(rows)
    assert abs(claim.ours) < 0.07 and claim.verdict == "inconclusive"
    assert "within 7 points" in claim.statement


def test_a_system_that_is_the_base_classifier_at_a_smaller_budget_passes() -> None:
    scales = [point["scale"] for point in law_rows([0.3], np.ones((4, 1))).settings["attack_strength"]["undefended"]]
    base = 1.0 / (1.0 + np.exp(12.0 * (np.array(scales) - 0.5)))
    robust = 0.9 / base[0] * np.interp(RATES, scales, base)
    near = law_rows(list(RATES), first_right(list(np.clip(robust, 0, 1)), 300))
    claim = law_claims.base_curve_explains(near)
    assert claim.ours < 0.05 and claim.verdict == "pass"
    far = law_rows(list(RATES), first_right(list(np.clip(robust / 3.0, 0, 1)), 300))
    assert law_claims.base_curve_explains(far).verdict == "fail"


# --- what the law says of points


def test_a_point_is_off_the_law_by_the_laws_own_error_not_by_its_sampling(rows: Rows) -> None:
    table = points(rows)
    sweep = table[table.role == "sweep"]
    by_sampling = ~sweep.predicted.between(sweep.robust_low, sweep.robust_high)
    off = sweep.off_the_law == "yes"
    assert by_sampling.mean() > 0.25 > 0.16 >= off.mean()
    np.testing.assert_allclose(table.off_by_chance, 0.1)
    assert set(table.off_the_law) == {"yes", "no"}
    outside = ~table.robust.between(table.predicted_low, table.predicted_high)
    assert outside.tolist() == (table.off_the_law == "yes").tolist()
    np.testing.assert_allclose(table.residual, table.robust - table.predicted)


def test_controls_are_held_against_the_same_law(rows: Rows) -> None:
    found = controls(rows).set_index("purifier")
    assert found.off_the_law.to_dict() == {"identity": "no", "constant": "yes", "blur": "yes"}
    assert found.flagged.all()
    assert found.breaks.to_dict() == {"identity": "A6", "constant": "A4", "blur": "A4"}
    table = points(rows).set_index("purifier").loc[found.index]
    np.testing.assert_allclose(found.predicted, table.predicted)


def test_every_predictor_has_both_forms_and_errors_with_intervals_over_purifiers(
    rows: Rows,
) -> None:
    table = prediction(rows)
    names = ["compression", "null compression", "t*", "clean accuracy"]
    expected = [(name, form) for name in names for form in ("sigmoid", "line")] + [("constant", "mean")]
    for _, own in table.groupby(["subset", "left_out"]):
        assert list(zip(own.predictor, own.form, strict=True)) == expected
        assert own.best_rival.sum() == 1 and not own[own.predictor == "compression"].best_rival.any()
        assert (own.error_points_low < own.error_points).all() and (own.error_points < own.error_points_high).all()
        rest = own[own.predictor != "compression"]
        ours = own[(own.predictor == "compression") & (own.form == "sigmoid")]
        better = rest.error_points - ours.error_points.item()
        np.testing.assert_allclose(rest.compression_better, better, atol=1e-9)
        assert (rest.compression_better_low < rest.compression_better_high).all()
    assert set(table.left_out) == {"purifier", "t*"}
    same = table[(table.predictor == "null compression") & (table.form == "sigmoid")]
    assert same.compression_better.abs().max() < 0.1, "the made-up null model has 1.2 times the rate"


def test_one_t_star_is_left_out_as_a_whole(rows: Rows) -> None:
    made = predictions(rows, law.points(rows))
    own = made[(made.subset == "all") & (made.left_out == "t*") & (made.form == "mean")]
    stars = law.points(rows).set_index("purifier").t_star
    grouped = own.assign(star=stars.loc[own.purifier].to_numpy()).groupby("star").predicted
    assert (grouped.nunique() == 1).all() and grouped.first().nunique() == 8


# --- points that determine nothing


@dataclass(frozen=True)
class Nothing:
    """Points that determine no law; `decided` are claims that can be decided all the same."""

    rates: list[float]
    robust: list[float]
    reason: str
    decided: dict[str, str] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


TEN = [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
FALLING = [float(value) for value in scaled(np.array(TEN), 12.0, 0.3, 0.9)]
CASES = {
    "all right": Nothing(TEN, [1.0] * 10, "all robust accuracies are equal (1)", rest={"clean": 1.0}),
    "all wrong": Nothing(TEN, [0.0] * 10, "all robust accuracies are equal (0)"),
    "all equal": Nothing(TEN, [0.3] * 10, "all robust accuracies are equal (0.3)"),
    "no more than sampling": Nothing(TEN, [0.07, 0.1, 0.13, 0.1, 0.07] * 2, "the robust accuracies differ no more"),
    "one point": Nothing([0.3], [0.5], "1 usable point, fewer than 6"),
    "five points": Nothing(TEN[:5], FALLING[:5], "5 usable points, fewer than 6"),
    "equal rates": Nothing([0.4] * 10, FALLING, "all compression rates are equal (0.4)"),
    "no compression": Nothing([1.0] * 10, FALLING, "all compression rates are equal (1)"),
    "no rates": Nothing([math.nan] * 10, FALLING, "0 usable points (10 without a compression rate"),
    "few rates": Nothing([*TEN[:5], *[math.nan] * 5], FALLING, "5 usable points (5 without a compression rate"),
    "rising": Nothing(
        TEN,
        FALLING[::-1],
        "no falling sigmoid describes them better",
        {"A12": "fail", "A15": "fail"},
    ),
    "a step": Nothing(TEN, [1.0] * 5 + [0.0] * 5, "a step of any steepness", {"A15": "fail"}, {"clean": 1.0}),
    "an undefended classifier that is never right": Nothing(
        TEN,
        [0.0] * 10,
        "all robust accuracies are equal (0)",
        rest={"base": [0.0] * 14, "clean": 0.0},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def of(case: Nothing) -> Rows:
    return law_rows(case.rates, first_right(case.robust, 100), **case.rest)


@each_case
@pytest.mark.filterwarnings("error")
def test_tables_say_why_the_law_is_not_determined(case: Nothing) -> None:
    rows = of(case)
    law_table = fit(rows)
    scaled_fits = law_table[
        (law_table.form == "scaled") & (law_table.subset == "all") & (law_table.anchor == "without")
    ]
    assert list(law_table.columns) == list(law.PARAMETERS)
    assert not scaled_fits.determined.any() and scaled_fits.intercept.isna().all()
    assert scaled_fits.note.str.startswith(f"{SENTENCE}: {case.reason}").all(), scaled_fits.note.tolist()
    for table in (points(rows), controls(rows)):
        assert set(table.off_the_law) == {"not determined"} and table.predicted.isna().all()
        assert table.law.str.startswith(SENTENCE).all()
    compared = defences(rows)
    assert set(compared.off_the_law) == {"not determined"} and compared.law.isna().all()
    table = prediction(rows)
    known = np.isfinite(case.rates).sum()
    assert (table.note.fillna("").str.startswith(SENTENCE)).any() == (known < 6 or len(names_of(known)) < 10)


@each_case
@pytest.mark.filterwarnings("error")
def test_claims_about_no_law_are_inconclusive(case: Nothing) -> None:
    rows = of(case)
    for name, claim in CLAIMS.items():
        found = claim(rows)
        assert found.verdict == case.decided.get(name, "inconclusive"), (name, found)
        if name in ("A13", "A14"):
            assert found.note.startswith(f"{SENTENCE}: {case.reason}") and found.effect == "not measured"
            assert math.isnan(found.p_value) and math.isnan(found.low)


def texts(figure: Figure) -> str:
    """Everything that a figure says, in one line."""
    labels = [text.get_text() for legend in figure.findobj(Legend) for text in legend.get_texts()]
    labels += [text.get_text() for axis in figure.axes for text in axis.texts]
    return " ".join(" ".join(labels).split())


@each_case
@pytest.mark.filterwarnings("error")
def test_files_are_written_with_their_columns_and_figures_say_why(case: Nothing, tmp_path: Path) -> None:
    rows = of(case)
    outputs = {name: tmp_path / f"{name}.parquet" for name in ("points", "parameters", "curves", "predictions")}
    fit_compression_robustness(rows, outputs)
    read = {name: pd.read_parquet(path) for name, path in outputs.items()}
    assert tuple(read["parameters"].columns) == law.PARAMETERS and tuple(read["curves"].columns) == law.CURVES
    assert {"predicted", "off_the_law", "law", "residual"} <= set(read["points"].columns)
    assert {"subset", "left_out", "form", "purifier", "predicted"} <= set(read["predictions"].columns)
    said = texts(draw("compression_robustness", rows, Extras(read)))
    if np.isfinite(case.rates).any():
        assert f"{SENTENCE}: {case.reason}"[:60] in said
        assert "the law is not determined by these points" in said
    else:
        assert set(CONTROLS) <= {word.removesuffix(",") for word in said.split()}
    assert isinstance(draw("prediction", rows, Extras(read)), Figure)


def test_a_determined_law_is_drawn_with_its_r_squared_and_no_labels_in_the_panels(
    rows: Rows,
) -> None:
    table = law.points(rows)
    parameters, curves = law.fits(rows, table)
    fitted = {
        "points": law.against_the_law(rows, table),
        "parameters": parameters,
        "curves": curves,
    }
    figure = draw("compression_robustness", rows, Extras(fitted))
    said = texts(figure)
    assert "all t* ($R^2$ = 0.9" in said and SENTENCE not in said
    assert all(f"control: {name}" in said for name in CONTROLS)
    assert not [text for axis in figure.axes for text in axis.texts], "a label beside a point collides with others"


@pytest.mark.filterwarnings("error")
def test_points_of_which_some_have_no_rate_are_fitted_to_the_rest() -> None:
    rates = [*TEN, math.nan, math.nan]
    rows = law_rows(rates, first_right([*FALLING, 0.5, 0.5], 300))
    found = law.fit(rows, law.sweep_of(law.points(rows)), "scaled")
    assert not isinstance(found, Undetermined) and found.n == 10
    table = points(rows)
    unknown = table[table.compression.isna()]
    assert set(unknown.off_the_law) == {"not determined"}
    assert (unknown.law == "this point has no compression rate or no accuracy").all()
    assert law_claims.robustness_falls(rows).left_out == (
        f"purifiers without a rate or an accuracy: {', '.join(sorted(names_of(12)[10:]))}"
    )
