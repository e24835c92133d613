"""Claims A12-A15 of arXiv 2505.22839: robust accuracy as a function of the compression rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from purification.reporting import law
from purification.reporting.claim import Asked, Claim, attacked_images, make_claim
from purification.reporting.rows import Rows
from purification.statistics import Array, resampled


def robustness_falls(rows: Rows) -> Claim:
    """A12: fixed-randomness robust accuracy falls with the compression rate."""
    table = law.points(rows)
    sweep = table[table.role == "sweep"]
    value = float(spearmanr(sweep.compression, sweep.robust).statistic)
    samples = [float(spearmanr(rate, robust).statistic) for rate, robust in rows.resampled_sweep]
    estimate = resampled(value, np.array(samples), len(sweep))
    parts = [
        f"{name}: {spearmanr(chosen.compression, chosen.robust).statistic:.2f} ({len(chosen)})"
        for name, chosen in law.subsets(table, rows.settings["fit"]["subsets"]).items()
    ]
    note = "rank correlation by range of t* (points): " + "; ".join(parts)
    asked = Asked(
        "A12",
        "Robust accuracy under known noise falls with the compression rate: Spearman's rank correlation is below -.8.",
        "strong",
        below=-0.8,
    )
    effect = f"rank correlation {value:.3f} over {len(sweep)} purifiers"
    return make_claim(asked, estimate, effect=effect, notes=(note,), images=attacked_images(rows))


def _sweep(rows: Rows) -> pd.DataFrame:
    table = law.points(rows)
    return table[table.role == "sweep"]


def sigmoid_fits(rows: Rows) -> Claim:
    """A13: a sigmoid describes the relation."""
    sweep, base = _sweep(rows), rows.fixed("identity", rows.base_attack)
    fitted = law.fit(sweep, "scaled")
    anchored = law.fit(law.with_anchor(sweep, base.value, base.n), "scaled")
    samples = [_r_squared(sweep, rate, robust) for rate, robust in rows.resampled_sweep[:200]]
    estimate = resampled(fitted.r_squared, np.array(samples), len(sweep))
    note = f"without the anchor CR = 1; with it {anchored.r_squared:.3f}; reduced chi2 {fitted.chi_squared:.2f}"
    asked = Asked(
        "A13", "A sigmoid describes the relation: its weighted R2 is above .9, without the anchor.", "visual", above=0.9
    )
    effect = f"the curve explains {100.0 * fitted.r_squared:.1f} % of the weighted variance"
    return make_claim(asked, estimate, effect=effect, notes=(note,), images=attacked_images(rows))


def _r_squared(sweep: pd.DataFrame, rate: Array, robust: Array) -> float:
    return law.fit(sweep.assign(compression=rate, robust=robust), "scaled").r_squared


def extrapolates(rows: Rows) -> Claim:
    """A14: the sigmoid's intercept is the clean accuracy."""
    sweep = _sweep(rows)
    clean = law.clean_reference(sweep)

    def gap(table: pd.DataFrame) -> float:
        return float(law.fit(table, "scaled").predict(np.zeros(1))[0]) - clean

    samples = [gap(sweep.assign(compression=rate, robust=robust)) for rate, robust in rows.resampled_sweep[:200]]
    estimate = resampled(gap(sweep), np.array(samples), len(sweep))
    limit = max(0.07, 2.0 * float(np.std(samples)))
    parts = []
    for name, chosen in law.subsets(sweep, rows.settings["fit"]["subsets"]).items():
        intercept = float(law.fit(chosen, "scaled").predict(np.zeros(1))[0])
        parts.append(f"{name}: {intercept:.3f} against clean {law.clean_reference(chosen):.3f}")
    asked = Asked(
        "A14",
        f"The sigmoid's intercept is the clean accuracy, within {100.0 * limit:.0f} points.",
        "extrapolates to clean",
        above=-limit,
        below=limit,
    )
    effect = f"the intercept is {100.0 * estimate.value:+.1f} points from the clean accuracy"
    return make_claim(asked, estimate, effect=effect, notes=tuple(parts), images=attacked_images(rows))


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
    estimate = resampled(base_curve_gap(curve, sweep), np.array(samples), len(sweep))
    note = "the mechanism: r_sys(CR) = (acc_sys / acc_base) r_base(CR eps)"
    asked = Asked(
        "A15",
        "The defence is the bare classifier under a budget shrunk by the compression rate, within 10 points (rms).",
        "visual",
        below=0.10,
    )
    effect = f"off by {100.0 * estimate.value:.1f} points (rms) over the points of the sweep"
    return make_claim(asked, estimate, effect=effect, notes=(note,), images=attacked_images(rows))
