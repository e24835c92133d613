"""Fit the linear-Gaussian null model: mean and covariance of the training images."""

from pathlib import Path
from typing import TYPE_CHECKING

from purification.data import Dataset
from purification.models.denoisers import fit_gaussian
from purification.models.loading import save_model
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job, replacing_in

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def fit_null_model(dataset: Dataset, *, folder: Path) -> None:
    images, _, _ = dataset.take("train")
    with replacing_in(folder) as temporary:
        save_model(temporary, {"kind": "gaussian"}, fit_gaussian(images))


if __name__ == "__main__":
    with job(snakemake):
        fit_null_model(
            read_dataset(snakemake.input.images, snakemake.input.subsets), folder=Path(snakemake.output.config).parent
        )
