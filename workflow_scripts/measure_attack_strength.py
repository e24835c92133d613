"""Robust accuracy with known randomness against the budget and the number of steps of the attack."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.matching import matched
from workflow_scripts.attacking import run_attack
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import load_defence, noise_source
from workflow_scripts.job import job, logger, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.parts import block_of, join_rows, parts_of
from workflow_scripts.variations import varied

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def measure_attack_strength(
    dataset: Dataset,
    defence: Defence,
    settings: Mapping[str, Any],
    variations: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    memory: float,
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """One row per (variation, image); a variation replaces the budget (as a multiple) and the steps of the attack.

    Beside it the same without an attack: the clean image, and random noise as large as every image's perturbation.

    A step size follows the steps, so that steps times step size stays what it is in the attack's entry; the stages of a
    sequence keep their proportions.
    """
    fixed = noise_source(evaluation["seed"], "fixed", dataset)
    images, labels, ids = dataset.take(evaluation["subset"], settings["images"], block)
    normal = noise_source(evaluation["seed"], "random", dataset)(ids).normal("perturbation")
    clean, rows = (defence.predict(images, ids, fixed, 0) == labels).numpy(), []
    for number, variation in enumerate(variations):
        changed, part = varied(settings, variation), journal.part(str(number))
        epsilon, steps = changed["epsilon"], variation["steps"]
        result, _ = run_attack(dataset, defence, images, labels, ids, changed, evaluation, memory, part)
        correct = (defence.predict(result.adversarial, ids, fixed, 0) == labels).numpy()
        control = matched(result.adversarial, images, normal, norm=settings["norm"], epsilon=epsilon)
        held = (defence.predict(control, ids, fixed, 0) == labels).numpy()
        logger.info("budget %.4g, %d steps: accuracy %.4f", epsilon, steps, correct.mean())
        seen = {"image": ids, "correct": correct, "correct_clean": clean, "correct_matched": held}
        rows.append(pd.DataFrame({"scale": variation["scale"], "epsilon": epsilon, "steps": steps, **seen}))
    write_rows(pd.concat(rows, ignore_index=True), output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake), snakemake.output[0], by=["scale", "steps"])
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            measure_attack_strength(
                data,
                load_defence(snakemake.params.purifier, snakemake.input, data, snakemake.params.evaluation),
                snakemake.params.settings,
                snakemake.params.variations,
                snakemake.params.evaluation,
                snakemake.config["memory_bytes"],
                output=snakemake.output[0],
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
