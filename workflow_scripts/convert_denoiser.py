"""Write published weights of a denoiser as a model of our own: configuration and safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.data import Dataset
from purification.models.loading import save_model
from purification.models.published_denoisers import convert_denoiser
from workflow_scripts.datasets import read_dataset
from workflow_scripts.job import job, logger, replacing_in

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(dataset: Dataset, settings: Mapping[str, Any], *, folder: Path) -> None:
    config, weights = convert_denoiser(settings, dataset.shape[0])
    with replacing_in(folder) as temporary:
        save_model(temporary, config, weights)
    logger.info("%d numbers from %s", sum(tensor.numel() for tensor in weights.values()), settings["path"])


if __name__ == "__main__":
    with job(snakemake):
        run(
            read_dataset(snakemake.input.images, snakemake.input.subsets),
            snakemake.params.settings,
            folder=Path(snakemake.output.config).parent,
        )
