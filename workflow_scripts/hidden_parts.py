"""What Snakemake remembers of jobs that are split: nothing about their parts.

Snakemake runs a job again when the list of its inputs is another one than it recorded, or when an input is later than
the output and not recorded by its content. Into how many parts a job is split changes nothing in its results and must
rerun nothing that is finished. So files of parts are no inputs that count, and a part without a record of its own has
that of its whole: the same inputs and settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snakemake.persistence import PersistenceBase


def whole_of(path: str, parts: str, results: str) -> str:
    """File that a part's file ("<parts>/<part>/...") is a part of ("<results>/..."); other paths as they are."""
    if not path.startswith(f"{parts}/"):
        return path
    _, _, name = path.removeprefix(f"{parts}/").partition("/")
    return f"{results}/{name}"


def hide_parts(parts: str, results: str) -> None:
    """Let Snakemake, in this process, see the records of wholes only."""
    inputs: Callable[[Any, Any], list[str]] = PersistenceBase._input

    def without_parts(self: Any, job: Any) -> list[str]:
        return [path for path in inputs(self, job) if not path.startswith(f"{parts}/")]

    def of_part_or_whole(self: Any, target: Any) -> Any:
        key = self._get_key(target)
        return self._read_record(key) or self._read_record(whole_of(key, parts, results))

    PersistenceBase._input = without_parts
    PersistenceBase.metadata = of_part_or_whole
