"""Print what evaluation protocols report of defences whose robust accuracy is known; write tables and a figure."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from purification.attacks import DiffHammer
from purification.known_truth.catalogue import Entry, KnownDefence, set_up
from purification.known_truth.coverage import sample_intervals
from purification.known_truth.evaluators import Reported, Sizes, report_published
from purification.known_truth.groups import GROUPS
from purification.progress import track
from purification.reporting.figures.known_truth import known_truth
from purification.reporting.figures.style import save
from purification.reporting.known_truth import OURS, bias, coverage, folded, ranks, verdicts
from workflow_scripts.configuration import merged
from workflow_scripts.job import replacing, write_text
from workflow_scripts.known_defences import Evaluated, evaluate_known

CONFIG = Path(__file__).parents[1] / "config" / "protocols.yaml"
TITLES = {
    "bias": "Bias: reported minus true accuracy in points, mean over defences with its 95 % interval",
    "verdicts": "Marks, and what is reported without one under known noise",
    "ranks": "Pairs of defences that a protocol ranks wrongly",
    "coverage": "95 % intervals that contain the truth",
}


def read_config(paths: Sequence[str] = ()) -> dict[str, Any]:
    """The default configuration with what the bench adds to it, and then configurations of a user's own."""
    return merged([CONFIG, *paths])


def _build(name: str, group: str, entry: Entry, count: int, settings: Mapping[str, Any]) -> KnownDefence:
    sizes = {key: settings[key] for key in ("batch_size", "gradient_batch_size", "seed")}
    return set_up(name, group, entry, ids=range(count), **sizes)


def _row(known: KnownDefence, each: Reported, ours: Evaluated) -> dict[str, Any]:
    own = each.protocol == OURS
    return {
        "group": known.group,
        "defence": known.name,
        "protocol": each.protocol,
        "estimand": each.estimand,
        "truth": each.truth,
        "reported": each.reported.value,
        "reported_low": each.reported.low,
        "reported_high": each.reported.high,
        "n": each.reported.n,
        "marked": own and bool(ours.why),
        "why": ours.why if own else "",
        "notes": ours.notes if own else "",
    }


def compare_protocols(groups: Mapping[str, Mapping[str, Entry]], config: Mapping[str, Any]) -> pd.DataFrame:
    """One row per defence, protocol and estimand (columns: `purification.reporting.known_truth`)."""
    settings = config["known_truth"]
    sizes = Sizes(**settings["published"])
    hammer = DiffHammer(redraw=True, **settings["hammer"])
    every = [(group, name, entry) for group, entries in groups.items() for name, entry in entries.items()]
    rows = []
    for group, name, entry in track(every, "defences"):
        known = _build(name, group, entry, settings["images"], settings)
        with tempfile.TemporaryDirectory() as folder:
            ours = evaluate_known(known, config, sizes, Path(folder))
        reported = [*report_published(known, sizes, hammer), *ours.reported]
        rows += [_row(known, each, ours) for each in reported]
    return pd.DataFrame(rows)


def sample_coverage(groups: Mapping[str, Mapping[str, Entry]], config: Mapping[str, Any]) -> pd.DataFrame:
    """Intervals on many samples of images of some random defences; one row per defence, estimand and sample."""
    settings = config["known_truth"]
    chosen = settings["coverage"]
    sizes = Sizes(**settings["published"])
    count = chosen["samples"] * chosen["images"]
    large = {**settings, "batch_size": count, "gradient_batch_size": count}
    found = []
    for name in track(chosen["defences"], "coverage"):
        known = _build(name, "randomised", groups["randomised"][name], count, large)
        found.append(sample_intervals(known, chosen["attack"], sizes, chosen["images"]))
    return pd.concat(found, ignore_index=True)


def tables_of(rows: pd.DataFrame, samples: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables by name."""
    return {
        "bias": bias(rows),
        "verdicts": verdicts(rows, settings["tolerance"]),
        "ranks": ranks(rows, settings["gap"]),
        "coverage": coverage(samples),
    }


def write_tables(rows: pd.DataFrame, tables: Mapping[str, pd.DataFrame], folder: Path) -> str:
    """Every table as CSV, all of them as Markdown, and the figure, in a folder; returns the Markdown."""
    text = ""
    for name, table in tables.items():
        write_text(table.to_csv(index=False, float_format="%.6g"), folder / f"{name}.csv")
        text += f"## {TITLES[name]}\n\n{folded(table).to_markdown(index=False, floatfmt='.3f')}\n\n"
    write_text(rows.to_csv(index=False, float_format="%.6g"), folder / "defences.csv")
    write_text(text, folder / "protocols.md")
    with replacing(folder / "protocols.pdf") as vector, replacing(folder / "protocols.png") as bitmap:
        save(known_truth(rows), pdf=vector, png=bitmap)
    return text


if __name__ == "__main__":
    logging.getLogger("purification").setLevel(logging.ERROR)
    config = read_config(sys.argv[1:])
    rows = compare_protocols(GROUPS, config)
    tables = tables_of(rows, sample_coverage(GROUPS, config), config["known_truth"])
    sys.stdout.write(write_tables(rows, tables, Path(config["results"])))
