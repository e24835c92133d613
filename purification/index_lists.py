"""Named lists of images: positions within a subset, given one by one, in a file, or as the recipe of published code."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")


def index_hash(index: list[int]) -> str:
    """sha256 of an index list, so that two papers can tell whether they used the same images."""
    return hashlib.sha256(np.asarray(index, dtype="<i8").tobytes()).hexdigest()


def _first(settings: Mapping[str, Any]) -> list[int]:
    """The first `count` images."""
    return list(range(settings["count"]))


def _choice(settings: Mapping[str, Any]) -> list[int]:
    """`count` of `of` images for each of `seeds`, drawn without replacement by NumPy's frozen generator RandomState.

    Draws of different seeds overlap; an image that was drawn before is left out.
    """
    draws = [
        np.random.RandomState(seed).choice(settings["of"], settings["count"], replace=False)
        for seed in settings["seeds"]
    ]
    return list(dict.fromkeys(int(index) for draw in draws for index in draw))


RECIPES: dict[str, Callable[[Mapping[str, Any]], list[int]]] = {"first": _first, "choice": _choice}


def _read(path: Path) -> list[Any]:
    """A JSON list, or one index per line."""
    try:
        text = path.read_text()
        return list(json.loads(text)) if text.lstrip().startswith("[") else [int(line) for line in text.split()]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"expected a list of indices in {path}, got something else ({error}) — correct it") from error


def positions(settings: Mapping[str, Any]) -> list[int]:
    """Positions of a list, from its `indices`, its `path` or its `recipe`.

    Raises ValueError unless they are whole numbers >= 0, each once, with the sha256 the entry states.
    """
    if "recipe" in settings:
        found = RECIPES[settings["recipe"]](settings)
    else:
        found = settings["indices"] if "indices" in settings else _read(Path(settings["path"]))
    wrong = [index for index in found if not isinstance(index, int) or isinstance(index, bool) or index < 0]
    if wrong or not found:
        raise ValueError(f"expected whole numbers >= 0, got {wrong[0] if wrong else 'none'} — correct the list")
    if len(set(found)) < len(found):
        ((index, times),) = Counter(found).most_common(1)
        raise ValueError(f"expected every index once, got {index} {times} times — remove it")
    if (digest := index_hash(found)) != settings["sha256"]:
        stated = settings["sha256"]
        raise ValueError(f"expected indices with sha256 {stated}, got {digest} — they are not those it was made of")
    return found


def listed(settings: Mapping[str, Any], subset: list[int]) -> list[int]:
    """Dataset indices of a list, given those of the subset it counts within; ValueError when one is too large."""
    chosen = positions(settings)
    if max(chosen) >= len(subset):
        raise ValueError(f"expected indices below {len(subset)}, got {max(chosen)} — enlarge the subset they count in")
    return [subset[position] for position in chosen]
