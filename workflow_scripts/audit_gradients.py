"""Check that the attack's gradient is the gradient of what runs, and that noise held fixed is fixed.

One job for every purifier: few images suffice, and starting a job takes longer than auditing a small network.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from purification.data import Dataset
from purification.defence import Defence
from purification.measure.audit import Sample, audit
from purification.progress import track
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
    sample = Sample(images, labels, ids, noise_source(settings["seed"], "fixed", dataset, settings["device"]))
    checks = audit(defence, exact, sample, step=settings["difference_step"], epsilon=settings["epsilon"])
    table = pd.DataFrame({"image": ids, **{name: values.numpy() for name, values in checks.items()}})
    worst = ", ".join(f"{name} {table[name].max():.3g}" for name in checks)
    logger.info("%s, largest: %s", output.stem, worst)
    write_rows(table, output)


def networks_of(entry: Mapping[str, Any], networks: Iterable[str]) -> list[str]:
    """Files among those of all networks, each in a folder of its kind and name, that a purifier uses."""
    wanted = [("denoisers", entry.get("denoiser")), ("classifiers", entry.get("guidance", {}).get("network"))]
    return [path for place in wanted for path in networks if Path(path).parts[-3:-1] == place]


if __name__ == "__main__":
    with job(snakemake):
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        chosen = snakemake.params.settings
        for entry, path in track(list(zip(snakemake.params.purifiers, snakemake.output, strict=True)), "audit"):
            files = SimpleNamespace(
                classifier=snakemake.input.classifier, denoiser=networks_of(entry, snakemake.input.denoisers)
            )
            single, double = (load_defence(entry, files, data, chosen, dtype=t) for t in (torch.float32, torch.float64))
            audit_gradients(data, single, double, chosen, output=Path(path))
