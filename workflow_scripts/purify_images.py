"""Purify clean and adversarial images under fixed and varied randomness and write what the classifier says."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from purification.data import Dataset
from purification.defence import Defence
from purification.measure.compression import directional
from purification.threat import NORMS
from workflow_scripts.files import count_adversarial, load_defence, noise_source, read_adversarial, read_dataset
from workflow_scripts.job import job, replacing, write_rows

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def purify_images(
    dataset: Dataset,
    defence: Defence,
    attacks: Mapping[str, Path],
    evaluation: Mapping[str, Any],
    *,
    rows: Path,
    samples: Path,
) -> None:
    """One row per (attack, image); attack "clean" is the unperturbed image, "random" uniform noise of the same norm."""
    seed, device = evaluation["seed"], evaluation["device"]
    fixed, fresh = (noise_source(seed, role, dataset, device) for role in ("fixed", "evaluation"))
    anchors, _, _ = dataset.take(evaluation["subset"], evaluation["images"])
    anchors = defence.purify(anchors, dataset.subsets[evaluation["subset"]], fixed, 0)
    tables, examples = [], {}
    for name, path in {"clean": None, "random": None, **attacks}.items():
        clean, labels, ids = dataset.take(
            evaluation["subset"], count_adversarial(path) if path else evaluation["images"]
        )
        inputs = clean
        if path:
            inputs = read_adversarial(path, ids)
        elif name == "random":
            uniform = noise_source(seed, "random", dataset, device)(ids).uniform("perturbation")
            inputs = (clean + evaluation["epsilon"] * uniform.sign()).clamp(0.0, 1.0)
        purified = defence.purify(inputs, ids, fixed, 0)
        draws = [defence.predict(inputs, ids, fresh, draw).numpy() for draw in range(evaluation["draws"])]
        tables.append(
            pd.DataFrame(
                {
                    "attack": name,
                    "image": ids,
                    "label": labels.numpy(),
                    "unpurified": defence.logits(inputs).argmax(dim=1).numpy(),
                    "fixed": defence.logits(purified).argmax(dim=1).numpy(),
                    "varied": list(np.stack(draws, axis=1)),
                    "compression": directional(purified, anchors[: len(ids)], inputs, clean).numpy(),
                    **{f"size_{norm}": NORMS[norm].size(inputs - clean).numpy() for norm in NORMS},
                }
            )
        )
        examples[f"{name}/input"] = inputs[: evaluation["samples"]].contiguous()
        examples[f"{name}/purified"] = purified[: evaluation["samples"]].contiguous()
    write_rows(pd.concat(tables, ignore_index=True), rows)
    with replacing(samples) as temporary:
        save_file(examples, temporary)


if __name__ == "__main__":
    with job(snakemake):
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        names = snakemake.params.attacks
        purify_images(
            data,
            load_defence(snakemake.params.purifier, snakemake.input, data, snakemake.params.evaluation),
            dict(zip(names, snakemake.input.adversarial, strict=True)),
            snakemake.params.evaluation,
            rows=snakemake.output.rows,
            samples=snakemake.output.samples,
        )
