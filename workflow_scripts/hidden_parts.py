"""What Snakemake remembers of a job's inputs, without the files of its parts.

Snakemake runs a job again when the list of its inputs is another one than it recorded. Into how many parts a job is
split changes nothing in its results and must rerun nothing that is finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snakemake.persistence import PersistenceBase


def hide_parts(folder: str) -> None:
    """Leave files of this folder out of the inputs that are recorded and compared."""
    inputs: Callable[[Any, Any], list[str]] = PersistenceBase._input

    def without_parts(self: Any, job: Any) -> list[str]:
        return [path for path in inputs(self, job) if not path.startswith(f"{folder}/")]

    PersistenceBase._input = without_parts
