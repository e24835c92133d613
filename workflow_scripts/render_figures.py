"""Draw one figure as PDF and PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors.numpy import load_file

from purification.reporting.figures import Extras, draw, save
from purification.reporting.rows import KINDS, Rows
from workflow_scripts.job import job, replacing

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def render_figures(name: str, files: Mapping[str, Any], settings: Mapping[str, Any], *, pdf: Path, png: Path) -> None:
    """`files`: per kind of rows its files, and optionally "fitted", "samples" and "losses"."""
    rows = Rows.read({kind: files[kind] for kind in KINDS if files.get(kind)}, settings)
    fitted = {Path(path).stem: pd.read_parquet(path) for path in files.get("fitted", [])}
    samples = {key: images for path in files.get("samples", []) for key, images in load_file(path).items()}
    losses = {network(path): pd.read_parquet(path) for path in files.get("losses", [])}
    figure = draw(name, rows, Extras(fitted, samples, losses))
    with replacing(pdf) as vector, replacing(png) as bitmap:
        save(figure, pdf=vector, png=bitmap)


def network(path: str) -> str:
    """Name of a trained network: `denoiser unet` for `.../denoisers/unet/losses.parquet`."""
    folder = Path(path).parent
    return f"{folder.parent.name.removesuffix('s')} {folder.name}"


if __name__ == "__main__":
    with job(snakemake):
        render_figures(
            snakemake.params.figure,
            dict(snakemake.input.items()),
            snakemake.params.settings,
            pdf=snakemake.output.pdf,
            png=snakemake.output.png,
        )
