"""Claims A12-A15 of arXiv 2505.22839: robust accuracy as a function of the compression rate.

They are about a relation over purifiers, so that purifiers, and groups of purifiers with a common
t* or sampler, are what is resampled (`resampling`); the error that all purifiers share because
they share the images is added to both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from purification.curve_search import best_curve, r_squared
from purification.fit import Fit, Undetermined, undetermined_accuracies
from purification.philox import generator
from purification.reporting import law
from purification.reporting.claim import Asked, Claim, attacked_images, make_claim, words
from purification.reporting.needed import interval_images
from purification.reporting.rows import Rows
from purification.resampling import (
    EXPLAINED,
    FISHER,
    IMAGES,
    LOGARITHM,
    PLAIN,
    Scale,
    Spread,
    from_spreads,
    over_purifiers,
)
from purification.sigmoids import FAMILIES
from purification.statistics import Array, Estimate, undetermined

NO_BASE = "the undefended classifier's accuracy without an attack is zero or was not measured"
RESAMPLES = 100  # of the images: enough for a variance, which they are used for
TOLERANCE = 0.07  # of A14: an intercept this close to the clean accuracy counts as the same
FEWEST = 5  # purifiers that a curve of three parameters can be compared with


@dataclass(frozen=True)
class Sweep:
    """The usable points of the sweep, and the same for resampled images.

    rate, robust       (purifiers,) compression rate and robust accuracy
    rates, accuracies  (resamples, purifiers): every resample draws the same images for all
                       purifiers
    """

    table: pd.DataFrame
    rate: Array
    robust: Array
    rates: Array
    accuracies: Array

    @classmethod
    def of(cls, rows: Rows) -> Sweep:
        table = law.usable(law.sweep_of(law.points(rows)))
        names = list(table.purifier)
        kind = "compression"
        rates = {name: rows.values(kind, name, kind, probe_scale=1.0) for name in names}
        judged = {name: law.correct(rows, name) for name in names}
        seed = int(rows.settings["seed"])
        return cls(
            table,
            table.compression.to_numpy(dtype=float),
            table.robust.to_numpy(dtype=float),
            resampled_means(rates, seed, "rates"),
            resampled_means(judged, seed, "accuracies"),
        )

    def together(self) -> Iterator[tuple[Array, Array]]:
        """(rate, robust) of every resample of the images."""
        return zip(self.rates, self.accuracies, strict=True)

    def apart(self) -> Iterator[tuple[Array, Array]]:
        """The same with images of its own for every purifier: its resamples in another order."""
        return zip(_out_of_step(self.rates), _out_of_step(self.accuracies), strict=True)


def resampled_means(numbers: Mapping[Any, pd.Series], seed: int, stream: str) -> Array:
    """(resamples, columns) means over resampled images, the same images for all columns.

    numbers  column -> one number per image
    """
    together = pd.DataFrame(numbers).dropna()
    n = len(together)
    if not n:
        return np.full((RESAMPLES, len(numbers)), np.nan)
    drawn = generator(seed, "bootstrap", stream).integers(0, n, (RESAMPLES, n))
    return np.asarray(together.to_numpy(dtype=float)[drawn].mean(axis=1))


def _out_of_step(samples: Array) -> Array:
    return np.stack([np.roll(column, shift) for shift, column in enumerate(samples.T)], axis=1)


def image_spread(together: Iterable[float], apart: Iterable[float], scale: Scale) -> tuple[Spread, float]:
    """Spread of a statistic over images, and the part of its variance that all purifiers share.

    together, apart  the statistic for resamples in which purifiers share images, and for such in
                     which they do not: what the scatter of the purifiers contains anyway
    """
    shared = _variance(together, scale)
    alone = _variance(apart, scale)
    return Spread(IMAGES, shared, RESAMPLES - 1.0), max(shared - alone, 0.0)


def _variance(samples: Iterable[float], scale: Scale) -> float:
    """Variance on the scale of the samples that are numbers; 0 with fewer than two."""
    values = np.array([scale.there(sample) for sample in samples])
    finite = values[np.isfinite(values)]
    return float(finite.var(ddof=1)) if len(finite) > 1 else 0.0


def nothing_to_relate(sweep: Sweep) -> str:
    """Why the points of the sweep determine no relation at all; empty if they may."""
    table = sweep.table
    if len(table) < law.MINIMUM_POINTS:
        return f"{len(table)} usable points, fewer than {law.MINIMUM_POINTS}"
    if np.ptp(sweep.rate) == 0.0:
        return f"all compression rates are equal ({sweep.rate[0]:.3g})"
    return undetermined_accuracies(sweep.robust, table.robust_n)


def relation(
    sweep: Sweep,
    statistic: Callable[[Array, Array], float],
    scale: Scale,
    known: tuple[Spread, ...] = (),
) -> Estimate:
    """A statistic (rate, robust) -> number of the sweep with its widest interval."""
    if reason := nothing_to_relate(sweep):
        return unknown(sweep, reason)
    together = (statistic(rate, robust) for rate, robust in sweep.together())
    apart = (statistic(rate, robust) for rate, robust in sweep.apart())
    images, shared = image_spread(together, apart, scale)
    return over_purifiers(
        lambda kept: statistic(sweep.rate[kept], sweep.robust[kept]),
        len(sweep.table),
        law.factors(sweep.table),
        scale=scale,
        shared=shared,
        known=(images, *known),
    )


def unknown(sweep: Sweep, reason: str) -> Estimate:
    """No estimate, and why."""
    n = len(sweep.table)
    return undetermined(Undetermined("scaled", n, reason).sentence, n=n)


def law_claim(rows: Rows, asked: Asked, estimate: Estimate, *, effect: str, notes: tuple[str, ...] = ()) -> Claim:
    """A claim about the relation, with what was resampled; `needed_n` counts purifiers."""
    table = law.sweep_of(law.points(rows))
    missing = sorted(set(table.purifier) - set(law.usable(table).purifier))
    left_out = f"purifiers without a rate or an accuracy: {', '.join(missing)}"
    claim = make_claim(
        asked,
        estimate,
        effect=effect,
        left_out=left_out if missing else "nothing",
        notes=tuple(note for note in (*notes, law.said(estimate.pivot)) if note),
        images=attacked_images(rows),
    )
    sides = {"above": asked.above, "below": asked.below}
    return replace(claim, needed_n=interval_images(estimate, estimate.n, **sides))


# --- A12


def rank_correlation(rate: Array, robust: Array) -> float:
    """Spearman's; NaN where one of the two is constant."""
    if len(rate) < 2 or np.ptp(rate) == 0.0 or np.ptp(robust) == 0.0:
        return math.nan
    return float(spearmanr(rate, robust).statistic)


def _ranked(rate: Array, robust: Array) -> float:
    """Rank correlation, short of the ends by half the least step that n points can make."""
    n = len(rate)
    end = 1.0 - 6.0 / (n**3 - n)
    return float(np.clip(rank_correlation(rate, robust), -end, end))


def robustness_falls(rows: Rows) -> Claim:
    """A12: fixed-randomness robust accuracy falls with the compression rate."""
    sweep = Sweep.of(rows)
    n = len(sweep.table)
    known: tuple[Spread, ...] = ()
    if n > 3 and math.isfinite(value := rank_correlation(sweep.rate, sweep.robust)):
        known = (Spread("independent purifiers", (1.0 + value**2 / 2.0) / (n - 3.0), n - 3.0),)
    estimate = relation(sweep, _ranked, FISHER, known)
    asked = Asked(
        "A12",
        "Robust accuracy under known noise falls with the compression rate: Spearman's rank correlation is below -.8.",
        "strong",
        below=-0.8,
    )
    parts = []
    for name, chosen in law.subsets(law.points(rows), rows.settings["fit"]["subsets"]).items():
        own = law.usable(chosen)
        rate, robust = own[["compression", "robust"]].to_numpy(dtype=float).T
        found = rank_correlation(rate, robust)
        parts.append(f"{name}: {found:.2f} ({len(own)})")
    note = "rank correlation by range of t* (points): " + "; ".join(parts)
    effect = f"rank correlation {estimate.value:.3f} over {n} purifiers"
    return law_claim(rows, asked, estimate, effect=effect, notes=(note,))


# --- A13


def explained(images: float) -> Callable[[Array, Array], float]:
    """Statistic: weighted R2 of the best scaled sigmoid; NaN with too few points for it.

    images  behind every accuracy
    """

    def statistic(rate: Array, robust: Array) -> float:
        if len(rate) < FEWEST or np.ptp(rate) == 0.0:
            return math.nan
        counts = np.full(len(rate), images)
        return r_squared(best_curve(FAMILIES["scaled"], rate, robust, counts), robust)

    return statistic


def sigmoid_fits(rows: Rows) -> Claim:
    """A13: a sigmoid describes the relation."""
    sweep = Sweep.of(rows)
    table = law.sweep_of(law.points(rows))
    fitted = law.fit(rows, table, "scaled")
    if isinstance(fitted, Undetermined):
        estimate = unknown(sweep, fitted.reason)
        notes: tuple[str, ...] = ()
    else:
        estimate = relation(sweep, explained(float(sweep.table.robust_n.median())), EXPLAINED)
        anchored = law.fit(rows, law.with_anchor(table, rows.worst_known("identity")), "scaled")
        with_it = f"{anchored.r_squared:.3f}" if isinstance(anchored, Fit) else anchored.sentence
        dispersion = f"reduced chi2 {fitted.chi_squared:.2f}"
        notes = (f"without the anchor CR = 1; with it {with_it}; {dispersion}",)
    asked = Asked(
        "A13",
        "A sigmoid describes the relation: its weighted R2 is above .9, without the anchor.",
        "visual",
        above=0.9,
    )
    effect = f"the curve explains {100.0 * estimate.value:.1f} % of the weighted variance"
    return law_claim(rows, asked, estimate, effect=effect, notes=notes)


# --- A14


def extrapolates(rows: Rows) -> Claim:
    """A14: the sigmoid's intercept is the clean accuracy."""
    table = law.sweep_of(law.points(rows))
    estimate = intercept_gap(rows, table)
    asked = Asked(
        "A14",
        f"The sigmoid's intercept is the clean accuracy, within {100.0 * TOLERANCE:.0f} points.",
        "extrapolates to clean",
        above=-TOLERANCE,
        below=TOLERANCE,
    )
    parts = []
    for name, chosen in law.subsets(table, rows.settings["fit"]["subsets"]).items():
        gap = intercept_gap(rows, chosen)
        parts.append(f"{name}: {gap.reason or words(gap, '+.3f')}")
    note = "intercept minus clean accuracy by range of t*: " + "; ".join(parts)
    effect = f"the intercept is {100.0 * estimate.value:+.1f} points from the clean accuracy"
    return law_claim(rows, asked, estimate, effect=effect, notes=(note,))


def intercept_gap(rows: Rows, table: pd.DataFrame) -> Estimate:
    """Intercept of the scaled sigmoid minus the clean accuracy, whose error is counted too."""
    fitted = law.fit(rows, table, "scaled")
    if isinstance(fitted, Undetermined):
        return undetermined(fitted.sentence, n=fitted.n)
    clean = law.clean_reference(table)
    if not math.isfinite(clean):
        return undetermined("not determined by these points: no clean accuracy", n=fitted.n)
    binomial = clean * (1.0 - clean) / float(table.clean_n.max())
    spreads = []
    for spread in fitted.spreads(0.0):
        spreads.append(replace(spread, variance=spread.variance + binomial))
    return from_spreads(float(fitted.predict(0.0)) - clean, spreads, fitted.n, PLAIN)


# --- A15


def base_curve_gap(scale: Array, base: Array, table: pd.DataFrame, rate: Array, robust: Array) -> float:
    """RMSE between the purified system and (acc_sys / acc_base) r_base(CR eps) over the points.

    scale, base  budgets as multiples of eps, rising from 0, and the undefended classifier's
                 accuracy there
    """
    predicted = table.clean.to_numpy(dtype=float) / base[0] * np.interp(rate, scale, base)
    return float(np.sqrt(np.mean(np.square(robust - predicted))))


def base_curve(rows: Rows) -> pd.DataFrame:
    """(image, budget) whether the undefended classifier is right, at the base attack's steps."""
    columns = ["purifier", "steps", "image", "scale", "correct"]
    frame = rows.frames.get("attack_strength", pd.DataFrame(columns=columns))
    steps = rows.base_steps
    own = frame[(frame.purifier == "identity") & (frame.steps == steps)]
    table = own.pivot(index="image", columns="scale", values="correct").astype(float)
    return table.sort_index(axis=1).dropna()


def base_curve_explains(rows: Rows) -> Claim:
    """A15: the defence is the bare classifier under a budget shrunk by the compression rate."""
    estimate = base_curve_error(rows, Sweep.of(rows), base_curve(rows))
    asked = Asked(
        "A15",
        "The defence is the bare classifier under a budget shrunk by the compression rate, within 10 points (rms).",
        "visual",
        below=0.10,
    )
    note = "the mechanism: r_sys(CR) = (acc_sys / acc_base) r_base(CR eps)"
    effect = f"off by {100.0 * estimate.value:.1f} points (rms) over the points of the sweep"
    return law_claim(rows, asked, estimate, effect=effect, notes=(note,))


def base_curve_error(rows: Rows, sweep: Sweep, curve: pd.DataFrame) -> Estimate:
    """`base_curve_gap` of the sweep; the images of the curve are resampled too."""
    reason = nothing_to_relate(sweep)
    if not reason and (len(curve) < 2 or not curve.shape[1] or curve.iloc[:, 0].mean() == 0.0):
        reason = NO_BASE
    if reason:
        return unknown(sweep, reason)
    scale = curve.columns.to_numpy(dtype=float)
    base = curve.mean().to_numpy()
    table = sweep.table

    def statistic(kept: Array) -> float:
        return base_curve_gap(scale, base, table[kept], sweep.rate[kept], sweep.robust[kept])

    curves = resampled_means(dict(curve.items()), int(rows.settings["seed"]), "curve")
    pairs = zip(curves, sweep.together(), strict=True)
    known = ((own, sample) for own, sample in pairs if own[0] > 0.0)
    together = (base_curve_gap(scale, own, table, *sample) for own, sample in known)
    apart = (base_curve_gap(scale, base, table, *sample) for sample in sweep.apart())
    images, shared = image_spread(together, apart, LOGARITHM)
    return over_purifiers(
        statistic,
        len(table),
        law.factors(table),
        scale=LOGARITHM,
        shared=shared,
        known=(images,),
    )
