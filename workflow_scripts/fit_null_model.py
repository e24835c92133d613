"""Fit the linear-Gaussian null model: mean and covariance of the training images, full or stationary."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from purification.data import Dataset
from purification.models.denoisers import fit_gaussian, fit_stationary
from purification.models.loading import save_model
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job, replacing_in

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def fitted(dataset: Dataset, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the null model of an entry of `denoisers`."""
    images, _, _ = dataset.take("train")
    return fit_stationary(images, settings["size"]) if settings["kind"] == "stationary" else fit_gaussian(images)


def fit_null_model(dataset: Dataset, settings: Mapping[str, Any], *, folder: Path) -> None:
    tensors = fitted(dataset, settings)
    with replacing_in(folder) as temporary:
        save_model(temporary, {"kind": settings["kind"]}, tensors)


if __name__ == "__main__":
    with job(snakemake):
        fit_null_model(
            read_dataset(snakemake.input.images, snakemake.input.subsets),
            snakemake.params.settings,
            folder=Path(snakemake.output.config).parent,
        )
