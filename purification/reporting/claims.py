"""The claims of arXiv 2505.22839 as checks A0-A17: the paper's number, ours with its interval, and a verdict.

A verdict is taken on a 95 % interval over images: "pass" when the whole interval is on the claimed side, "fail" when it
is on the other, "inconclusive" in between. A0, A10 and A17 check the measurement itself, not the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from purification import statistics
from purification.reporting.claim import Claim, attacked_images, judge, make_claim
from purification.reporting.examination import attack_checks
from purification.reporting.law_claims import base_curve_explains, extrapolates, robustness_falls, sigmoid_fits
from purification.reporting.needed import interval_images, paired_images
from purification.reporting.rows import Rows, fixed_correct, varied_correct
from purification.reporting.spectra import means
from purification.statistics import Array, Estimate

CROSSOVER = 1.3  # A1 is asked only where the null model's own distance ratio exceeds this


def _image_size(rows: Rows) -> int:
    """D, the number of singular values."""
    return int(rows.frames["jacobian"].pixels.iloc[0])


def probe_size(rows: Rows) -> Claim:
    """A0: unclipped uniform probes have mean norm eps sqrt(D / 3)."""
    probes = rows.select("randomness", rows.headline)
    expected = rows.settings["threat"]["epsilon"] * math.sqrt(_image_size(rows) / 3)
    estimate = rows.mean(probes.radius_before / expected)
    note = "self-check of the protocol: probes are uniform and not clipped"
    return make_claim("A0", "mean ||u|| = eps sqrt(D/3) within 1 %", "1.004", estimate, note, above=0.99, below=1.01)


def _path_ends(rows: Rows, purifier: str, metric: str, model: str = "trained") -> pd.DataFrame:
    """First and last value of a metric along the path of every image, attacked start."""
    path = rows.select("distances", purifier, model, start="adversarial")
    ends = [path[path.position == position].set_index("image")[metric] for position in (0.0, 2.0)]
    return pd.DataFrame({"start": ends[0], "end": ends[1]})


def _ratio(ends: Array) -> float:
    return float(ends[:, 1].mean() / ends[:, 0].mean())


def distance_grows(rows: Rows) -> Claim:
    """A1: purification moves images away from the clean image, for every sampler."""
    worst, skipped = None, []
    for purifier in rows.settings["run"]["distances"]:
        null = (
            _ratio(_path_ends(rows, purifier, "l2", "null").to_numpy()) if rows.has_null("distances", purifier) else 0.0
        )
        if null <= CROSSOVER:
            skipped.append(purifier)
            continue
        ends = _path_ends(rows, purifier, "l2").to_numpy()
        estimate = statistics.bootstrap(ends, _ratio, **rows.resampling)
        if worst is None or estimate.low < worst[1].low:
            worst = (purifier, estimate)
    if worst is None:
        worst = ("none", Estimate(math.nan, math.nan, math.nan, 0))
    note = (
        f"smallest of all samplers: {worst[0]}; not asked where the null ratio is below {CROSSOVER}: {_names(skipped)}"
    )
    statement = "l2 distance to the clean image grows: end / start > 1"
    return make_claim("A1", statement, "2.44 (DDIM), 2.27 (one-step), 3.1 (DDPM, inferred)", worst[1], note, above=1.0)


def _names(names: list[str]) -> str:
    return ", ".join(names) or "none"


def similarity_falls(rows: Rows) -> Claim:
    """A2: structural similarity to the clean image falls."""
    ends = _path_ends(rows, rows.headline, "ssim")
    note = f"SSIM {ends.start.mean():.3f} -> {ends.end.mean():.3f}, {rows.headline}"
    estimate = rows.mean(ends.end - ends.start)
    return make_claim("A2", "SSIM(purified) - SSIM(attacked) < 0", ".963 -> .791", estimate, note, below=0.0)


def _null_note(rows: Rows, kind: str, column: str) -> str:
    return f"null model {rows.select(kind, rows.headline, 'null')[column].mean():.3f}"


def fixed_correlation(rows: Rows) -> Claim:
    """A3: with fixed noise all nearby inputs are moved in the same direction."""
    estimate = rows.mean(rows.select("randomness", rows.headline).correlation_fixed)
    note = _null_note(rows, "randomness", "correlation_fixed")
    return make_claim("A3", "direction correlation, fixed noise, f(x_i) - x_i > .8", ".93", estimate, note, above=0.8)


def varied_correlation(rows: Rows) -> Claim:
    """A4: with varied noise the directions are nearly unrelated."""
    estimate = rows.mean(rows.select("randomness", rows.headline).correlation_varied)
    note = _null_note(rows, "randomness", "correlation_varied")
    return make_claim("A4", "direction correlation, varied noise < .4", ".22", estimate, note, below=0.4)


def correlation_gap(rows: Rows) -> Claim:
    """A5: noise decides the direction."""
    frame = rows.select("randomness", rows.headline)
    null = rows.select("randomness", rows.headline, "null")
    note = f"null model {(null.correlation_fixed - null.correlation_varied).mean():.3f}"
    estimate = rows.mean(frame.correlation_fixed - frame.correlation_varied)
    return make_claim("A5", "correlation fixed - varied > .4", ".71 (inferred)", estimate, note, above=0.4)


def compresses(rows: Rows) -> Claim:
    """A6: with fixed noise the image space is compressed."""
    null = rows.compression(rows.headline, "null").value
    estimate = rows.compression(rows.headline)
    return make_claim(
        "A6", "compression rate with fixed noise < 1", ".240 (inferred)", estimate, f"null model {null:.3f}", below=1.0
    )


def noise_spreads(rows: Rows) -> Claim:
    """A7: with varied noise the outputs spread wider than the inputs."""
    frame = rows.select("randomness", rows.headline)
    null = rows.select("randomness", rows.headline, "null")
    note = f"null model {(null.radius_varied / null.radius_before).mean():.2f}"
    estimate = rows.mean(frame.radius_varied / frame.radius_before)
    return make_claim(
        "A7", "radius with varied noise / radius before > 1", "3.27 (inferred)", estimate, note, above=1.0
    )


def noise_dominates(rows: Rows) -> Claim:
    """A8: varying the image as well adds almost nothing."""
    frame = rows.select("randomness", rows.headline)
    estimate = rows.mean(frame.radius_both / frame.radius_varied - 1.0)
    statement = "|radius both / radius varied - 1| < .05"
    return make_claim("A8", statement, ".003 (inferred)", estimate, rows.headline, above=-0.05, below=0.05)


def spectrum(rows: Rows) -> Claim:
    """A9: most directions are compressed, few are amplified."""
    frame, twin = rows.select("jacobian", rows.headline), rows.select("jacobian", rows.headline, "null")
    threshold = float(means(twin, lambda values: values < 0.25)[0].mean()) - 0.15
    small, large = (rows.mean(means(frame, of)[0]) for of in (lambda s: s < 0.25, lambda s: s > 1.0))
    above = f"{large.value:.4f} [{large.low:.4f}, {large.high:.4f}]"
    note = f"threshold is the null model's fraction - .15; fraction above 1: {above}"
    claim = make_claim(
        "A9",
        f"fraction of singular values < .25 above {threshold:.2f}, and <= .05 above 1",
        "> .90, .013",
        small,
        note,
        above=threshold,
    )
    verdicts = {claim.verdict, judge(large, below=0.05)}
    worst = next(v for v in ("fail", "inconclusive", "pass") if v in verdicts)
    needed = max(claim.needed_n, interval_images(large, large.n, below=0.05))
    return Claim(**{**vars(claim), "verdict": worst, "needed_n": needed})


def jacobian_agrees(rows: Rows) -> Claim:
    """A10: small finite perturbations are compressed by the rms singular value."""
    frame = rows.select("jacobian", rows.headline)
    mean_square, _ = means(frame, np.square)
    estimate = rows.mean(np.sqrt(mean_square) / frame.compression_small - 1.0)
    note = "self-check: an identity in the limit; failure means a wrong Jacobian or noise that is not fixed"
    return make_claim(
        "A10", "|rms singular value / small-probe compression - 1| < .10", "-", estimate, note, above=-0.1, below=0.1
    )


def randomness_matters(rows: Rows) -> Claim:
    """A11: knowing the randomness makes the attack stronger."""
    stochastic = rows.purified(rows.headline, "eot")
    fixed = rows.purified(rows.headline, rows.base_attack)
    fixed = fixed[fixed.image.isin(stochastic.image)]
    known, unknown = fixed_correct(fixed).astype(float), varied_correct(stochastic)
    first, second = known.astype(bool), unknown[:, 0]
    p = statistics.mcnemar(first, second)
    paired = paired_images(int((first & ~second).sum()), int((~first & second).sum()), len(first))
    estimate = rows.mean(unknown.mean(axis=1) - known)
    note = f"fixed {known.mean():.3f}, stochastic (EOT, fresh draws) {unknown.mean():.3f}, exact McNemar p = {p:.2g}"
    claim = make_claim(
        "A11", "robust accuracy: stochastic (EOT) - fixed > 0", "48.3 / ~70 against 23.7 %", estimate, note, above=0.0
    )
    agreed = claim.verdict if p < 0.05 or claim.verdict != "pass" else "inconclusive"
    needed = max(claim.needed_n, paired) if claim.ours > 0.0 else claim.needed_n
    return Claim(**{**vars(claim), "verdict": agreed, "needed_n": needed})


def bpda_overstates(rows: Rows) -> Claim:
    """A16: replacing the purifier's derivative by the identity overstates robustness."""
    weak, exact = (fixed_correct(rows.purified(rows.headline, name)) for name in ("bpda", rows.base_attack))
    estimate = rows.mean(weak.astype(float) - exact.astype(float))
    note = f"BPDA {weak.mean():.3f}, exact gradient {exact.mean():.3f}, same fixed noise"
    return make_claim("A16", "robust accuracy: BPDA - exact >= .05", "68.0 against 23.7 %", estimate, note, above=0.05)


def attack_is_sound(rows: Rows) -> Claim:
    """A17: the attack passes its own examination."""
    checks = attack_checks(rows)
    failed = [name for name, (holds, _) in checks.items() if not holds]
    note = "failed: " + _names(failed) if failed else f"all {len(checks)} hold, see table audit"
    share = 1.0 - len(failed) / len(checks)
    verdict = "fail" if failed else "pass"
    found = (share, share, share, len(checks))
    return Claim("A17", "self-examination of the attack", "-", *found, attacked_images(rows), math.nan, verdict, note)


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
    return pd.DataFrame([vars(check(rows)) for check in CLAIMS.values()])
