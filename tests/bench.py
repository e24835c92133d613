"""Cost of purification and of its exact gradient, against the bare network, paired in one run.

    python tests/bench.py            ratios of the default network (untrained weights: they cost the same)

bare   the same number of diffusers `UNet2DModel` evaluations and nothing else
ideal  as many forward passes without a graph, forward passes with one, and backward passes of the same network
Each ratio is the median over interleaved repetitions on one thread, with its quartiles. Goals are printed beside them;
nothing here passes or fails. The last section is the wall time of the last default run against its 15-minute goal.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import yaml
from diffusers import UNet2DModel

from purification.gradients import gradient
from purification.models.denoisers import Denoiser, network_epsilon
from purification.models.unet import UNet
from purification.noise import NoiseSource
from purification.purifiers import make_purifier, purify
from purification.schedule import Schedule

ROOT = Path(__file__).parents[1]
SETTINGS = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
REPETITIONS = 9
GOAL_MINUTES = 15


def paired(name: str, ours: Callable[[], object], reference: Callable[[], object], goal: str) -> None:
    """Print the ratio of two timings taken in turns."""
    ours(), reference()
    ratios = []
    for _ in range(REPETITIONS):
        times = []
        for function in (ours, reference):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
        ratios.append(times[0] / times[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name:<58} {middle:5.2f}  [{low:.2f}, {high:.2f}]  goal {goal}")


def main() -> None:
    torch.set_num_threads(1)
    size = SETTINGS["datasets"][SETTINGS["dataset"]]["size"]
    entry = SETTINGS["purifiers"][SETTINGS["run"]["headline"]]
    denoiser = SETTINGS["denoisers"][entry["denoiser"]]
    network = UNet2DModel(sample_size=size, in_channels=1, out_channels=1, **denoiser["network"])
    network.eval().requires_grad_(False)
    lean = UNet.from_config(network.config)
    lean.load_state_dict(network.state_dict())
    shape = (1, size, size)
    wrapped = Denoiser(network_epsilon(lean), Schedule(**denoiser["schedule"]))
    purifier = make_purifier(entry, wrapped, shape, torch.device("cpu"))
    steps, source = entry["steps"], NoiseSource(0, "fixed", shape)
    print(f"headline {SETTINGS['run']['headline']}, {steps} steps, one thread: median ratio [quartiles]")
    for batch in (1, 8, SETTINGS["batch_size"]):
        images, noise = torch.rand(batch, *shape), source(range(batch))

        def bare(images: torch.Tensor = images) -> None:
            with torch.inference_mode():
                for _ in range(steps):
                    network(images, 50)

        def ideal(images: torch.Tensor = images) -> None:
            bare(images)
            for _ in range(steps):
                leaf = images.clone().requires_grad_()
                torch.autograd.grad(network(leaf, 50).sample.sum(), leaf)

        def run(images: torch.Tensor = images, noise: object = noise) -> None:
            with torch.inference_mode():
                purify(purifier, images, noise)  # type: ignore[arg-type]

        def slope(kept: int, images: torch.Tensor = images, noise: object = noise) -> None:
            objective = lambda purified: purified.flatten(1).sum(dim=1)  # noqa: E731
            gradient(purifier, images, noise, objective, mode="replay", kept_steps=kept)  # type: ignore[arg-type]

        paired(f"purify / bare, batch {batch}", run, bare, "<= 0.90" if batch > 1 else "<= 0.80")
        paired(f"gradient, every step replayed / ideal, batch {batch}", lambda: slope(0), ideal, "<= 1.05")
        paired(f"gradient, every activation kept / ideal, batch {batch}", lambda: slope(steps), ideal, "<= 0.65")

        def draw(noise: object = noise) -> None:
            for step in range(steps):
                noise.normal("reverse", step)  # type: ignore[attr-defined]

        paired(f"noise / purify, batch {batch}", draw, run, "<= 0.01")
    breakdown()


def breakdown() -> None:
    """Job-minutes of the last default run by rule, from Snakemake's benchmark files."""
    folder = ROOT / SETTINGS["results"] / "benchmarks"
    seconds: dict[str, list[float]] = {}
    for file in sorted(folder.rglob("*.tsv")):
        rule = file.relative_to(folder).parts[0].removesuffix(".tsv")
        seconds.setdefault(rule, []).append(float(pd.read_csv(file, sep="\t").s.iloc[0]))
    total = sum(sum(values) for values in seconds.values())
    for rule, values in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        print(f"{rule:<30} {len(values):3d} jobs {sum(values) / 60:6.1f} min")
    print(f"{'last default run':<30} {total / 60:15.1f} job-minutes, two at a time; goal {2 * GOAL_MINUTES}")


if __name__ == "__main__":
    main()
