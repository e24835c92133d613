"""The compression-robustness relation: its points, its fits, and its out-of-sample predictions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from purification.fit import FORMS, Fit, Prediction, fit_sigmoid, leave_one_out, prediction_interval
from purification.reporting.rows import Rows, columns
from purification.statistics import CONFIDENCE

logger = logging.getLogger("purification")
GRID = np.linspace(0.0, 1.1, 111)
MINIMUM_POINTS = 6
INTERCEPT_BELOW = 0.3  # clean accuracy is taken from purifiers compressing below this rate (claim A14)


def points(rows: Rows) -> pd.DataFrame:
    """One row per purifier of the sweep and of the controls: compression, accuracy with frozen noise, its controls."""
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
                **columns("robust", rows.fixed(name, rows.base_attack)),
                **columns("clean", rows.fixed(name, "clean")),
                **columns("random", rows.fixed(name, "random")),
                **columns("matched", rows.fixed_matched(name, rows.base_attack)),
            }
        )
    return pd.DataFrame(records)


def clean_reference(table: pd.DataFrame) -> float:
    """Median clean accuracy of strongly compressing purifiers (all of them when none is)."""
    strong = table[table.compression < INTERCEPT_BELOW]
    return float((strong if len(strong) else table).clean.median())


def fit(table: pd.DataFrame, form: str) -> Fit:
    """Fit one form to rows of `points`."""
    n = [int(v) for v in table.robust_n]
    return fit_sigmoid(form, list(table.compression), list(table.robust), n, clean=clean_reference(table))


def with_anchor(table: pd.DataFrame, base_robust: float, n: int) -> pd.DataFrame:
    """The points and the undefended classifier at compression 1."""
    anchor = {"purifier": "anchor", "compression": 1.0, "robust": base_robust, "robust_n": n, "clean": np.nan}
    return pd.concat([table, pd.DataFrame([anchor])], ignore_index=True)


def subsets(table: pd.DataFrame, limits: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """Sweep points up to each limit of t*, where enough are left to fit and to leave one out.

    Purifiers without a t* belong to every subset.
    """
    sweep = table[table.role == "sweep"]
    chosen = {name: sweep[~(sweep.t_star > limit)] for name, limit in limits.items()}
    for name, subset in chosen.items():
        if len(subset) < MINIMUM_POINTS:
            logger.warning("subset %r has %d points, fewer than %d: not fitted", name, len(subset), MINIMUM_POINTS)
    return {name: subset for name, subset in chosen.items() if len(subset) >= MINIMUM_POINTS}


def fits(rows: Rows, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parameters of every form on every subset, with and without the anchor, and the curves with their bands."""
    base = rows.fixed("identity", rows.base_attack)
    parameters, curves = [], []
    for subset, chosen in subsets(table, rows.settings["fit"]["subsets"]).items():
        for anchor, data in (("without", chosen), ("with", with_anchor(chosen, base.value, base.n))):
            for form in FORMS:
                fitted = fit(data, form)
                head = {"subset": subset, "form": form, "anchor": anchor}
                parameters.append({**head, **_parameters(fitted), "clean": clean_reference(chosen)})
                low, high = fitted.band(GRID, level=CONFIDENCE)
                values = {"compression": GRID, "robust": fitted.predict(GRID), "low": low, "high": high}
                curves.append(pd.DataFrame({**head, **values}))
    return pd.DataFrame(parameters), pd.concat(curves, ignore_index=True)


def _parameters(fitted: Fit) -> dict[str, Any]:
    low, high = fitted.band(np.zeros(1), level=CONFIDENCE)
    record: dict[str, Any] = {"n": fitted.n, "r_squared": fitted.r_squared, "chi_squared": fitted.chi_squared}
    record |= {"intercept": float(fitted.predict(np.zeros(1))[0]), "intercept_low": low[0], "intercept_high": high[0]}
    for i, name in enumerate(fitted.names):
        record |= {name: fitted.parameters[i], f"{name}_low": fitted.low[i], f"{name}_high": fitted.high[i]}
    return record


def expected(table: pd.DataFrame, plain: Sequence[str], *, level: float) -> dict[str, Prediction]:
    """What the sigmoid of some purifiers gives for every point; of one of them, fitted to the others.

    The interval covers `level` under a Student law with the spread of the leave-one-out residuals of `plain`.
    Empty with fewer than `MINIMUM_POINTS` of them.
    """
    known = table[table.purifier.isin(plain)]
    if len(known) < MINIMUM_POINTS:
        return {}
    made = leave_one_out(
        list(known.purifier), {"compression": list(known.compression)}, list(known.robust),
        [int(v) for v in known.robust_n], clean=clean_reference(known), level=level,
    )  # fmt: skip
    found = {each.purifier: each for each in made if each.predictor == "compression"}
    residuals = np.array([each.observed - each.predicted for each in found.values()])
    fitted = fit(known, "scaled")
    for point in table[~table.purifier.isin(plain)].itertuples():
        middle = float(np.clip(fitted.predict(np.array([point.compression]))[0], 0.0, 1.0))
        low, high = prediction_interval(middle, residuals, level=level)
        name, robust = str(point.purifier), float(point.robust)
        found[name] = Prediction("compression", name, robust, middle, low, high)
    return found


def predictions(rows: Rows, table: pd.DataFrame) -> pd.DataFrame:
    """Leave-one-purifier-out predictions by compression and by the baselines (t* only where every purifier has one)."""
    parts = []
    for subset, chosen in subsets(table, rows.settings["fit"]["subsets"]).items():
        features = {"compression": list(chosen.compression), "clean accuracy": list(chosen.clean)}
        if chosen.compression_null.notna().all():
            features["null compression"] = list(chosen.compression_null)
        if chosen.t_star.notna().all():
            features["t*"] = list(chosen.t_star)
        made = leave_one_out(
            list(chosen.purifier), features, list(chosen.robust), [int(v) for v in chosen.robust_n],
            clean=clean_reference(chosen), level=rows.settings["fit"]["level"],
        )  # fmt: skip
        parts.append(pd.DataFrame([{"subset": subset, **vars(p)} for p in made]))
    return pd.concat(parts, ignore_index=True)
