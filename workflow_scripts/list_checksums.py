"""List the checksums of final results, as `sha256sum --check` reads them.

As inputs of this job their content is in Snakemake's records, like that of every file that another job reads.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.job import job, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def list_checksums(paths: Sequence[Path], *, output: Path) -> None:
    """Paths are written relative to the working directory, one line each."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.as_posix()}\n" for path in paths]
    write_text("".join(lines), output)


if __name__ == "__main__":
    with job(snakemake):
        list_checksums([Path(path) for path in snakemake.input], output=Path(snakemake.output[0]))
