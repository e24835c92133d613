"""Whether an evaluation counts: by its audit, by what the attack saw, and by what other attacks know against it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
import yaml
from test_figures import ROOT

from purification.reporting.known import known_results
from purification.reporting.reliability import CHECKS, Examination, detectable_share, examine, forgiven_images
from purification.reporting.verdict import Verdict, judge_purifier

LIMITS: dict[str, float] = yaml.safe_load((ROOT / "config/default.yaml").read_text())["reliability"]
IMAGES = 30
GOOD: dict[str, Any] = {
    **dict.fromkeys(CHECKS, 0.0),
    **{
        "linearity": 0.95,
        "linearity_budget": 0.8,
        "foreseen": 0.9,
        "gradient": "replay",
        "no_derivative": "",
        "no_double": "",
    },
}


def audited(images: int = IMAGES, bad: int = IMAGES, **columns: Any) -> pd.DataFrame:
    """Audit of `images` images, of which the first `bad` have other columns."""
    good = pd.DataFrame({"image": range(images), **GOOD})
    worse = pd.DataFrame({"image": range(images), **{**GOOD, **columns}})
    return pd.concat([worse.iloc[:bad], good.iloc[bad:]])


def examined(frame: pd.DataFrame, **options: Any) -> Examination:
    return examine(frame, LIMITS, **options)


def test_a_good_audit_says_nothing() -> None:
    found = examined(audited())
    assert (found.wrong, found.hints, found.notes, found.unmeasured) == ((), (), (), ())


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "one repeated image differs": ({"repeat_difference": 1e-9}, 1, "the same image and noise give different results"),
    "company": ({"batch_difference": 0.01}, 1, "its result depends on the other images of the batch"),
    "recorded": ({"recorded_difference": 0.01}, 1, "it is another function while gradients are recorded"),
    "twice": ({"gradient_repeat": 0.01}, 1, "the same gradient taken twice differs"),
    "replay": ({"replay_difference": 0.01}, 1, "the replayed gradient differs from the gradient"),
    "not finite": ({"not_finite": 0.01}, 1, "the gradient has NaN or infinity"),
    "derivative": ({"finite_difference": 1.1}, 4, "the gradient is not the derivative of what runs"),
    "signs": ({"sign_mass": 0.5}, 7, "rounding decides the sign of the gradient"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_check_beyond_its_limit_says_what_is_wrong(name: str) -> None:
    columns, bad, meaning = WRONG[name]
    assert examined(audited(bad=bad, **columns)).wrong == (meaning,)
    assert examined(audited(bad=bad - 1, **columns)).wrong == ()


FAR = "along the gradient the loss changes far more or far less than the gradient foresees"
HINTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "zero": ({"zero_gradient": 1.0}, 2, "the gradient vanishes where the loss changes"),
    "linearity": ({"linearity": -0.3}, 16, "the gradient does not foresee what a quarter of the budget changes"),
    "jumps": ({"foreseen": 0.05}, 16, FAR),
    "turns back": ({"foreseen": 5.0}, 16, FAR),
    "does not move": ({"foreseen": math.inf}, 15, FAR),
}


@pytest.mark.parametrize("name", HINTS)
def test_a_gradient_that_leads_nowhere_is_a_doubt(name: str) -> None:
    columns, bad, meaning = HINTS[name]
    assert examined(audited(bad=bad, **columns)).hints == (meaning,)
    assert examined(audited(bad=bad - 1, **columns)).hints == ()


def test_the_cause_is_named_and_not_what_follows_from_it() -> None:
    found = examined(audited(batch_difference=0.5, finite_difference=9.0, linearity=0.0, masked=1.0))
    assert found.wrong == ("its result depends on the other images of the batch",)
    assert found.hints == found.notes == ()


def test_how_many_images_are_forgiven_and_what_is_found_then() -> None:
    """At eight images nothing is forgiven; at thirty, three."""
    assert [forgiven_images(n, LIMITS) for n in (1, 8, 9, 10, 29, 30, 50)] == [0, 0, 0, 1, 2, 3, 5]
    assert detectable_share(8) == pytest.approx(1 - 0.05 ** (1 / 8))
    assert detectable_share(30) == pytest.approx(0.095, abs=5e-4)
    found = detectable_share(30, 3)
    missed = sum(math.comb(30, k) * found**k * (1 - found) ** (30 - k) for k in range(4))
    assert missed == pytest.approx(0.05) and found == pytest.approx(0.239, abs=1e-3)
    assert detectable_share(3, 3) == 1


def test_the_worst_stage_of_an_image_counts() -> None:
    frame = pd.concat([audited(), audited(bad=1, not_finite=1.0)])
    assert examined(frame).wrong == ("the gradient has NaN or infinity",)
    assert examined(frame).images == IMAGES


def test_an_approximation_is_not_compared_with_the_derivative() -> None:
    columns = {"finite_difference": math.nan, "linearity": math.nan, "masked": math.nan, "replay_difference": math.nan}
    found = examined(audited(gradient="bpda", **columns))
    assert (found.wrong, found.hints, found.notes, found.unmeasured) == ((), (), (), ())
    assert examined(audited(gradient="bpda", gradient_repeat=1.0)).wrong


def test_a_declared_approximation_is_asked_whether_it_leads_anywhere() -> None:
    steps = audited(finite_difference=9.0, masked=1.0, linearity=0.1, linearity_budget=0.7)
    assert examined(steps).wrong == ("the gradient is not the derivative of what runs",)
    found = examined(steps, approximate=True)
    assert (found.wrong, found.hints, found.notes) == ((), (), ())
    lost = examined(steps.assign(linearity_budget=0.1), approximate=True)
    assert lost.hints == ("the gradient does not foresee what a quarter of the budget changes",)


def test_what_cannot_be_measured_is_not_wrong() -> None:
    single = examined(audited(sign_mass=math.nan, no_double="expected float32"))
    assert single.wrong == single.hints == ()
    assert single.unmeasured == ("sign_mass, and finite differences were taken in float32: expected float32",)
    nothing = {name: math.nan for name in CHECKS if name not in ("repeat_difference", "batch_difference")}
    none = examined(audited(**nothing, no_derivative="it rounds"))
    assert none.wrong == none.hints == none.notes == ()
    assert none.unmeasured == ("nothing about a gradient: it rounds",)
    flat = examined(audited(linearity=math.nan))
    assert flat.unmeasured == ("linearity: no random change of a quarter of the budget changes the margin",)


# --- with what the attacks know


def judged(
    examination: Examination | None,
    *,
    images: int = 120,
    base: int = 60,
    challenged: int | None = None,
    unmoved: int = 0,
    response: float = 0.1,
    otherwise: int = 0,
    classes: int = 2,
) -> Verdict:
    """Verdict where the base attack leaves the first `base` of `images`, and a challenge the first `challenged`.

    unmoved    first images that the base attack leaves where they are
    otherwise  images that the attack saw as broken although they are judged right
    classes    that are predicted without an attack on the purifier
    """
    counts = {"base": base, "random": images, "transfer": images, "challenge": challenged}
    parts = []
    for attack, right in counts.items():
        if right is not None:
            labels = [3 if number < right else 5 for number in range(images)]
            if attack == "random" and classes == 2:
                labels[-1] = 5
            columns = {"label": 3, "fixed": labels, "size_linf": 0.1, "own_accuracy": math.nan, "response": response}
            parts.append(pd.DataFrame({"attack": attack, "image": range(images), **columns}))
    frame = pd.concat(parts, ignore_index=True)
    own = frame.attack == "base"
    frame.loc[own, "own_accuracy"] = (frame.fixed == frame.label)[own].astype(float)
    frame.loc[own & (frame.image < otherwise), "own_accuracy"] = 0.0
    frame.loc[own & (frame.image < unmoved), "size_linf"] = 0.0
    known = known_results(frame, "base", norm="linf", epsilon=0.1)
    return judge_purifier(examination, frame, known, LIMITS, base="base", norm="linf")


CLEAN = examined(audited())


def test_a_margin_that_is_flat_around_most_images_is_a_doubt_unless_all_are_predicted_alike() -> None:
    """As of a classifier that answers with a vote: every attack that follows values finds nothing."""
    still = {"linearity": math.nan, "linearity_budget": math.nan, "foreseen": math.nan}
    flat = examined(audited(**still, bad=16))
    half = examined(audited(**still, bad=15))
    why = "around 53 % of the images the margin is the same everywhere: no attack had anything to follow"
    assert judged(flat, challenged=60, classes=2).why == (why,)
    assert judged(half, challenged=60, classes=2).why == ()
    assert judged(flat, base=2, challenged=2, classes=2).notes == (why,)
    assert judged(flat, challenged=60, classes=1).why == ()
    assert examined(audited(**still, no_derivative="it rounds")).flat == 0


def test_a_base_attack_that_nothing_beats_counts() -> None:
    assert judged(CLEAN, challenged=60).why == ()
    assert judged(CLEAN, challenged=58).why == (), "1.7 points"


def test_without_an_audit_nothing_counts() -> None:
    assert judged(None).why == ("its gradient was not audited",)


def test_a_base_attack_that_is_beaten_by_more_than_two_points_does_not_count() -> None:
    assert judged(CLEAN, challenged=57).why == (
        "other attacks break 2.5 points more than its base attack (on 120 images)",
    )


def test_images_left_where_they_were_raise_a_doubt_where_the_loss_changes() -> None:
    assert judged(CLEAN, unmoved=6).why == ()
    (reason,) = judged(CLEAN, unmoved=7).why
    assert reason == "the attack left 5.8 % of the images where they were although the loss changes"
    assert judged(CLEAN, unmoved=60, response=0.0).why == (), "a constant purifier changes nothing"


def test_an_attack_that_saw_other_results_than_those_judged_does_not_count() -> None:
    assert judged(CLEAN, otherwise=1).why == ()
    assert judged(CLEAN, otherwise=2).why == ("1.7 % of the images were judged otherwise than the attack saw them",)


def test_doubts_are_notes_where_no_robustness_is_left_to_overstate() -> None:
    doubtful = examined(audited(zero_gradient=1.0, linearity=0.0))
    assert len(judged(doubtful, base=60, challenged=60).why) == 2
    nothing_left = judged(doubtful, base=2, challenged=2)
    assert nothing_left.why == () and len(nothing_left.notes) == 2


def test_what_is_wrong_stays_wrong_where_no_robustness_is_left() -> None:
    wrong = examined(audited(finite_difference=9.0))
    assert judged(wrong, base=0, challenged=0).why == ("the gradient is not the derivative of what runs",)


def test_a_mask_asks_for_other_attacks_and_is_cleared_by_them() -> None:
    clamped = examined(audited(masked=0.8))
    assert clamped.notes == ("clamping or rounding stops the gradient",)
    alone = judged(clamped)
    assert alone.why == ("clamping or rounding stops the gradient, and no other attack was run on it",)
    challenged = judged(clamped, challenged=60)
    assert challenged.why == () and challenged.notes == clamped.notes
    assert judged(clamped, challenged=50).why != ()
