"""Purify clean and adversarial images under fixed and varied randomness and write what the classifier says."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.measure.compression import directional
from purification.noise import NoiseSource
from purification.progress import track
from purification.threat import NORMS, ThreatModel
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import count_adversarial, load_defence, noise_source, read_adversarial
from workflow_scripts.job import job, replacing, write_rows
from workflow_scripts.journal import resuming

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def predictions(
    defence: Defence, inputs: Tensor, ids: list[int], fresh: NoiseSource, draws: int, name: str, journal: Journal
) -> list[np.ndarray]:
    """Predicted labels on every fresh draw."""
    done = journal.load()
    for draw in track(range(draws), f"fresh draws of {name}", len(done)):
        done[f"{draw}"] = defence.predict(inputs, ids, fresh, draw)
        journal.save(lambda: done, last=draw == draws - 1)
    return [done[f"{draw}"].numpy() for draw in range(draws)]


def judged(
    defence: Defence, inputs: Tensor, purified: Tensor, labels: Tensor, ids: list[int], varied: list[np.ndarray]
) -> pd.DataFrame:
    """One row per image: predictions under the fixed noise, on fresh draws, and of the bare classifier."""
    return pd.DataFrame(
        {
            "image": ids,
            "label": labels.numpy(),
            "unpurified": defence.logits(inputs).argmax(dim=1).numpy(),
            "fixed": defence.logits(purified).argmax(dim=1).numpy(),
            "varied": list(np.stack(varied, axis=1)),
        }
    )


def purify_images(
    dataset: Dataset,
    defence: Defence,
    attacks: Mapping[str, Path],
    settings: Mapping[str, Any],
    *,
    rows: Path,
    samples: Path,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (attack, image); "clean" is the image itself, "random" noise as large as the budget."""
    fixed, fresh, control = (
        noise_source(settings["seed"], role, dataset, settings["device"]) for role in ("fixed", "evaluation", "random")
    )
    counts = {"clean": settings["images"], "random": settings["images"]}
    counts |= {name: count_adversarial(path) for name, path in attacks.items()}
    images, labels, ids = dataset.take(settings["subset"], max(counts.values()))
    anchors = defence.purify(images, ids, fixed, 0)
    tables, examples = [], {}
    for name, n in counts.items():
        clean, inputs, some = images[:n], images[:n], ids[:n]
        if name in attacks:
            inputs = read_adversarial(attacks[name], some)
        elif name == "random":
            normal = control(some).normal("perturbation")
            inputs = ThreatModel(settings["norm"], settings["epsilon"]).random(normal, clean)
        purified = anchors[:n] if name == "clean" else defence.purify(inputs, some, fixed, 0)
        varied = predictions(defence, inputs, some, fresh, settings["draws"], name, journal.part(name))
        frame = judged(defence, inputs, purified, labels[:n], some, varied)
        frame["compression"] = directional(purified, anchors[:n], inputs, clean).numpy()
        for norm, measure in NORMS.items():
            frame[f"size_{norm}"] = measure.size(inputs - clean).numpy()
        tables.append(frame.assign(attack=name))
        examples[f"{name}/input"] = inputs[: settings["samples"]].contiguous()
        examples[f"{name}/purified"] = purified[: settings["samples"]].contiguous()
    write_rows(pd.concat(tables, ignore_index=True), rows)
    with replacing(samples) as temporary:
        save_file(examples, temporary)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        data = read_dataset(snakemake.input.images, snakemake.input.subsets)
        names = snakemake.params.attacks
        purify_images(
            data,
            load_defence(snakemake.params.purifier, snakemake.input, data, snakemake.params.evaluation),
            dict(zip(names, snakemake.input.adversarial, strict=True)),
            snakemake.params.evaluation,
            rows=snakemake.output.rows,
            samples=snakemake.output.samples,
            journal=kept,
        )
