"""Make adversarial images through one purifier and the classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from workflow_scripts.attacking import attacked, run_attack
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import (
    Proposals,
    join_adversarial,
    load_defence,
    place_of,
    read_adversarial,
    write_adversarial,
)
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
    after: Path | None = None,
    block: Block = WHOLE,
    journal: Journal = NO_JOURNAL,
) -> None:
    """Adversarial images of the first images of the subset.

    after  file of an attack on the same purifier: images that it broke are kept
    """
    images, labels, ids = dataset.take(evaluation["subset"], settings["images"], block)
    earlier = None
    if after is not None:
        earlier = read_adversarial(after, ids, block.start(settings["images"])).adversarial
    result, gradient = run_attack(dataset, defence, images, labels, ids, settings, evaluation, memory, journal, earlier)
    logger.info("accuracy on the attack's own draws %.4f (not a result)", float(result.accuracy.mean()))
    stage = result.attempt if settings["kind"] == "sequence" else result.attempt.clamp_max(0)
    write_adversarial(Proposals(result.adversarial, result.accuracy, stage, gradient), ids, output)


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
                after=Path(snakemake.input.after[0]) if snakemake.input.after else None,
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
