"""Print what evaluation protocols report of a defence that is right with a known probability on any input."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from purification.protocol_control import Control, Reported, bench, flawed_ones, offered, predicted

CONFIG = Path(__file__).parents[1] / "config" / "protocols.yaml"


def compare_protocols(settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per protocol: what it reports with its interval and n, what is true of its estimand, and the error."""
    values = {field.name: settings[field.name] for field in fields(Control)}
    control = Control(**{**values, "iterates": tuple(settings["iterates"])})
    on = bench(control)
    expected = predicted(control)
    rows = [_row(each, expected) for each in [*offered(on), *flawed_ones(on)]]
    return pd.DataFrame(rows)


def _row(each: Reported, expected: Mapping[str, float]) -> dict[str, Any]:
    found = each.reported
    return {
        "protocol": each.protocol + (" (FLAWED)" if each.flawed else ""),
        "estimand": each.estimand,
        "true": each.truth,
        "reported": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "contains_truth": found.low <= each.truth <= found.high,
        "predicted": expected.get(each.protocol, each.truth),
    }


if __name__ == "__main__":
    table = compare_protocols(yaml.safe_load(CONFIG.read_text()))
    sys.stdout.write(table.to_markdown(index=False, floatfmt=".3f") + "\n")
