"""Check that the attack's gradient is the gradient of what runs, and that noise held fixed is fixed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from purification.data import Dataset
from purification.defence import Defence
from purification.measure.audit import audit
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_defence, noise_source
from workflow_scripts.job import job, logger, write_rows

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def audit_gradients(
    dataset: Dataset, defence: Defence, exact: Defence, settings: Mapping[str, Any], *, output: Path
) -> None:
    """One row per image, one column per check; `exact` is the same defence in float64."""
    images, labels, ids = dataset.take(settings["subset"], settings["images"])
    source = noise_source(settings["seed"], "fixed", dataset, settings["device"])
    checks = audit(defence, exact, images, labels, ids, source, step=settings["difference_step"])
    table = pd.DataFrame({"image": ids, **{name: values.numpy() for name, values in checks.items()}})
    for name in checks:
        logger.info("%s: largest %.3g", name, table[name].max())
    write_rows(table, output)


if __name__ == "__main__":
    with job(snakemake):
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        options = (snakemake.params.purifier, snakemake.input, data, snakemake.params.settings)
        audit_gradients(
            data,
            load_defence(*options),
            load_defence(*options, dtype=torch.float64),
            snakemake.params.settings,
            output=snakemake.output[0],
        )
