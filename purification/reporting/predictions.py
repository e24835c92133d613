"""How well robust accuracy is predicted from the compression rate and from its rivals, all with the same forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from purification import statistics
from purification.prediction import SIGMOID, leave_out
from purification.reporting import law
from purification.reporting.protocol import three
from purification.reporting.rows import Rows, columns
from purification.resampling import LOGARITHM, PLAIN, over_purifiers, usable
from purification.statistics import Array, Estimate

COLUMNS = ("subset", "left_out", "predictor", "form", "purifier", "observed", "predicted", "low", "high")
PURIFIER, STARS = "purifier", "t*"  # what is left out at once: one purifier, or all with the same t*
OURS = ("compression", SIGMOID)


def features(table: pd.DataFrame) -> dict[str, list[float]]:
    """Predictor -> one number per purifier, for the predictors that every purifier has."""
    named = {
        "compression": table.compression,
        "null compression": table.compression_null,
        "t*": table.t_star,
        "clean accuracy": table.clean,
    }
    return {name: list(values) for name, values in named.items() if np.isfinite(values.astype(float)).all()}


def folds(table: pd.DataFrame) -> dict[str, Sequence[str]]:
    """What is left out at once -> one label per purifier; no t* where there are too few of them."""
    stars = law.factors(table)["t*"]
    found: dict[str, Sequence[str]] = {PURIFIER: list(table.purifier)}
    return found | {STARS: stars} if usable({STARS: stars}) else found


def predictions(rows: Rows, table: pd.DataFrame) -> pd.DataFrame:
    """Every purifier of every subset predicted from the others, with single purifiers and whole t* left out."""
    parts = [pd.DataFrame(columns=COLUMNS)]
    for subset, chosen in law.subsets(table, rows.settings["fit"]["subsets"]).items():
        known = law.usable(chosen)
        if len(known) < law.MINIMUM_POINTS:
            continue
        for left_out, labels in folds(known).items():
            made = leave_out(
                list(known.purifier),
                features(known),
                list(known.robust),
                list(known.robust_n),
                folds=labels,
                level=rows.settings["fit"]["level"],
            )
            parts.append(pd.DataFrame([{"subset": subset, "left_out": left_out, **vars(each)} for each in made]))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def prediction(rows: Rows) -> pd.DataFrame:
    """Errors of the predictions in percentage points and coverage of their intervals, by predictor and form.

    error_points        mean absolute error
    compression_better  by how many points the sigmoid in the compression rate errs less, on the same purifiers
    best_rival          whether no other predictor errs less, the compression rate aside
    Intervals of errors and differences resample purifiers and their groups; the widest is shown.
    """
    table = law.points(rows)
    made = predictions(rows, table)
    records: list[dict[str, Any]] = []
    for subset, chosen in law.subsets(table, rows.settings["fit"]["subsets"]).items():
        known = law.usable(chosen)
        kinds = [PURIFIER, STARS]
        for left_out in kinds:
            own = made[(made.subset == subset) & (made.left_out == left_out)]
            head = {"subset": subset, "left_out": left_out}
            if own.empty:
                records.append({**head, "note": _absent(known, left_out)})
            else:
                records += [{**head, **record} for record in _summaries(own, known, rows)]
    return pd.DataFrame(records)


def _absent(known: pd.DataFrame, left_out: str) -> str:
    if len(known) < law.MINIMUM_POINTS:
        return f"not determined by these points: {len(known)} usable, fewer than {law.MINIMUM_POINTS}"
    stars = len(set(law.factors(known)["t*"]))
    return f"not determined by these points: {stars} values of t*, too few or too unequal to leave one out"


def _summaries(made: pd.DataFrame, known: pd.DataFrame, rows: Rows) -> list[dict[str, Any]]:
    """One record per predictor and form."""
    made = made.assign(
        error=100.0 * (made.predicted - made.observed).abs(),
        covered=(made.low <= made.observed) & (made.observed <= made.high),
    )
    groups = law.factors(known)
    parts = {key: part for key, part in made.groupby(["predictor", "form"], sort=False)}
    ours = parts[OURS].error.to_numpy() if OURS in parts else np.full(len(known), np.nan)
    rivals = {key: float(part.error.mean()) for key, part in parts.items() if key[0] != OURS[0]}
    best = min(rivals, key=lambda key: rivals[key])
    records = []
    for (predictor, form), part in parts.items():
        errors = part.error.to_numpy()
        record = {"predictor": predictor, "form": form, **columns("error_points", _mean_error(errors, groups))}
        record["worst_error_points"] = float(errors.max())
        if (predictor, form) != OURS:
            record |= three("compression_better", mean_over_purifiers(errors - ours, groups))
        record["best_rival"] = (predictor, form) == best
        covered = statistics.wilson(int(part.covered.sum()), len(part))
        record |= {**three("coverage", covered), "nominal_coverage": rows.settings["fit"]["level"], "note": ""}
        records.append(record)
    return records


def _mean_of(values: Array) -> Callable[[Array], float]:
    return lambda kept: float(values[kept].mean())


def _mean_error(errors: Array, groups: Mapping[str, Sequence[str]]) -> Estimate:
    """Mean absolute error; its interval is taken on the logarithm, as an error is not negative."""
    return over_purifiers(_mean_of(errors), len(errors), groups, scale=LOGARITHM)


def mean_over_purifiers(values: Array, groups: Mapping[str, Sequence[str]]) -> Estimate:
    """Mean of one number per purifier, with the wider interval over purifiers and groups of them."""
    return over_purifiers(_mean_of(values), len(values), groups, scale=PLAIN)
