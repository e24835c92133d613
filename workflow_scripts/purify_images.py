"""Purify clean and adversarial images under fixed and varied randomness and write what the classifier says."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from torch import Tensor

from purification.balls import NORMS
from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.knowledge import shared_noise
from purification.matching import matched
from purification.measure.compression import directional
from purification.noise import NoiseSource
from purification.threat import ThreatModel
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import count_adversarial, load_defence, noise_source, read_adversarial
from workflow_scripts.job import job, replacing, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.judging import Distinct, distinct, predictions, predictions_of_some
from workflow_scripts.parts import block_of, join_rows, join_tensors, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

NOTHING = np.zeros(0, dtype=np.int64)


def inputs_of(
    dataset: Dataset,
    attacks: Mapping[str, Path],
    settings: Mapping[str, Any],
    images: Tensor,
    ids: list[int],
    start: int,
) -> dict[str, Tensor]:
    """Images to be judged by name; "<name>/matched" is random noise of the size that <name>'s perturbations have.

    start  position of the first of `images` among all; a name that has none of them is left out
    """
    threat = ThreatModel(settings["norm"], settings["epsilon"])
    control = noise_source(settings["seed"], "random", dataset)
    inputs = {}
    if len(first := images[: max(settings["images"] - start, 0)]):
        inputs = {"clean": first, "random": threat.random(control(ids[: len(first)]).normal("perturbation"), first)}
    for name, path in attacks.items():
        if some := ids[: max(count_adversarial(path) - start, 0)]:
            inputs[name] = read_adversarial(path, some, start).adversarial
    for name, batch in list(inputs.items()):
        normal, clean = control(ids[: len(batch)]).normal("perturbation"), images[: len(batch)]
        own = settings["threats"].get(name, {"norm": threat.norm, "epsilon": threat.epsilon})
        inputs[f"{name}/matched"] = matched(batch, clean, normal, norm=own["norm"], epsilon=own["epsilon"])
    return inputs


def accuracies_of(attacks: Mapping[str, Path], ids: list[int], start: int) -> dict[str, np.ndarray]:
    """Accuracy (n,) of the images of every attack on its own draws, as their files say; none of no attack."""
    found = {}
    for name, path in attacks.items():
        if some := ids[: max(count_adversarial(path) - start, 0)]:
            found[name] = read_adversarial(path, some, start).accuracy.numpy().astype(np.float64)
    return found


def changes(
    name: str, seen: Distinct, batch: Tensor, images: Tensor, purified: Tensor, logits: Tensor
) -> dict[str, np.ndarray]:
    """Columns of how far the images of a name are from the clean ones, before the purifier and behind it."""
    own, clean = seen.members[name], seen.members["all"][: len(batch)]
    found = {"compression": directional(purified[own], purified[clean], batch, images).numpy()}
    found["response"] = (logits[own] - logits[clean]).abs().amax(dim=1).double().numpy()
    for norm, measure in NORMS.items():
        found[f"size_{norm}"] = measure.size(batch - images).numpy()
    return found


def known_predictions(
    defence: Defence,
    seen: Distinct,
    names: list[str],
    settings: Mapping[str, Any],
    fresh: NoiseSource,
    journal: Journal,
) -> dict[str, dict[int, np.ndarray]]:
    """Labels of the first `known_images` of every name where part of the noise, or a pool of it, is known."""
    members = sorted({i for name in names for i in seen.members[name][: settings["known_images"]]})
    largest = max([settings["pool"], *settings["pools"].values()])
    sources = {
        "fixed_forward": (shared_noise(fresh, knowledge="forward", pool=1), settings["known_draws"]),
        "fixed_reverse": (shared_noise(fresh, knowledge="reverse", pool=1), settings["known_draws"]),
        "semi": (shared_noise(fresh, knowledge="semi", pool=largest), largest),
    }
    return {
        column: predictions_of_some(defence, seen, members, source, draws, column, journal.part(column))
        for column, (source, draws) in sources.items()
    }


def judgements(
    name: str,
    seen: Distinct,
    judged: Mapping[str, np.ndarray],
    known: Mapping[str, Mapping[int, np.ndarray]],
    settings: Mapping[str, Any],
) -> dict[str, list[Any]]:
    """Columns of predicted labels of one name, those of its control beside them."""
    own, control = seen.members[name], seen.members[f"{name}/matched"]
    columns = {column: list(values[own]) for column, values in judged.items()}
    columns |= {f"matched_{column}": list(judged[column][control]) for column in ("fixed", "varied")}
    pool = settings["pools"].get(name, settings["pool"])
    for column, found in known.items():
        shown = [found[i] if k < settings["known_images"] else NOTHING for k, i in enumerate(own)]
        columns[column] = [row[:pool] if column == "semi" else row for row in shown]
    return columns


def first_of(settings: Mapping[str, Any], count: int, block: Block) -> dict[str, Any]:
    """Settings with the numbers of first images that are a block's own."""
    own = {key: block.within(count, settings[key]) for key in ("known_images", "samples")}
    return {**settings, **own}


def purify_images(
    dataset: Dataset,
    defence: Defence,
    attacks: Mapping[str, Path],
    settings: Mapping[str, Any],
    *,
    rows: Path,
    samples: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (attack, image); "clean" is the image itself, "random" noise as large as the budget."""
    fixed, fresh = (noise_source(settings["seed"], role, dataset) for role in ("fixed", "evaluation"))
    count = max([settings["images"], *map(count_adversarial, attacks.values())])
    images, labels, ids = dataset.take(settings["subset"], count, block)
    inputs = inputs_of(dataset, attacks, settings, images, ids, block.start(count))
    proposed = accuracies_of(attacks, ids, block.start(count))
    names = [name for name in ("clean", "random", *attacks) if name in inputs]
    seen = distinct({**inputs, "all": images}, ids)
    settings = first_of(settings, count, block)
    purified = defence.purify(seen.images, seen.ids, fixed, 0)
    logits = defence.logits(purified)
    judged = {
        "unpurified": defence.logits(seen.images).argmax(dim=1).numpy(),
        "fixed": logits.argmax(dim=1).numpy(),
        "varied": predictions(defence, seen.images, seen.ids, fresh, settings["draws"], "all", journal.part("varied")),
    }
    known = known_predictions(defence, seen, names, settings, fresh, journal)
    tables, examples = [], {}
    for name in names:
        batch, n = inputs[name], len(inputs[name])
        frame = pd.DataFrame({"attack": name, "image": ids[:n], "label": labels[:n].numpy()})
        frame = frame.assign(**judgements(name, seen, judged, known, settings))
        frame["own_accuracy"] = proposed.get(name, np.full(n, np.nan))
        tables.append(frame.assign(**changes(name, seen, batch, images[:n], purified, logits)))
        examples[f"{name}/input"] = batch[: settings["samples"]].contiguous()
        examples[f"{name}/purified"] = purified[seen.members[name]][: settings["samples"]].contiguous()
    write_rows(pd.concat(tables, ignore_index=True), rows)
    with replacing(samples) as temporary:
        save_file(examples, temporary)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake, 0), snakemake.output.rows, by=["attack"])
            join_tensors(parts_of(snakemake, 1), snakemake.output.samples)
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            names = snakemake.params.attacks
            purify_images(
                data,
                load_defence(snakemake.params.purifier, snakemake.input, data, snakemake.params.evaluation),
                dict(zip(names, snakemake.input.adversarial, strict=True)),
                snakemake.params.evaluation,
                rows=snakemake.output.rows,
                samples=snakemake.output.samples,
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
