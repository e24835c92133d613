"""The claims of arXiv 2505.22839 as checks A0-A17: the paper's number, ours with its interval, and
a verdict.

A verdict is taken on a 95 % interval over images: "pass" when the whole interval is on the claimed
side, "fail" when it is on the other, "inconclusive" in between. A0, A10 and A17 check the
measurement itself, not the paper. The reasons for the thresholds are in docs/methods.md, section
13.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from purification import statistics
from purification.intervals import TAIL
from purification.reporting.claim import (
    Asked,
    Claim,
    also,
    attacked_images,
    claims_table,
    headline_claim,
    judge,
    make_claim,
    null_notes,
    words,
)
from purification.reporting.examination import attack_checks
from purification.reporting.law_claims import (
    base_curve_explains,
    extrapolates,
    robustness_falls,
    sigmoid_fits,
)
from purification.reporting.needed import interval_images, paired_images
from purification.reporting.path_claims import distance_grows, similarity_falls
from purification.reporting.protocol import both_shares, discordant
from purification.reporting.rows import Rows
from purification.reporting.self_check import WORST_FIRST, worst_verdict
from purification.reporting.spectra import means
from purification.statistics import Array, Estimate


def probe_size(rows: Rows) -> Claim:
    """A0: unclipped uniform probes have mean norm eps sqrt(D / 3)."""
    asked = Asked(
        "A0",
        "The probes are as long on average as uniform noise without clipping, eps sqrt(D / 3), within 1 %.",
        "1.004",
        above=0.99,
        below=1.01,
    )
    pixels = rows.values("jacobian", rows.headline, "pixels").max()
    expected = rows.settings["threat"]["epsilon"] * math.sqrt(pixels / 3.0)
    estimate = statistics.mean(rows.values("randomness", rows.headline, "radius_before") / expected)
    return make_claim(
        asked,
        estimate,
        effect=f"mean length {estimate.value:.4f} times eps sqrt(D / 3)",
        notes=("a check of the measurement: probes are uniform and not clipped",),
    )


def _correlation(rows: Rows, condition: str, model: str = "trained") -> pd.Series:
    return rows.values("randomness", rows.headline, f"correlation_{condition}", model)


def _correlation_claim(rows: Rows, asked: Asked, condition: str) -> Claim:
    estimate = statistics.mean(_correlation(rows, condition), low=-1.0, high=1.0)
    null = statistics.mean(_correlation(rows, condition, "null"), low=-1.0, high=1.0)
    effect = f"correlation {estimate.value:.3f} on a scale from -1 to 1"
    return headline_claim(rows, asked, estimate, null, effect=effect)


def fixed_correlation(rows: Rows) -> Claim:
    """A3: with fixed noise all nearby inputs are moved in the same direction."""
    asked = Asked(
        "A3",
        "With fixed noise nearby images are moved in the same direction: the correlation of f(x_i) - x_i is above .8.",
        ".93",
        above=0.8,
        size=0.93,
    )
    return _correlation_claim(rows, asked, "fixed")


def varied_correlation(rows: Rows) -> Claim:
    """A4: with varied noise the directions are nearly unrelated."""
    asked = Asked(
        "A4",
        "With varied noise one image is moved in nearly unrelated directions: their correlation is below .4.",
        ".22",
        below=0.4,
        size=0.22,
        neutral=1.0,
    )
    return _correlation_claim(rows, asked, "varied")


def correlation_gap(rows: Rows) -> Claim:
    """A5: noise decides the direction."""
    asked = Asked(
        "A5",
        "The noise decides the direction: the correlation is more than .4 higher with fixed than with varied noise.",
        ".71 (inferred)",
        above=0.4,
        size=0.71,
    )
    gap = _correlation(rows, "fixed") - _correlation(rows, "varied")
    twin = _correlation(rows, "fixed", "null") - _correlation(rows, "varied", "null")
    estimate = statistics.mean(gap, low=-2.0, high=2.0)
    null = statistics.mean(twin, low=-2.0, high=2.0)
    effect = f"correlation {estimate.value:+.3f} higher with fixed than with varied noise"
    return headline_claim(rows, asked, estimate, null, effect=effect)


def compresses(rows: Rows) -> Claim:
    """A6: with fixed noise the image space is compressed."""
    asked = Asked(
        "A6",
        "With fixed noise purification compresses the neighbourhood of an image: the compression rate is below 1.",
        ".240 (inferred)",
        below=1.0,
        size=0.24,
        neutral=1.0,
    )
    estimate = rows.compression(rows.headline)
    effect = f"outputs spread {estimate.value:.3f} times as far as inputs"
    null = rows.compression(rows.headline, "null")
    return headline_claim(rows, asked, estimate, null, effect=effect)


def _radius_ratio(rows: Rows, above: str, below: str, model: str = "trained") -> pd.Series:
    """Image -> ratio of two radii; NaN where the second is 0."""
    first = rows.values("randomness", rows.headline, f"radius_{above}", model)
    second = rows.values("randomness", rows.headline, f"radius_{below}", model)
    return first / second.where(second > 0.0)


def noise_spreads(rows: Rows) -> Claim:
    """A7: with varied noise the outputs spread wider than the inputs."""
    asked = Asked(
        "A7",
        "With varied noise the outputs of one image spread wider than its neighbours: radius / radius before > 1.",
        "3.27 (inferred)",
        above=1.0,
        size=3.27,
        neutral=1.0,
    )
    estimate = statistics.mean(_radius_ratio(rows, "varied", "before"))
    null = statistics.mean(_radius_ratio(rows, "varied", "before", "null"))
    effect = f"outputs spread {estimate.value:.3f} times as far as inputs"
    return headline_claim(rows, asked, estimate, null, effect=effect)


def noise_dominates(rows: Rows) -> Claim:
    """A8: varying the image as well adds almost nothing."""
    asked = Asked(
        "A8",
        "Varying the image besides the noise changes the spread of the outputs by less than 5 %.",
        ".003 (inferred)",
        above=-0.05,
        below=0.05,
    )
    estimate = statistics.mean(_radius_ratio(rows, "both", "varied") - 1.0)
    null = statistics.mean(_radius_ratio(rows, "both", "varied", "null") - 1.0)
    effect = f"the radius changes by {100.0 * estimate.value:+.2f} %"
    return headline_claim(rows, asked, estimate, null, effect=effect)


def _spectral_shares(rows: Rows, model: str = "trained") -> tuple[Array, Array]:
    """Shares of the singular values below .25 and above 1, by image."""
    frame = rows.select("jacobian", rows.headline, model)
    below, _ = means(frame, lambda values: values < 0.25)
    above, _ = means(frame, lambda values: values > 1.0)
    return below, above


def spectrum(rows: Rows) -> Claim:
    """A9: most directions are compressed, few are amplified."""
    small, large = (statistics.mean(shares, low=0.0, high=1.0) for shares in _spectral_shares(rows))
    null, null_large = (statistics.mean(shares, low=0.0, high=1.0) for shares in _spectral_shares(rows, "null"))
    asked = Asked(
        "A9",
        "Most directions are compressed and few are amplified: the share of singular values "
        "below .25 is no more than "
        ".15 under the null model's, and the share above 1 is at most .05.",
        "> .90, .013",
        above=null.value - 0.15,
        size=0.9,
    )
    claim = make_claim(
        asked,
        small,
        effect=f"{100.0 * small.value:.1f} % of the singular values are below .25, {100.0 * large.value:.2f} % above 1",
        null=f"{words(null)} below .25, {words(null_large)} above 1",
        left_out=f"every purifier but {rows.headline}",
        notes=(
            f"threshold {asked.above:.3f}; share above 1: {words(large, '.4f')}",
            *null_notes(asked, small, null),
        ),
    )
    if math.isnan(asked.above):
        return also(claim, "inconclusive", math.nan, math.nan)
    needed = interval_images(large, large.n, below=0.05)
    return also(claim, judge(large, below=0.05), large.p_value(below=0.05), needed)


def jacobian_agrees(rows: Rows) -> Claim:
    """A10: small finite perturbations are compressed by the rms singular value."""
    asked = Asked(
        "A10",
        "The rms singular value of the Jacobian and the compression of small probes agree within 10 %.",
        "-",
        above=-0.1,
        below=0.1,
    )
    frame = rows.select("jacobian", rows.headline)
    mean_square, _ = means(frame, np.square)
    small = rows.values("jacobian", rows.headline, "compression_small").to_numpy()
    estimate = statistics.mean(np.sqrt(mean_square) / np.where(small > 0.0, small, np.nan) - 1.0)
    return make_claim(
        asked,
        estimate,
        effect=f"they differ by {100.0 * estimate.value:+.2f} %",
        notes=("a check of the measurement: it fails where the Jacobian is wrong or the noise not fixed",),
    )


def randomness_matters(rows: Rows) -> Claim:
    """A11: knowing the randomness makes the attack stronger."""
    asked = Asked(
        "A11",
        "An attack that knows the noise leaves less accuracy than the same one averaged over draws (EOT): "
        "the difference is above 0, and McNemar's exact test on one draw agrees.",
        "48.3 / ~70 against 23.7 %",
        above=0.0,
        size=0.70 - 0.237,
    )
    averaged = (rows.purified(rows.headline, "eot"), "varied")
    known = (rows.purified(rows.headline, rows.plain_attack), "fixed")
    shares = both_shares(averaged, known)
    wins, losses = discordant(averaged, known)
    p = statistics.mcnemar(wins, losses, alternative="greater")
    pairs = f"{wins} images right only under EOT, {losses} only with known noise"
    least = rows.worst_known(rows.headline).value
    claim = _accuracy_claim(
        rows,
        asked,
        shares,
        names=("EOT", "the attack that knows the noise"),
        note=f"McNemar's one-sided p = {p:.2g}: {pairs}; all attacks that know the noise leave {100.0 * least:.1f} %",
    )
    if not claim.ours > 0.0:
        return claim
    agrees = "pass" if p < TAIL else "inconclusive"
    return also(claim, agrees, p, paired_images(wins, losses, len(shares)))


def bpda_overstates(rows: Rows) -> Claim:
    """A16: replacing the purifier's derivative by the identity overstates robustness."""
    asked = Asked(
        "A16",
        "A gradient that skips the purifier (BPDA) leaves over 5 points more accuracy than the exact gradient.",
        "68.0 against 23.7 %",
        above=0.05,
        size=0.680 - 0.237,
    )
    weak, exact = ((rows.purified(rows.headline, name), "fixed") for name in ("bpda", rows.plain_attack))
    shares = both_shares(weak, exact)
    return _accuracy_claim(
        rows, asked, shares, names=("BPDA", "the exact gradient"), note="both under the same fixed noise"
    )


def _accuracy_claim(rows: Rows, asked: Asked, shares: Array, *, names: tuple[str, str], note: str) -> Claim:
    """A claim about the difference of two accuracies of the headline; shares (n, 2)."""
    estimate = statistics.difference(shares[:, 0] - shares[:, 1])
    first, second = (f"{100.0 * share:.1f} %" for share in shares.mean(axis=0)) if len(shares) else ("", "")
    return make_claim(
        asked,
        estimate,
        effect=f"{100.0 * estimate.value:+.1f} points of accuracy: {first} under {names[0]}, {second} under {names[1]}",
        left_out=f"every purifier but {rows.headline}",
        notes=(note,),
    )


def attack_is_sound(rows: Rows) -> Claim:
    """A17: the attack passes its own examination."""
    checks = attack_checks(rows)
    by_verdict = {
        verdict: [name for name, check in checks.items() if check.verdict == verdict] for verdict in WORST_FIRST
    }
    share = len(by_verdict["pass"]) / len(checks)
    estimate = Estimate(share, share, share, len(checks))
    effect = f"{len(by_verdict['pass'])} of {len(checks)} checks hold"
    asked = Asked("A17", "The attack passes its own examination.", "-")
    notes = [
        f"{said}: {', '.join(by_verdict[verdict])}"
        for verdict, said in (("fail", "failed"), ("inconclusive", "undecided"))
        if by_verdict[verdict]
    ]
    claim = make_claim(asked, estimate, effect=effect, notes=tuple(notes), images=attacked_images(rows))
    return replace(claim, verdict=worst_verdict(checks.values()), needed_n=math.nan)


CLAIMS: dict[str, Callable[[Rows], Claim]] = {
    "A0": probe_size,
    "A1": distance_grows,
    "A2": similarity_falls,
    "A3": fixed_correlation,
    "A4": varied_correlation,
    "A5": correlation_gap,
    "A6": compresses,
    "A7": noise_spreads,
    "A8": noise_dominates,
    "A9": spectrum,
    "A10": jacobian_agrees,
    "A11": randomness_matters,
    "A12": robustness_falls,
    "A13": sigmoid_fits,
    "A14": extrapolates,
    "A15": base_curve_explains,
    "A16": bpda_overstates,
    "A17": attack_is_sound,
}


def judge_all(rows: Rows) -> pd.DataFrame:
    """The claims table."""
    return claims_table([check(rows) for check in CLAIMS.values()])
