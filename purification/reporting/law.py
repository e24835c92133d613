"""The compression-robustness relation: its points, its fits, and what it says of purifiers that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from purification.fit import Fit, Undetermined, fit_sigmoid
from purification.prediction import SIGMOID, Prediction, leave_out, spread_of
from purification.reporting.rows import Rows, columns
from purification.resampling import Widest
from purification.sigmoids import FORMS
from purification.statistics import CONFIDENCE, Array, Estimate

GRID = np.linspace(0.0, 1.1, 111)
MINIMUM_POINTS = 6
INTERCEPT_BELOW = 0.3  # clean accuracy is taken from purifiers compressing below this rate (claim A14)
ANCHOR = "anchor"  # the point of the undefended classifier, at compression 1
YES, NO, UNKNOWN = "yes", "no", "not determined"
PARAMETERS = (
    *("subset", "form", "anchor", "n", "determined", "note", "r_squared", "chi_squared"),
    *("intercept", "intercept_low", "intercept_high", "widest"),
    *("k", "k_low", "k_high", "c", "c_low", "c_high", "A", "A_low", "A_high", "clean"),
)
CURVES = ("subset", "form", "anchor", "compression", "robust", "low", "high")


def points(rows: Rows) -> pd.DataFrame:
    """One row per purifier of the sweep and of the controls: compression, accuracy with frozen noise, its controls.

    robust  what all attacks together leave;  base: the base attack alone
    """
    run, purifiers = rows.settings["run"], rows.settings["purifiers"]
    records = []
    for name in [*run["sweep"], *run["controls"]]:
        entry = purifiers[name]
        null = rows.compression(name, "null").value if rows.has_null("compression", name) else np.nan
        records.append(
            {
                "purifier": name,
                "role": "sweep" if name in run["sweep"] else "control",
                "sampler": entry.get("sampler", entry["kind"]),
                "t_star": entry.get("t_star", np.nan),
                **columns("compression", rows.compression(name)),
                "compression_null": null,
                **columns("robust", rows.worst_known(name)),
                **columns("base", rows.fixed(name, rows.base_attack)),
                **columns("clean", rows.fixed(name, "clean")),
                **columns("random", rows.fixed(name, "random")),
                **columns("matched", rows.fixed_matched(name, rows.base_attack)),
            }
        )
    return pd.DataFrame(records)


def correct(rows: Rows, purifier: str) -> pd.Series:
    """Image -> whether the accuracy `robust` of `points` counts it as right (0 or 1)."""
    return rows.known(purifier).worst.astype(float)


def sweep_of(table: pd.DataFrame) -> pd.DataFrame:
    """The points that the law is fitted to."""
    return table[table.role == "sweep"]


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """The points that have a compression rate and an accuracy."""
    known = np.isfinite(table[["compression", "robust"]].astype(float)).all(axis=1)
    return table[known & (table.robust_n > 0)]


def factors(table: pd.DataFrame) -> dict[str, list[str]]:
    """What makes purifiers alike: a common t*, a common sampler. One without a t* is a group of its own."""
    pairs = zip(table.purifier, table.t_star, strict=True)
    stars = [str(name) if pd.isna(star) else f"{star:g}" for name, star in pairs]
    return {"t*": stars, "sampler": [str(sampler) for sampler in table.sampler]}


def clean_reference(table: pd.DataFrame) -> float:
    """Median clean accuracy of strongly compressing purifiers (all of them when none is)."""
    strong = table[table.compression < INTERCEPT_BELOW]
    return float((strong if len(strong) else table).clean.median())


def shared_errors(rows: Rows, purifiers: Sequence[str]) -> Array | None:
    """(purifiers, purifiers) covariance of the accuracies over the images, on which all are judged; None without two."""
    judged = {i: correct(rows, "identity" if name == ANCHOR else name) for i, name in enumerate(purifiers)}
    together = pd.DataFrame(judged).dropna()
    if len(together) < 2:
        return None
    return np.asarray(together.cov(), dtype=float) / len(together)


def fit(rows: Rows, table: pd.DataFrame, form: str) -> Fit | Undetermined:
    """Fit one form to rows of `points`, those of them that are usable."""
    chosen = usable(table)
    if len(chosen) < MINIMUM_POINTS:
        return Undetermined(form, len(chosen), _too_few(table))
    return fit_sigmoid(
        form,
        list(chosen.compression),
        list(chosen.robust),
        [int(v) for v in chosen.robust_n],
        clean=clean_reference(table),
        factors=factors(chosen),
        covariance=shared_errors(rows, list(chosen.purifier)),
    )


def _too_few(table: pd.DataFrame) -> str:
    """Why there are too few points, in words."""
    known = len(usable(table))
    lacking = len(table) - known
    without = f" ({lacking} without a compression rate or an accuracy)" if lacking else ""
    return f"{known} usable point{'s' if known != 1 else ''}{without}, fewer than {MINIMUM_POINTS}"


def with_anchor(table: pd.DataFrame, base: Estimate) -> pd.DataFrame:
    """The points and the undefended classifier at compression 1."""
    anchor = {"purifier": ANCHOR, "role": "sweep", "sampler": ANCHOR, "compression": 1.0}
    anchor |= {"robust": base.value, "robust_n": base.n}
    return pd.concat([table, pd.DataFrame([anchor]).reindex(columns=table.columns)], ignore_index=True)


def subsets(table: pd.DataFrame, limits: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """Sweep points up to each limit of t*. Purifiers without a t* belong to every subset."""
    sweep = sweep_of(table)
    return {name: sweep[~(sweep.t_star > limit)] for name, limit in limits.items()}


def fits(rows: Rows, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parameters of every form on every subset, with and without the anchor, and the curves with their bands.

    A fit that the points do not determine has a row that says why, and no curve.
    """
    base = rows.worst_known("identity")
    parameters, curves = [], []
    for subset, chosen in subsets(table, rows.settings["fit"]["subsets"]).items():
        for anchor, data in (("without", chosen), ("with", with_anchor(chosen, base))):
            for form in FORMS:
                fitted = fit(rows, data, form)
                head = {"subset": subset, "form": form, "anchor": anchor, "n": fitted.n}
                parameters.append({**head, **_parameters(fitted), "clean": clean_reference(chosen)})
                if isinstance(fitted, Fit):
                    low, high = fitted.band(GRID, level=CONFIDENCE)
                    values = {"compression": GRID, "robust": fitted.predict(GRID), "low": low, "high": high}
                    curves.append(pd.DataFrame({**head, **values}))
    drawn = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=CURVES)
    return pd.DataFrame(parameters).reindex(columns=PARAMETERS), drawn.reindex(columns=CURVES)


def _parameters(fitted: Fit | Undetermined) -> dict[str, Any]:
    if isinstance(fitted, Undetermined):
        return {"determined": False, "note": fitted.sentence}
    low, high = fitted.band(np.zeros(1), level=CONFIDENCE)
    record: dict[str, Any] = {"determined": True, "note": limits_note(fitted)}
    record |= {"r_squared": fitted.r_squared, "chi_squared": fitted.chi_squared}
    record |= {"intercept": float(fitted.predict(np.zeros(1))[0]), "intercept_low": low[0], "intercept_high": high[0]}
    record["widest"] = fitted.widest(0.0)
    for i, name in enumerate(fitted.names):
        record |= {name: fitted.parameters[i], f"{name}_low": fitted.low[i], f"{name}_high": fitted.high[i]}
    return record


def limits_note(fitted: Fit) -> str:
    """What the limits of the search did to a fit; empty when nothing."""
    if not fitted.at_limit:
        return ""
    return f"{' and '.join(fitted.at_limit)} at a limit of the search: the points do not determine the parameters"


def said(pivot: object) -> str:
    """The intervals of an estimate by what was resampled, in words; empty without them."""
    if not isinstance(pivot, Widest):
        return ""
    parts = [f"{unit} [{low:.3f}, {high:.3f}]" for unit, (low, high) in pivot.intervals().items()]
    return f"resampling {', '.join(parts)}; the verdict rests on the widest"


@dataclass(frozen=True)
class Expectation:
    """What the law of some purifiers says of every point; nothing, and why, where they determine none.

    found  purifier -> prediction; of one of them, fitted to the others
    level  coverage of the prediction intervals
    """

    found: Mapping[str, Prediction]
    level: float
    reason: str

    def columns(self, purifier: str) -> dict[str, Any]:
        """Table columns of one point: whether the law holds for it, with the share that is off it by chance."""
        made = self.found.get(purifier)
        if made is None:
            nothing = dict.fromkeys(("predicted", "predicted_low", "predicted_high"), np.nan)
            return {**nothing, "off_the_law": UNKNOWN, "off_by_chance": np.nan, "law": self.reason}
        outside = not made.low <= made.observed <= made.high
        return {
            "predicted": made.predicted,
            "predicted_low": made.low,
            "predicted_high": made.high,
            "off_the_law": YES if outside else NO,
            "off_by_chance": 1.0 - self.level,
            "law": "determined",
        }


def expectation(rows: Rows, table: pd.DataFrame, members: Sequence[str]) -> Expectation:
    """What the sigmoid of `members` gives for every usable point of the table.

    The interval covers `fit.level` where the law holds: its spread is that of the law's own leave-one-out errors, and
    the sampling of the point's accuracy.
    """
    level = float(rows.settings["fit"]["level"])
    own = table[table.purifier.isin(members)]
    fitted = fit(rows, own, "scaled")
    if isinstance(fitted, Undetermined):
        return Expectation({}, level, fitted.sentence)
    known = usable(own)
    made = leave_out(
        list(known.purifier),
        {"compression": list(known.compression)},
        list(known.robust),
        list(known.robust_n),
        folds=list(known.purifier),
        forms=(SIGMOID,),
        level=level,
    )
    found = {each.purifier: each for each in made if each.predictor == "compression"}
    predicted = np.array([found[name].predicted for name in known.purifier])
    counts = known.robust_n.to_numpy(dtype=float)
    spread = spread_of(known.robust.to_numpy(dtype=float), predicted, counts, np.arange(len(known)))
    for point in usable(table[~table.purifier.isin(members)]).itertuples():
        middle = float(np.clip(fitted.predict(float(point.compression)), 0.0, 1.0))
        low, high = spread.interval(middle, float(point.robust_n), level=level)
        name, robust = str(point.purifier), float(point.robust)
        found[name] = Prediction("compression", SIGMOID, name, robust, middle, low, high)
    return Expectation(found, level, "this point has no compression rate or no accuracy")


def against_the_law(rows: Rows, table: pd.DataFrame) -> pd.DataFrame:
    """The points with what the law of the sweep says of each, and `residual`: observed minus predicted."""
    expected = expectation(rows, table, list(sweep_of(table).purifier))
    seen = pd.DataFrame([expected.columns(str(name)) for name in table.purifier], index=table.index)
    noted = pd.concat([table, seen], axis=1)
    return noted.assign(residual=noted.robust - noted.predicted)
