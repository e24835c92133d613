"""One self-contained page: the answer, the claims, figures, tables, settings, versions, cost, how to repeat it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from purification.reporting.claim import SELF_CHECKS
from purification.reporting.marks import DAGGER, daggered

PACKAGES = (
    "torch",
    "diffusers",
    "snakemake",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "scikit-image",
    "matplotlib",
    "seaborn",
)
TONES = {"pass": "holds", "fail": "does not hold", "inconclusive": "undecided"}
SCALE = 1.6  # pixels of a figure per pixel of the page
# What the answer says, in this order; claims that no sentence names are listed in one more.
SENTENCES: dict[str, Sequence[str]] = {
    "Purification moves images away from the clean image instead of back to it": ("A1", "A2"),
    "Where a purified image lands is decided by the noise far more than by the image": ("A3", "A4", "A5", "A7", "A8"),
    "With the noise fixed, purification compresses the image space around an image": ("A6", "A9"),
    "Part of the apparent robustness is randomness: it goes when the attacker knows the noise": ("A11",),
    "Gradients that skip the purifier (BPDA) overstate robustness": ("A16",),
    "Under fixed noise, robust accuracy is a sigmoid of the compression rate that extrapolates to the clean accuracy": (
        "A12",
        "A13",
        "A14",
    ),
    "The reason is the rate alone: the defence acts like the bare classifier under a budget shrunk by it": ("A15",),
    "The measurement passes its own examination": SELF_CHECKS,
}


@dataclass(frozen=True)
class Material:
    """What the page shows.

    tables    name -> table; "claims" has the fields of `claim.Claim`, holm and p_holm
    figures   name -> PNG
    captions  name -> paragraphs; the first is the title
    costs     one row per job: rule, s (seconds), max_rss (MiB)
    settings  configuration of the run;  folder: where its results are, as written in commands
    """

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, bytes]
    captions: Mapping[str, str]
    costs: pd.DataFrame
    settings: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Sentence:
    """One sentence of the answer, its verdict, and the claims behind it."""

    text: str
    verdict: str
    claims: Sequence[Mapping[str, Any]]


def render(material: Material) -> str:
    """The page as HTML without references to other files."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": estimate, "number": number, "duration": duration}
    environment.filters |= {"count": count, "verdict": verdict}
    claims = material.tables.get("claims", pd.DataFrame({"claim": [], "verdict": []})).to_dict("records")
    evaluations = _list_evaluations(material.tables.get("unreliable", pd.DataFrame()))
    return environment.get_template("report.html.j2").render(
        folder=material.folder,
        data=material.settings["dataset"],
        headline=material.settings["run"]["headline"],
        claims=claims,
        dagger=DAGGER,
        unreliable=[row for row in evaluations if row["marked"]],
        unmeasured=[row for row in evaluations if row["unmeasured"]],
        words=TONES,
        counts=_counts([claim for claim in claims if claim["claim"] not in SELF_CHECKS]),
        corrected=sum(claim["holm"] == "pass" for claim in claims),
        answer=list(_answer(claims)),
        prediction=_prediction(material.tables.get("prediction", pd.DataFrame())),
        figures=[_figure(name, png, material.captions[name]) for name, png in material.figures.items()],
        ledger=_ledger(material.tables.get("ledger", pd.DataFrame())),
        tables={name: cells(table) for name, table in material.tables.items() if name not in ("claims", "ledger")},
        settings=yaml.safe_dump(dict(material.settings), sort_keys=False, allow_unicode=True, width=110),
        versions=_versions(),
        costs=_costs(material.costs),
    )


def _list_evaluations(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Rows of table `unreliable`; cells without a text are empty, not NaN as a CSV file has them."""
    rows: list[dict[Any, Any]] = table.astype(object).fillna("").to_dict("records")
    return rows


def _ledger(table: pd.DataFrame) -> dict[str, Any]:
    """Cells of the published numbers and how many agree, differ, cannot be compared and are disputed."""
    if table.empty:
        return {}
    counts = {verdict: int((table.verdict == verdict).sum()) for verdict in ("agree", "differ", "cannot tell")}
    return {**cells(table), "counts": counts, "disputed": int(table.disputed.fillna("").ne("").sum())}


def _counts(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in TONES}


def _answer(claims: Sequence[Mapping[str, Any]]) -> Iterator[Sentence]:
    """Sentences with a common verdict: "mixed" when some claims hold and others do not, "fail" beats "inconclusive"."""
    named = {name for names in SENTENCES.values() for name in names}
    others = [str(claim["claim"]) for claim in claims if claim["claim"] not in named]
    for text, names in {**SENTENCES, "Further claims": others}.items():
        chosen = [claim for claim in claims if claim["claim"] in names]
        if chosen:
            verdicts = {str(claim["verdict"]) for claim in chosen}
            alone = next(iter(verdicts)) if len(verdicts) == 1 else "mixed" if "pass" in verdicts else "fail"
            yield Sentence(text, alone, chosen)


def _prediction(table: pd.DataFrame) -> str:
    """Errors of the out-of-sample predictions in words, for every range of t* and what is left out."""
    if not {"subset", "left_out", "predictor", "form", "error_points"} <= set(table.columns):
        return ""
    parts = []
    for (subset, left_out), group in table.groupby(["subset", "left_out"], sort=False):
        what = "one purifier" if left_out == "purifier" else "all of one t*"
        known = group[group.predictor.notna()]
        words = _errors(known) if len(known) else str(group.note.iloc[0])
        parts.append(f"{'all t*' if subset == 'all' else subset}, {what} left out: {words}")
    return "; ".join(parts)


def _errors(known: pd.DataFrame) -> str:
    """Mean errors of the predictors but for the straight lines, and by how much the best of all rivals errs more."""
    shown = known[known.form != "line"].to_dict("records")
    errors = [f"{row['error_points']:.1f} from {row['predictor']}" for row in shown]
    for row in known[known.best_rival.eq(True)].to_dict("records"):
        better = estimate(row, "compression_better", "compression_better_low", "compression_better_high")
        errors.append(
            f"the best rival of compression, {row['predictor']} ({row['form']}), errs by {better} points more"
        )
    return ", ".join(errors)


def _figure(name: str, png: bytes, caption: str) -> dict[str, Any]:
    title, *text = [" ".join(paragraph.split()) for paragraph in caption.strip().split("\n\n")]
    pixels = int.from_bytes(png[16:20], "big")  # width in the header of a PNG
    encoded = base64.b64encode(png).decode()
    return {"name": name, "title": title, "text": text, "png": encoded, "width": round(pixels / SCALE)}


def number(value: Any) -> str:
    """Three significant digits; integers whole; missing values empty."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def count(value: Any) -> str:
    """A whole number, however large."""
    return number(value) if value is None or not math.isfinite(value) else f"{value:.0f}"


def estimate(row: Mapping[str, Any], name: str, low: str, high: str) -> str:
    """Value with its interval: 0.240 [0.231, 0.249]."""
    values: list[Any] = [row[name], row.get(low), row.get(high)]
    if any(value is None or pd.isna(value) for value in values):
        return number(row[name])
    largest = max(abs(float(value)) for value in values)
    digits = min(max(2 - math.floor(math.log10(largest)), 0), 4) if largest else 0
    value, start, end = (f"{value:.{digits}f}" for value in values)
    return f"{value} [{start}, {end}]"


def cells(table: pd.DataFrame) -> dict[str, Any]:
    """Header and rows of text; `x, x_low, x_high` become one column, and columns without any value go."""
    shown = [c for c in table.columns if table[c].notna().any()]
    bounds = {f"{c}{end}" for c in shown for end in ("_low", "_high") if f"{c}_low" in shown and f"{c}_high" in shown}
    kept = [c for c in shown if c not in bounds]
    records = daggered(table).to_dict("records")
    rows = [[estimate(row, c, f"{c}_low", f"{c}_high") for c in kept] for row in records]
    return {"header": [str(c).replace("_", " ") for c in kept], "rows": rows}


def verdict(claim: Mapping[str, Any]) -> str:
    """The verdict in words, whether it outlasts the correction for the number of claims, and the size of the effect."""
    said = TONES.get(claim["verdict"], str(claim["verdict"]))
    if claim["verdict"] != "pass":
        return said
    if claim["holm"] == "inconclusive":
        said += ", not after the correction"
    share = claim["of_the_paper"]
    return said if pd.isna(share) else f"{said}, with {100.0 * share:.0f} % of the paper's effect"


def duration(seconds: float) -> str:
    """Time in the unit a person would use."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _costs(jobs: pd.DataFrame) -> dict[str, Any]:
    """Jobs, summed time, slowest job and largest memory per rule, dearest first, and their totals."""
    if jobs.empty:
        return {"rules": [], "jobs": 0, "seconds": 0.0, "memory": float("nan")}
    grouped = jobs.groupby("rule").agg(
        jobs=("s", "size"), seconds=("s", "sum"), slowest=("s", "max"), memory=("max_rss", "max")
    )
    rules = grouped.sort_values("seconds", ascending=False).reset_index().to_dict("records")
    return {"rules": rules, "jobs": len(jobs), "seconds": float(jobs.s.sum()), "memory": float(jobs.max_rss.max())}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
