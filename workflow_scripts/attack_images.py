"""Make adversarial images with projected gradient descent through one purifier and the classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from workflow_scripts.attacking import attacked, run_attack
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import join_adversarial, load_defence, place_of, write_adversarial
from workflow_scripts.job import job, logger
from workflow_scripts.journal import resuming
from workflow_scripts.parts import block_of, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def attack_images(
    dataset: Dataset,
    defence: Defence,
    settings: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    memory: float,
    *,
    output: Path,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    images, labels, ids = dataset.take(evaluation["subset"], settings["images"], block)
    result = run_attack(dataset, defence, images, labels, ids, settings, evaluation, memory, journal)
    logger.info("accuracy on the attack's own draws %.4f (not a result)", float(result.accuracy.mean()))
    write_adversarial(result.adversarial, ids, output)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_adversarial(parts_of(snakemake), snakemake.output[0])
        else:
            data = read_dataset(snakemake.input.images, snakemake.input.subsets)
            entry, settings, evaluation = (
                snakemake.params.purifier,
                snakemake.params.settings,
                snakemake.params.evaluation,
            )
            whole = load_defence(entry, snakemake.input, data, evaluation)
            attack_images(
                data,
                attacked(whole, entry, settings, snakemake.input, data, place_of(evaluation)),
                settings,
                evaluation,
                snakemake.config["memory_bytes"],
                output=snakemake.output[0],
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
