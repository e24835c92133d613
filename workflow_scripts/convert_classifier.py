"""Write published weights of a classifier as a model of our own: configuration and safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.models.loading import save_model
from purification.models.published import convert_classifier
from workflow_scripts.job import job, logger, replacing_in

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def run(settings: Mapping[str, Any], *, folder: Path) -> None:
    config, weights = convert_classifier(settings)
    with replacing_in(folder) as temporary:
        save_model(temporary, config, weights)
    logger.info("%d numbers from %s", sum(tensor.numel() for tensor in weights.values()), settings["path"])


if __name__ == "__main__":
    with job(snakemake):
        run(snakemake.params.settings, folder=Path(snakemake.output.config).parent)
