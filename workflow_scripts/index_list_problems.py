"""What is wrong with the named index lists of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from purification.index_lists import SPLITS, positions
from workflow_scripts.configuration_schema import nearest


def evaluated_images(config: Mapping[str, Any]) -> int:
    """How many images `evaluation.subset` has; 0 when that is not known."""
    subset, lists = config["evaluation"]["subset"], config["index_lists"]
    if subset in lists:
        try:
            return len(positions(lists[subset]))
        except ValueError:
            return 0
    sizes: Mapping[str, int] = config["datasets"].get(config["dataset"], {}).get("splits", {})
    return sizes.get(subset, 0)


def list_files(config: Mapping[str, Any]) -> list[str]:
    """The file of the list that is evaluated, if it is in one: an input of the dataset."""
    entry = config["index_lists"].get(config["evaluation"]["subset"], {})
    return [entry["path"]] if "path" in entry else []


def index_list_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per list that is not what it says, and where the evaluated one does not fit its subset."""
    lists, subset = config["index_lists"], config["evaluation"]["subset"]
    for name in sorted(set(lists) & set(SPLITS)):
        yield f"index_lists.{name}: expected a name beside {', '.join(SPLITS)}, got {name!r} — rename it"
    if subset not in (known := [*SPLITS, *lists]):
        yield f"evaluation.subset: expected a subset or a list, got {subset!r} — {nearest(subset, known)}"
    for name, entry in lists.items():
        if entry.get("count", 0) > entry.get("of", entry.get("count", 0)):
            yield f"index_lists.{name}.count: expected at most of = {entry['of']}, got {entry['count']} — lower it"
            continue
        try:
            found = positions(entry)
        except ValueError as error:
            yield f"index_lists.{name}: {error}"
            continue
        size = config["datasets"][config["dataset"]]["splits"][entry["within"]]
        if name == subset and max(found) >= size:
            place = f"index_lists.{name}: expected indices below {size}, the images of {entry['within']}"
            yield f"{place}, got {max(found)} — enlarge the subset or choose another list"
