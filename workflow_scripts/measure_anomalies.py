"""Attack every arm of a detector on all test images, and score what comes out on draws that chose nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from scipy.stats import rankdata
from torch import Tensor

from purification.anomaly.detectors import ARMS, Parts, calibrated, head_of, maps, scores
from purification.anomaly.items import Items
from purification.balls import NORMS
from purification.batching import map_batches
from purification.blocks import WHOLE, Block
from purification.data import Dataset
from purification.defence import Defence
from purification.journal import NO_JOURNAL, Journal
from purification.matching import matched
from workflow_scripts.anomalies import load_detector, tested
from workflow_scripts.attacking import run_attack
from workflow_scripts.defences import noise_source
from workflow_scripts.job import job, logger, replacing, write_rows
from workflow_scripts.journal import resuming
from workflow_scripts.parts import block_of, join_rows, join_tensors, parts_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

CLEAN = "clean"


def _inputs(
    items: Items, data: Dataset, arm: str, found: Defence, settings: Mapping[str, Any], memory: float, journal: Journal
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, images, and their controls: as they are, and after each attack."""
    yield CLEAN, items.test, items.test
    normal = noise_source(settings["seed"], "random", data)(items.ids).normal("direction")
    for name, entry in settings["attacks"].items():
        part = journal.part(f"{arm}_{name}")
        made, _ = run_attack(data, found, items.test, items.anomalous, items.ids, entry, settings, memory, part)
        logger.info("%s, %s: mean gain on the attack's own draws %.4g (not a result)", arm, name, made.loss.mean())
        control = matched(made.adversarial, items.test, normal, norm=entry["norm"], epsilon=entry["epsilon"])
        yield name, made.adversarial, control


def pixel_auroc(found: Tensor, mask: Tensor) -> float:
    """Area under the curve of a map against the mask of its image; NaN where the mask says nothing."""
    inside = mask.flatten().numpy()
    hits, misses = int(inside.sum()), int((~inside).sum())
    if not (hits and misses):
        return float("nan")
    ranks = rankdata(found.flatten().numpy())
    return float((ranks[inside].sum() - hits * (hits + 1) / 2) / (hits * misses))


def _rows(items: Items, found: Defence, images: Tensor, control: Tensor, settings: Mapping[str, Any]) -> pd.DataFrame:
    data = tested(items)
    fixed, fresh = (noise_source(settings["seed"], role, data) for role in ("fixed", "evaluation"))

    def varied(inputs: Tensor) -> list[np.ndarray]:
        drawn = [scores(found, inputs, items.ids, fresh, draw) for draw in range(settings["draws"])]
        return list(torch.stack(drawn, dim=1).double().numpy())

    seen = maps(found, images, items.ids, fixed, 0)
    columns = {
        "image": items.ids, "source": items.sources, "kind": items.kinds, "anomalous": items.anomalous.bool().numpy(),
        "fixed": scores(found, images, items.ids, fixed, 0).double().numpy(),
        "varied": varied(images), "matched": varied(control),
        "pixel_auroc": [pixel_auroc(one, mask) for one, mask in zip(seen, items.masks, strict=True)],
    }  # fmt: skip
    sizes = {f"size_{length}": NORMS[length].size(images - items.test).double().numpy() for length in ("linf", "l2")}
    return pd.DataFrame({**columns, **sizes})


def shown(items: Items, count: int) -> list[int]:
    """Positions of the test images of the figure: normal ones and the kinds of anomalies in turn."""
    kinds = list(dict.fromkeys(items.kinds))
    places = {kind: [place for place, own in enumerate(items.kinds) if own == kind] for kind in kinds}
    rounds = (places[kind][turn] for turn in range(len(items.kinds)) for kind in kinds if turn < len(places[kind]))
    return sorted(place for place, _ in zip(rounds, range(count), strict=False))


def _pictures(items: Items, found: Defence, images: Tensor, chosen: list[int], seed: int) -> dict[str, Tensor]:
    """Input, what is compared, its reconstruction and the map of some images under the fixed noise."""
    some, ids = images[chosen], [items.ids[place] for place in chosen]
    source = noise_source(seed, "fixed", tested(items))
    purified = found.purify(some, ids, source, 0)

    def compared(block: list[int]) -> Tensor:
        seen, rebuilt = head_of(found).split(purified[block])
        return torch.stack([seen, rebuilt[:, 0]], dim=1)

    with torch.no_grad():
        seen, rebuilt = map_batches(compared, range(len(some)), found.batch_size).unbind(dim=1)
    return {
        "input": some, "seen": (seen + 1) / 2, "rebuilt": (rebuilt + 1) / 2,
        "map": maps(found, some, ids, source, 0),
    }  # fmt: skip


def measure_anomalies(
    items: Items, parts: Parts, settings: Mapping[str, Any], memory: float, *,
    rows: Path, samples: Path, block: Block = WHOLE, journal: Journal = NO_JOURNAL,
) -> None:  # fmt: skip
    """One row per (arm, attack, image) of a block of the test images, and the pictures of those that are shown."""
    start, stop = block.start(len(items.ids)), block.stop(len(items.ids))
    places = [place for place in shown(items, settings["samples"]) if start <= place < stop]
    items, chosen = items.of(block), [place - start for place in places]
    data = tested(items)
    source = noise_source(settings["seed"], "calibration", data)
    sizes = {key: settings[key] for key in ("batch_size", "gradient_batch_size")}
    frames: list[pd.DataFrame] = []
    pictures: dict[str, Tensor] = {}
    for arm, make in ARMS.items():
        found = calibrated(make(parts, settings), items.train, items.train_ids, source, settings, **sizes)
        for name, images, control in _inputs(items, data, arm, found, settings, memory, journal):
            made = _rows(items, found, images, control, settings)
            made.insert(0, "arm", arm)
            made.insert(1, "attack", name)
            frames.append(made)
            kept = _pictures(items, found, images, chosen, settings["seed"]) if chosen else {}
            pictures |= {f"{arm}/{name}/{key}": value.contiguous() for key, value in kept.items()}
    write_rows(pd.concat(frames, ignore_index=True), rows)
    with replacing(samples) as temporary:
        save_file({**pictures, "places": torch.tensor(places, dtype=torch.int64)}, temporary)


if __name__ == "__main__":
    with job(snakemake), resuming(snakemake) as kept:
        if snakemake.input.parts:
            join_rows(parts_of(snakemake, 0), snakemake.output.rows, by=["arm", "attack"])
            join_tensors(parts_of(snakemake, 1), snakemake.output.samples)
        else:
            found, parts = load_detector(snakemake.input, snakemake.params.settings)
            measure_anomalies(
                found,
                parts,
                snakemake.params.settings,
                snakemake.config["memory_bytes"],
                rows=snakemake.output.rows,
                samples=snakemake.output.samples,
                block=block_of(snakemake.wildcards),
                journal=kept,
            )
