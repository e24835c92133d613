"""Tables, each a function of the rows; every rate with its 95 % interval and its n."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from purification import statistics
from purification.index_lists import index_hash
from purification.reporting import law
from purification.reporting.adequacy import attack_adequacy, gradient_noise
from purification.reporting.anomaly import anomaly, certified_anomaly
from purification.reporting.claims import judge_all
from purification.reporting.comparison import defences
from purification.reporting.controls import controls
from purification.reporting.examination import attack_checks
from purification.reporting.fuzzy import fuzzy
from purification.reporting.ladder import expectations, ladder
from purification.reporting.ledger import ledger
from purification.reporting.pairs import paired
from purification.reporting.path_ends import LAST, growth, path_ends
from purification.reporting.predictions import prediction
from purification.reporting.protocol import three, under_knowledge, with_controls
from purification.reporting.rows import Rows, columns, fixed_correct
from purification.reporting.spectra import joint_error, means
from purification.reporting.verdict_tables import known_noise, reliability, unreliable

CUTS = (0.25, 1.0)


def robustness(rows: Rows) -> pd.DataFrame:
    """Accuracy of every (purifier, attack) under each estimand.

    avg        mean over fresh draws;  wor_N  right in all of N resubmissions;  mv_K  plurality of K draws
               (wor and mv only where enough draws were made)
    fixed      under the fixed randomness (the one an attack with knowledge "both" was made for)
    fixed_forward, fixed_reverse, semi   with one noise, or a pool of draws, known; on fewer images (`_n`)
    <estimand>_<control>   the same without the attack, on the same images: clean, random and matched noise
    unpurified the bare classifier on the same images
    """
    records = []
    for (purifier, attack), frame in rows.groups("purified", "purifier", "attack"):
        bare, draws = np.asarray(frame.unpurified == frame.label), len(frame.varied.iloc[0])
        record = {"purifier": purifier, "attack": attack, "n": len(frame), "draws": draws}
        for control, found in with_controls(rows, str(purifier), str(attack)):
            for name, estimate in found.items():
                record |= three(f"{name}{control}", estimate)
        for name, estimate in under_knowledge(rows, frame).items():
            record |= columns(name, estimate)
        records.append({**record, **three("unpurified", statistics.wilson(int(bare.sum()), len(frame)))})
    return pd.DataFrame(records)


def compression(rows: Rows) -> pd.DataFrame:
    """Compression rate by purifier and probe size, with the null model's and the excess over it."""
    records = []
    for (purifier, scale), _ in rows.groups("compression", "purifier", "probe_scale"):
        record = {"purifier": purifier, "probe_scale": scale}
        for name, column in (("compression", "compression"), ("anchor", "compression_anchor")):
            found = statistics.mean(rows.values("compression", purifier, column, probe_scale=scale))
            record |= columns(name, found) if name == "compression" else three(name, found)
        records.append({**record, **_excess(rows, "compression", purifier, "compression", probe_scale=scale)})
    return pd.DataFrame(records)


def _excess(rows: Rows, kind: str, purifier: str, column: str, **equal: object) -> dict[str, float]:
    """The null model's mean, and the excess over it on the images of both."""
    own = rows.values(kind, purifier, column, "trained", **equal)
    null = rows.values(kind, purifier, column, "null", **equal)
    return {"null": float(null.mean()), **three("excess", statistics.mean(own - null))}


def directional_compression(rows: Rows) -> pd.DataFrame:
    """Compression along adversarial directions, split by whether the defence held, over the isotropic rate."""
    records = []
    for (purifier, attack), frame in rows.groups("purified", "purifier", "attack"):
        moved = frame[frame.compression.notna()]
        isotropic = rows.compression(str(purifier)).value
        held = fixed_correct(moved)
        for outcome, chosen in (("all", moved), ("held", moved[held]), ("fooled", moved[~held])):
            if chosen.empty:
                continue
            estimate = statistics.mean(chosen.compression)
            record = {"purifier": purifier, "attack": attack, "outcome": outcome, **columns("compression", estimate)}
            over = estimate.value / isotropic if isotropic > 0.0 else np.nan
            records.append({**record, "over_isotropic": over})
    return pd.DataFrame(records)


def randomness(rows: Rows) -> pd.DataFrame:
    """Direction correlations (both definitions) and radii, with the null model's and the excess over it."""
    records = []
    for (purifier,), frame in rows.groups("randomness", "purifier"):
        for quantity in (name for name in frame if name.startswith(("correlation", "radius"))):
            own = rows.values("randomness", purifier, quantity)
            if own.notna().any():
                low, high = (-1.0, 1.0) if quantity.startswith("correlation") else (-np.inf, np.inf)
                found = columns("value", statistics.mean(own, low=low, high=high))
                record = {"purifier": purifier, "quantity": quantity, **found}
                records.append({**record, **_excess(rows, "randomness", purifier, quantity)})
    return pd.DataFrame(records)


def distances(rows: Rows) -> pd.DataFrame:
    """l2, linf and SSIM to the clean image before and after purification, by start, with the null model's end.

    ratio, ratio_null  of l2: the mean after over the mean before (claim A1), and the null model's
    """
    records = []
    for (purifier, start), _ in rows.groups("distances", "purifier", "start"):
        for metric in ("l2", "linf", "ssim"):
            ends = path_ends(rows, purifier, metric, start=start)
            low, high = (-1.0, 1.0) if metric == "ssim" else (-np.inf, np.inf)
            before, after = (statistics.mean(ends[name], low=low, high=high) for name in ("first", "last"))
            record = {"purifier": purifier, "start": start, "metric": metric}
            record |= {**three("before", before), **columns("after", after)}
            record |= _excess(rows, "distances", purifier, metric, start=start, position=LAST)
            if metric == "l2":
                record |= three("ratio", growth(rows, purifier, start=start))
                record |= three("ratio_null", growth(rows, purifier, "null", start=start))
            records.append(record)
    return pd.DataFrame(records)


def spectrum(rows: Rows) -> pd.DataFrame:
    """Singular values of the Jacobian at fixed noise, and the matrix-free estimates beside the full ones."""
    records = []
    for (purifier, model), frame in rows.groups("jacobian", "purifier", "model"):
        below, below_error = means(frame, lambda values: values < CUTS[0])
        above, above_error = means(frame, lambda values: values > CUTS[1])
        largest = np.array([np.max(values) for values in frame.singular_values])
        records.append(
            {
                "purifier": purifier,
                "model": model,
                "n": len(frame),
                **three("below_0.25", statistics.mean(below, low=0.0, high=1.0)),
                "below_0.25_error": joint_error(below_error),
                **three("above_1", statistics.mean(above, low=0.0, high=1.0)),
                "above_1_error": joint_error(above_error),
                **three("rms", statistics.mean(np.sqrt(means(frame, np.square)[0]))),
                "rms_matrix_free": float(np.sqrt(frame.hutchinson).mean()),
                "rms_matrix_free_low": float(np.sqrt(frame.hutchinson_low.clip(0)).mean()),
                "rms_matrix_free_high": float(np.sqrt(frame.hutchinson_high).mean()),
                "rms_small_probes": float(frame.compression_small.mean()),
                "largest": float(largest.mean()),
                "largest_matrix_free": float(frame.largest_matrix_free.mean()),
                "trace_over_d": float((frame.trace / frame.pixels).mean()),
            }
        )
    return pd.DataFrame(records)


def fit(rows: Rows) -> pd.DataFrame:
    """Sigmoid parameters with intervals, goodness with and without the anchor, and the intercept."""
    return law.fits(rows, law.points(rows))[0]


def points(rows: Rows) -> pd.DataFrame:
    """The points of the compression-robustness relation, what the law says of each, and their residual from it."""
    return law.against_the_law(rows, law.points(rows))


def attack_strength(rows: Rows) -> pd.DataFrame:
    """Accuracy with known randomness against the attack's budget and steps."""
    curves = []
    for (purifier,), _ in rows.groups("attack_strength", "purifier"):
        curve = rows.budget_curve(purifier)
        curve.insert(0, "purifier", purifier)
        curves.append(curve)
    return pd.concat(curves) if curves else pd.DataFrame()


def audit(rows: Rows) -> pd.DataFrame:
    """Everything the evaluation checks about itself."""
    return pd.DataFrame([{"check": name, **vars(check)} for name, check in attack_checks(rows).items()])


def subsets(rows: Rows) -> pd.DataFrame:
    """Every subset and named list with the sha256 of its dataset indices, and the images that were judged."""
    records, given = [], rows.settings["index_lists"]
    for name, found in rows.settings["subsets"].items():
        entry = given.get(name, {})
        how = entry.get("recipe") or ("path" if "path" in entry else "indices" if entry else "split by seed")
        told = {"given_as": how, "within": entry.get("within", ""), "list_sha256": entry.get("sha256", "")}
        records.append({"subset": name, "images": len(found["index"]), "sha256": found["sha256"], **told})
    judged = list(dict.fromkeys(int(image) for image in rows.frames["purified"].image))
    used = {"given_as": "first images", "within": rows.settings["evaluation"]["subset"], "list_sha256": ""}
    records.append({"subset": "judged", "images": len(judged), "sha256": index_hash(judged), **used})
    return pd.DataFrame(records)


def settings(rows: Rows) -> pd.DataFrame:
    """Every purifier as configured, with its noise index, first denoising index and budget."""
    records = []
    for name, entry in rows.settings["purifiers"].items():
        t_star = entry.get("t_star")
        index = entry.get("noise_index", t_star - 1) if t_star and entry.get("forward_noise") else None
        first = t_star - 1 if t_star else None
        own = {key: value for key, value in entry.items() if key != "noise_index"}
        records.append({"purifier": name, "noise_index": index, "first_denoise_index": first, **own})
    return pd.DataFrame(records)


TABLES: dict[str, Callable[[Rows], pd.DataFrame]] = {
    "claims": judge_all,
    "robustness": robustness,
    "known_noise": known_noise,
    "fuzzy": fuzzy,
    "points": points,
    "fit": fit,
    "prediction": prediction,
    "controls": controls,
    "compression": compression,
    "directional_compression": directional_compression,
    "randomness": randomness,
    "distances": distances,
    "spectrum": spectrum,
    "attack_strength": attack_strength,
    "attack_adequacy": attack_adequacy,
    "gradient_noise": gradient_noise,
    "defences": defences,
    "paired": paired,
    "ledger": ledger,
    "ladder": ladder,
    "expectations": expectations,
    "audit": audit,
    "reliability": reliability,
    "unreliable": unreliable,
    "subsets": subsets,
    "settings": settings,
    "anomaly": anomaly,
    "certified_anomaly": certified_anomaly,
}
