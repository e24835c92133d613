"""The file of published numbers: checked against its schema, and what a configuration says about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from workflow_scripts.configuration_schema import nearest

LEDGER = Path(__file__).parents[1] / "config" / "ledger.yaml"
SCHEMA = LEDGER.with_name("ledger_schema.yaml")


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Entries of the file; raises ValueError that names the first one the schema refuses, or a number given twice."""
    entries = yaml.safe_load(path.read_text())
    validator = jsonschema.Draft202012Validator(yaml.safe_load(SCHEMA.read_text()))
    for error in sorted(validator.iter_errors(entries), key=lambda error: [str(part) for part in error.absolute_path]):
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        raise ValueError(
            f"{path}: expected entries as in {SCHEMA.name}, got at {place or 'the top'}: {error.message} — correct it"
        )
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        key = str({name: value for name, value in sorted(entry.items()) if name != "values"})
        if key in seen:
            raise ValueError(
                f"{path}: expected every setting once, got [{number}] like [{seen[key]}] — join their values"
            )
        seen[key] = number
    return list(entries)


@cache
def published() -> list[dict[str, Any]]:
    """The project's own."""
    return read_ledger(LEDGER)


def ledger_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per name of the section `ledger` that the file does not have: its numbers would not be compared."""
    for key, column in (("purifiers", "method"), ("attacks", "attack")):
        known = dict.fromkeys(entry[column] for entry in published())
        for name, wanted in config["ledger"][key].items():
            if wanted not in known:
                place = f"ledger.{key}.{name}"
                sentence = f"{place}: expected the {column} of an entry of {LEDGER.name}, got {wanted!r}"
                yield f"{sentence} — {nearest(wanted, known)}"
