"""The claims of arXiv 2505.22839 as checks A0-A17: the paper's number, ours with its interval, and a verdict.

A verdict is taken on a 95 % interval over images: "pass" when the whole interval is on the claimed side, "fail" when it
is on the other, "inconclusive" in between. A0, A10 and A17 check the measurement itself, not the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from purification import statistics
from purification.reporting import law
from purification.reporting.examination import attack_checks
from purification.reporting.needed import interval_images, paired_images
from purification.reporting.rows import Rows, fixed_correct, varied_correct
from purification.reporting.spectra import means
from purification.statistics import Array, Estimate

CROSSOVER = 1.3  # A1 is asked only where the null model's own distance ratio exceeds this


@dataclass(frozen=True)
class Claim:
    """One row of the claims table.

    n         units of the estimate: images, or purifiers where a relation over them is claimed (A12-A14)
    images    images behind its interval
    needed_n  images with which it decides at the observed effect (`needed`)
    """

    claim: str
    statement: str
    paper: str
    ours: float
    low: float
    high: float
    n: int
    images: int
    needed_n: float
    verdict: str
    note: str


def judge(estimate: Estimate, *, above: float = -math.inf, below: float = math.inf) -> str:
    """Verdict on above < value < below."""
    if not math.isfinite(estimate.value):
        return "inconclusive"
    if above < estimate.low and estimate.high < below:
        return "pass"
    return "fail" if estimate.high <= above or estimate.low >= below else "inconclusive"


def _claim(
    name: str,
    statement: str,
    paper: str,
    estimate: Estimate,
    note: str,
    *,
    images: int | None = None,
    above: float = -math.inf,
    below: float = math.inf,
) -> Claim:
    verdict, behind = judge(estimate, above=above, below=below), estimate.n if images is None else images
    needed = interval_images(estimate, behind, above=above, below=below)
    found = (estimate.value, estimate.low, estimate.high, estimate.n)
    return Claim(name, statement, paper, *found, behind, needed, verdict, note)


def _image_size(rows: Rows) -> int:
    """D, the number of singular values."""
    return int(rows.frames["jacobian"].pixels.iloc[0])


def probe_size(rows: Rows) -> Claim:
    """A0: unclipped uniform probes have mean norm eps sqrt(D / 3)."""
    probes = rows.select("randomness", rows.headline)
    expected = rows.settings["threat"]["epsilon"] * math.sqrt(_image_size(rows) / 3)
    estimate = rows.mean(probes.radius_before / expected)
    note = "self-check of the protocol: probes are uniform and not clipped"
    return _claim("A0", "mean ||u|| = eps sqrt(D/3) within 1 %", "1.004", estimate, note, above=0.99, below=1.01)


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
    return _claim("A1", statement, "2.44 (DDIM), 2.27 (one-step), 3.1 (DDPM, inferred)", worst[1], note, above=1.0)


def _names(names: list[str]) -> str:
    return ", ".join(names) or "none"


def similarity_falls(rows: Rows) -> Claim:
    """A2: structural similarity to the clean image falls."""
    ends = _path_ends(rows, rows.headline, "ssim")
    note = f"SSIM {ends.start.mean():.3f} -> {ends.end.mean():.3f}, {rows.headline}"
    estimate = rows.mean(ends.end - ends.start)
    return _claim("A2", "SSIM(purified) - SSIM(attacked) < 0", ".963 -> .791", estimate, note, below=0.0)


def _null_note(rows: Rows, kind: str, column: str) -> str:
    return f"null model {rows.select(kind, rows.headline, 'null')[column].mean():.3f}"


def fixed_correlation(rows: Rows) -> Claim:
    """A3: with fixed noise all nearby inputs are moved in the same direction."""
    estimate = rows.mean(rows.select("randomness", rows.headline).correlation_fixed)
    note = _null_note(rows, "randomness", "correlation_fixed")
    return _claim("A3", "direction correlation, fixed noise, f(x_i) - x_i > .8", ".93", estimate, note, above=0.8)


def varied_correlation(rows: Rows) -> Claim:
    """A4: with varied noise the directions are nearly unrelated."""
    estimate = rows.mean(rows.select("randomness", rows.headline).correlation_varied)
    note = _null_note(rows, "randomness", "correlation_varied")
    return _claim("A4", "direction correlation, varied noise < .4", ".22", estimate, note, below=0.4)


def correlation_gap(rows: Rows) -> Claim:
    """A5: noise decides the direction."""
    frame = rows.select("randomness", rows.headline)
    null = rows.select("randomness", rows.headline, "null")
    note = f"null model {(null.correlation_fixed - null.correlation_varied).mean():.3f}"
    estimate = rows.mean(frame.correlation_fixed - frame.correlation_varied)
    return _claim("A5", "correlation fixed - varied > .4", ".71 (inferred)", estimate, note, above=0.4)


def compresses(rows: Rows) -> Claim:
    """A6: with fixed noise the image space is compressed."""
    null = rows.compression(rows.headline, "null").value
    estimate = rows.compression(rows.headline)
    return _claim(
        "A6", "compression rate with fixed noise < 1", ".240 (inferred)", estimate, f"null model {null:.3f}", below=1.0
    )


def noise_spreads(rows: Rows) -> Claim:
    """A7: with varied noise the outputs spread wider than the inputs."""
    frame = rows.select("randomness", rows.headline)
    null = rows.select("randomness", rows.headline, "null")
    note = f"null model {(null.radius_varied / null.radius_before).mean():.2f}"
    estimate = rows.mean(frame.radius_varied / frame.radius_before)
    return _claim("A7", "radius with varied noise / radius before > 1", "3.27 (inferred)", estimate, note, above=1.0)


def noise_dominates(rows: Rows) -> Claim:
    """A8: varying the image as well adds almost nothing."""
    frame = rows.select("randomness", rows.headline)
    estimate = rows.mean(frame.radius_both / frame.radius_varied - 1.0)
    statement = "|radius both / radius varied - 1| < .05"
    return _claim("A8", statement, ".003 (inferred)", estimate, rows.headline, above=-0.05, below=0.05)


def spectrum(rows: Rows) -> Claim:
    """A9: most directions are compressed, few are amplified."""
    frame, twin = rows.select("jacobian", rows.headline), rows.select("jacobian", rows.headline, "null")
    threshold = float(means(twin, lambda values: values < 0.25)[0].mean()) - 0.15
    small, large = (rows.mean(means(frame, of)[0]) for of in (lambda s: s < 0.25, lambda s: s > 1.0))
    above = f"{large.value:.4f} [{large.low:.4f}, {large.high:.4f}]"
    note = f"threshold is the null model's fraction - .15; fraction above 1: {above}"
    claim = _claim(
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
    return _claim(
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
    claim = _claim(
        "A11", "robust accuracy: stochastic (EOT) - fixed > 0", "48.3 / ~70 against 23.7 %", estimate, note, above=0.0
    )
    agreed = claim.verdict if p < 0.05 or claim.verdict != "pass" else "inconclusive"
    needed = max(claim.needed_n, paired) if claim.ours > 0.0 else claim.needed_n
    return Claim(**{**vars(claim), "verdict": agreed, "needed_n": needed})


def _interval(value: float, samples: list[float], n: int) -> Estimate:
    low, high = np.nanpercentile(samples, [2.5, 97.5]) if np.isfinite(samples).any() else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), n)


def robustness_falls(rows: Rows) -> Claim:
    """A12: fixed-randomness robust accuracy falls with the compression rate."""
    table = law.points(rows)
    sweep = table[table.role == "sweep"]
    value = float(spearmanr(sweep.compression, sweep.robust).statistic)
    samples = [float(spearmanr(rate, robust).statistic) for rate, robust in rows.resampled_sweep]
    estimate = _interval(value, samples, len(sweep))
    parts = [
        f"{name}: {spearmanr(chosen.compression, chosen.robust).statistic:.2f} ({len(chosen)})"
        for name, chosen in law.subsets(table, rows.settings["fit"]["subsets"]).items()
    ]
    note = "rank correlation by range of t* (points): " + "; ".join(parts)
    return _claim(
        "A12",
        "Spearman(compression, fixed robust accuracy) <= -.8",
        "strong",
        estimate,
        note,
        images=_attacked(rows),
        below=-0.8,
    )


def _attacked(rows: Rows) -> int:
    """Images behind every point's accuracy."""
    return len(rows.purified(rows.headline, rows.base_attack))


def _sweep(rows: Rows) -> pd.DataFrame:
    table = law.points(rows)
    return table[table.role == "sweep"]


def sigmoid_fits(rows: Rows) -> Claim:
    """A13: a sigmoid describes the relation."""
    sweep, base = _sweep(rows), rows.fixed("identity", rows.base_attack)
    fitted = law.fit(sweep, "scaled")
    anchored = law.fit(law.with_anchor(sweep, base.value, base.n), "scaled")
    samples = [_r_squared(sweep, rate, robust) for rate, robust in rows.resampled_sweep[:200]]
    estimate = _interval(fitted.r_squared, samples, len(sweep))
    note = f"without the anchor CR = 1; with it {anchored.r_squared:.3f}; reduced chi2 {fitted.chi_squared:.2f}"
    return _claim(
        "A13", "weighted R2 of the sigmoid >= .9", "visual", estimate, note, images=_attacked(rows), above=0.9
    )


def _r_squared(sweep: pd.DataFrame, rate: Array, robust: Array) -> float:
    return law.fit(sweep.assign(compression=rate, robust=robust), "scaled").r_squared


def extrapolates(rows: Rows) -> Claim:
    """A14: the sigmoid's intercept is the clean accuracy."""
    sweep = _sweep(rows)
    clean = law.clean_reference(sweep)

    def gap(table: pd.DataFrame) -> float:
        return float(law.fit(table, "scaled").predict(np.zeros(1))[0]) - clean

    samples = [gap(sweep.assign(compression=rate, robust=robust)) for rate, robust in rows.resampled_sweep[:200]]
    estimate = _interval(gap(sweep), samples, len(sweep))
    limit = max(0.07, 2.0 * float(np.std(samples)))
    parts = []
    for name, chosen in law.subsets(sweep, rows.settings["fit"]["subsets"]).items():
        intercept = float(law.fit(chosen, "scaled").predict(np.zeros(1))[0])
        parts.append(f"{name}: {intercept:.3f} against clean {law.clean_reference(chosen):.3f}")
    statement = f"|intercept of the sigmoid - clean accuracy| <= {limit:.2f}"
    return _claim(
        "A14",
        statement,
        "extrapolates to clean",
        estimate,
        "; ".join(parts),
        images=_attacked(rows),
        above=-limit,
        below=limit,
    )


def base_curve_gap(curve: pd.DataFrame, table: pd.DataFrame) -> float:
    """RMSE between the purified system and (acc_sys / acc_base) r_base(CR eps) over the points."""
    base = np.interp(table.compression, curve.scale, curve.robust)
    predicted = table.clean / float(curve.robust.iloc[0]) * base
    return float(np.sqrt(np.mean(np.square(table.robust - predicted))))


def base_curve_explains(rows: Rows) -> Claim:
    """A15: the purified system behaves like the bare classifier under a budget shrunk by the compression rate."""
    sweep, curve = _sweep(rows), rows.budget_curve("identity").sort_values("scale")
    curve = curve[curve.steps == rows.settings["attacks"][rows.base_attack]["steps"]]
    samples = [
        base_curve_gap(curve, sweep.assign(compression=rate, robust=robust)) for rate, robust in rows.resampled_sweep
    ]
    estimate = _interval(base_curve_gap(curve, sweep), samples, len(sweep))
    note = "the mechanism: r_sys(CR) = (acc_sys / acc_base) r_base(CR eps)"
    return _claim(
        "A15",
        "RMSE to the base classifier's budget curve <= .10",
        "visual",
        estimate,
        note,
        images=_attacked(rows),
        below=0.10,
    )


def bpda_overstates(rows: Rows) -> Claim:
    """A16: replacing the purifier's derivative by the identity overstates robustness."""
    weak, exact = (fixed_correct(rows.purified(rows.headline, name)) for name in ("bpda", rows.base_attack))
    estimate = rows.mean(weak.astype(float) - exact.astype(float))
    note = f"BPDA {weak.mean():.3f}, exact gradient {exact.mean():.3f}, same fixed noise"
    return _claim("A16", "robust accuracy: BPDA - exact >= .05", "68.0 against 23.7 %", estimate, note, above=0.05)


def attack_is_sound(rows: Rows) -> Claim:
    """A17: the attack passes its own examination."""
    checks = attack_checks(rows)
    failed = [name for name, (holds, _) in checks.items() if not holds]
    note = "failed: " + _names(failed) if failed else f"all {len(checks)} hold, see table audit"
    share = 1.0 - len(failed) / len(checks)
    verdict = "fail" if failed else "pass"
    found = (share, share, share, len(checks))
    return Claim("A17", "self-examination of the attack", "-", *found, _attacked(rows), math.nan, verdict, note)


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
