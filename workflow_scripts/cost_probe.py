"""Measure seconds and memory of single units of work with the networks of a configuration and random weights.

Every unit runs in a child forked from a process that has imported everything, so that memory freed by one unit does not
hide what the next one takes. Times are processor times on a CPU: other work on the machine does not lengthen them.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import expit
from scipy.stats import spearmanr
from torch import Tensor

from purification.data import Dataset
from purification.defence import Defence
from purification.fit import fit_sigmoid
from purification.gradients import MODES, steps_within
from purification.measure import jacobian
from purification.measure.distances import distances_along
from purification.models.classifiers import Classifier, ResidualNetwork
from purification.models.denoisers import (
    Denoiser,
    Epsilon,
    GaussianEpsilon,
    StationaryEpsilon,
    fit_stationary,
    network_epsilon,
)
from purification.models.loading import PUBLISHED
from purification.models.published import describe_classifier
from purification.models.unet import UNet
from purification.noise import Noise, NoiseSource
from purification.purifiers import Purifier, make_purifier, purify
from purification.schedule import Schedule
from purification.user_code import own_classifier
from workflow_scripts.cost_chains import first_steps
from workflow_scripts.cost_memory import peak_memory
from workflow_scripts.cost_passes import TALLY, Passes, counting
from workflow_scripts.cost_trainings import TRAININGS
from workflow_scripts.cost_units import Unit
from workflow_scripts.fit_null_model import fitted

LONG = 6  # chains up to this length run whole, longer ones are extrapolated from their first steps
FEW, MORE = 2, 5
ENOUGH, REPEATS = 0.3, 10  # seconds and number of calls that are enough
TRAINED = 4  # training steps run
BATCHED = 8  # an image of a batch takes down to an eighth of the time of one alone
Call = Callable[[Purifier, int], object]


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes beyond those of the process before."""

    seconds: float
    memory: float

    def plus(self, other: Cost, share: float = 1.0) -> Cost:
        """The sum with a share of another cost."""
        return Cost(self.seconds + share * other.seconds, self.memory + share * other.memory)

    def scaled(self, factor: float) -> Cost:
        """So many times this cost."""
        return Cost(factor * self.seconds, factor * self.memory)


@dataclass(frozen=True)
class Laboratory:
    """What units are measured with, seconds one should take at most, and passes of published denoisers by entry."""

    config: Mapping[str, Any]
    data: Dataset
    allowance: float
    passes: Mapping[str, Mapping[torch.dtype, Passes]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device(self.config["device"])

    def classifier(self, dtype: torch.dtype = torch.float32, name: str | None = None) -> Classifier:
        """The configured classifier, or another; untrained where it is a network of the workflow."""
        entry = self.config["classifiers"][name or self.config["classifier"]]
        if entry["kind"] == "python":
            return own_classifier(entry, self.data.shape, self.data.num_classes, self.device)
        if entry["kind"] in PUBLISHED:
            network = PUBLISHED[entry["kind"]](describe_classifier(entry))
        else:
            network = ResidualNetwork(self.data.shape[0], self.data.num_classes, entry["widths"])
        return network.to(self.device, dtype).eval().requires_grad_(False)

    def purifier(self, text: str, dtype: torch.dtype = torch.float32) -> Purifier:
        """Purifier of an entry as JSON, with an untrained denoiser."""
        entry = json.loads(text)
        network = None
        if "denoiser" in entry:
            chosen = self.config["denoisers"].get(entry["denoiser"]) or self.detector(entry["denoiser"])
            guide = entry.get("guidance", {}).get("network")
            epsilon, schedule = NETWORKS[chosen["kind"]](chosen, self, dtype), Schedule(**entry["schedule"])
            network = Denoiser(epsilon, schedule, auxiliary=self.classifier(dtype, guide) if guide else None)
        return make_purifier(entry, network, self.data.shape, self.device)

    def kept(self, text: str, dtype: torch.dtype) -> float:
        """Bytes that a step of one image keeps where its network is counted, 0 where it runs."""
        entry = self.config["denoisers"].get(json.loads(text).get("denoiser"), {})
        entry = self.config["denoisers"].get(entry.get("base"), entry)
        passes = self.passes.get(json.dumps(entry, sort_keys=True), {})
        return passes[dtype].kept if passes else 0.0

    def detector(self, name: str) -> Mapping[str, Any]:
        """The denoiser of a detector as an entry of `denoisers`."""
        return {"kind": "unet", **{key: self.config["anomaly"][name][key] for key in ("schedule", "network")}}

    def noise(self, size: int, dtype: torch.dtype = torch.float32) -> Noise:
        return self.source(dtype)(range(size))

    def source(self, dtype: torch.dtype = torch.float32) -> NoiseSource:
        return NoiseSource(self.config["seed"], "fixed", self.data.shape, self.device, dtype)

    def images(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        index = torch.arange(size) % len(self.data.images)
        return self.data.images[index].to(self.device, dtype)

    def seconds(self, run: Callable[[], object]) -> float:
        """Time of one call."""
        on_cpu = self.device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        begin, counted = clock(), TALLY.seconds
        run()
        if not on_cpu:
            torch.cuda.synchronize(self.device)
        return clock() - begin + TALLY.seconds - counted

    def cost(self, run: Callable[[], object]) -> Cost:
        """Shortest of a few calls after the first, the first alone where it is long; memory of all."""
        times = [self.seconds(run)]
        if times[0] < self.allowance:
            times = [self.seconds(run)]
            while sum(times) < ENOUGH and len(times) < REPEATS:
                times.append(self.seconds(run))
        return Cost(min(times), self._peak())

    def _peak(self) -> float:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return peak_memory() + TALLY.memory

    def affordable(self, size: int, run: Callable[[int], object]) -> int:
        """`size`, or as many images (two at the least) as fit into the allowance by the second call for one of them."""
        one = min(self.seconds(lambda: run(1)) for _ in range(2))
        return size if one * size <= BATCHED * self.allowance else min(size, max(2, int(self.allowance / one)))


def _unet(entry: Mapping[str, Any], lab: Laboratory, dtype: torch.dtype) -> Epsilon:
    channels = lab.data.shape[0]
    network = UNet.from_config({"in_channels": channels, "out_channels": channels, **entry["network"]})
    return network_epsilon(network.to(lab.device, dtype))


def _finetuned(entry: Mapping[str, Any], lab: Laboratory, dtype: torch.dtype) -> Epsilon:
    base = lab.config["denoisers"][entry["base"]]
    return NETWORKS[base["kind"]](base, lab, dtype)


def _converted(entry: Mapping[str, Any], lab: Laboratory, dtype: torch.dtype) -> Epsilon:
    return counting(lab.passes[json.dumps(entry, sort_keys=True)][dtype])


def _gaussian(entry: Mapping[str, Any], lab: Laboratory, dtype: torch.dtype) -> Epsilon:
    mean = torch.zeros(lab.data.shape, device=lab.device, dtype=dtype)
    return GaussianEpsilon(mean, torch.eye(mean.numel()).to(mean), torch.ones(mean.numel()).to(mean))


def _stationary(entry: Mapping[str, Any], lab: Laboratory, dtype: torch.dtype) -> Epsilon:
    tensors = fit_stationary(lab.images(FEW), entry["size"])
    return StationaryEpsilon(**{name: tensor.to(lab.device, dtype) for name, tensor in tensors.items()})


NETWORKS: dict[str, Callable[[Mapping[str, Any], Laboratory, torch.dtype], Epsilon]] = {
    "unet": _unet,
    "finetuned": _finetuned,
    "diffusers": _converted,
    "guided_diffusion": _converted,
    "score_sde": _converted,
    "edm": _converted,
    "gaussian": _gaussian,
    "stationary": _stationary,
}


def _chain(lab: Laboratory, purifier: Purifier, size: int, call: Call) -> Cost:
    """Cost of `call(purifier, images)`, from fewer images and the first steps where the whole takes too long."""
    steps, before = purifier.num_steps, lab.cost(lambda: None).memory
    ends = [steps] if steps <= LONG else [FEW, MORE]

    def whole(images: int) -> Cost:
        costs = [lab.cost(partial(call, first_steps(purifier, end), images)) for end in ends]
        rise = costs[-1].plus(costs[0], -1.0)
        return costs[-1].plus(rise, (steps - ends[-1]) / (MORE - FEW)).plus(Cost(0.0, -before))

    chosen = lab.affordable(size, lambda images: call(first_steps(purifier, MORE), images))
    if chosen == size:
        return whole(size)
    one, some = whole(1), whole(chosen)
    return some.plus(some.plus(one, -1.0), (size - chosen) / (chosen - 1))


def _purify(unit: Unit, lab: Laboratory) -> Cost:
    @torch.no_grad()
    def call(purifier: Purifier, size: int) -> object:
        return purify(purifier, lab.images(size), lab.noise(size))

    return _chain(lab, lab.purifier(unit.purifier), unit.batch, call)


def _path(unit: Unit, lab: Laboratory) -> Cost:
    def call(purifier: Purifier, size: int) -> object:
        return distances_along(purifier, lab.images(size), lab.images(size), lab.noise(size))

    return _chain(lab, lab.purifier(unit.purifier), unit.batch, call)


def _classify(unit: Unit, lab: Laboratory) -> Cost:
    classifier = lab.classifier()

    @torch.no_grad()
    def call(purifier: Purifier, size: int) -> object:
        return classifier(lab.images(size))

    return _chain(lab, lab.purifier('{"kind": "identity"}'), unit.batch, call)


def _gradient(unit: Unit, lab: Laboratory) -> Cost:
    """Loss gradient of one batch; option: a mode of `gradients`, "replayed" (nothing kept) or "float64" (the same)."""
    dtype = torch.float64 if unit.option == "float64" else torch.float32
    mode = unit.option if unit.option in MODES else "replay"
    purifier, classifier = lab.purifier(unit.purifier, dtype), lab.classifier(dtype)
    steps, kept = purifier.num_steps, 0
    if unit.option in MODES and steps:
        memory, need = lab.config["memory_bytes"] / unit.batch, lab.kept(unit.purifier, dtype)
        if need:
            kept = min(steps, int(memory // need))
        else:
            kept = steps_within(purifier, lab.images(1, dtype), lab.noise(1, dtype), memory)

    def call(share: float) -> Call:
        def run(short: Purifier, size: int) -> object:
            return Defence(short, classifier, size).loss_gradient(
                lab.images(size, dtype), torch.zeros(size, dtype=torch.long, device=lab.device), range(size),
                lab.source(dtype), 0, loss="ce", mode=mode, kept_steps=round(share * short.num_steps),
            )  # fmt: skip

        return run

    if steps <= LONG or kept in (0, steps):
        return _chain(lab, purifier, unit.batch, call(kept / max(steps, 1)))
    none, whole = (_chain(lab, purifier, unit.batch, call(share)) for share in (0.0, 1.0))
    return none.plus(whole.plus(none, -1.0), kept / steps)


def _pull(unit: Unit, lab: Laboratory) -> Cost:
    """Vector-Jacobian products of one batch of cotangents."""

    def call(purifier: Purifier, size: int) -> object:
        image = lab.images(1)[0]
        pull = jacobian.pullback(
            purifier, image, 0, lab.source(), batch_size=size, mode="replay", kept_steps=purifier.num_steps
        )
        return pull(torch.ones(size, image.numel(), device=lab.device))

    return _chain(lab, lab.purifier(unit.purifier), unit.batch, call)


def _push(unit: Unit, lab: Laboratory) -> Cost:
    """A Jacobian-vector product."""

    def call(purifier: Purifier, size: int) -> object:
        image = lab.images(1)[0]
        return jacobian.push(purifier, image, 0, lab.source(), torch.ones(size, image.numel(), device=lab.device))

    return _chain(lab, lab.purifier(unit.purifier), unit.batch, call)


def _train(unit: Unit, lab: Laboratory) -> Cost:
    """One step of a training; option: its settings as JSON."""
    settings = json.loads(unit.option)
    inner = settings.get("training", settings)
    whole = inner["batch_size"]

    def run(steps: int, size: int) -> object:
        changed = {**inner, "steps": steps, "batch_size": size}
        chosen = {**settings, "training": changed} if "training" in settings else changed
        return TRAININGS[settings["kind"]](chosen, lab)

    before, begin = lab.cost(lambda: run(0, FEW)).memory, lab.seconds(lambda: run(0, FEW))
    one = min(lab.seconds(lambda: run(1, FEW)) - begin for _ in range(2)) / FEW
    size = whole if one * whole <= BATCHED * lab.allowance else min(whole, max(FEW, int(lab.allowance / one)))
    more = lab.cost(lambda: run(TRAINED, size))
    return Cost((more.seconds - begin) / TRAINED, more.memory - before).scaled(whole / size)


def _spectrum(unit: Unit, lab: Laboratory) -> Cost:
    """Singular values of one Jacobian."""
    pixels = math.prod(lab.data.shape)
    before = lab.cost(lambda: None)
    return lab.cost(lambda: jacobian.singular_values(torch.eye(pixels))).plus(before, -1.0)


def _null_model(unit: Unit, lab: Laboratory) -> Cost:
    """The fit of a null model; option: its settings as JSON."""
    before = lab.cost(lambda: None)
    return lab.cost(lambda: fitted(lab.data, json.loads(unit.option))).plus(before, -1.0)


def _fit(unit: Unit, lab: Laboratory) -> Cost:
    """A sigmoid fitted to `batch` points."""
    rates = np.linspace(0.05, 0.9, max(unit.batch, 6))
    robust = np.round(0.9 * expit(-8 * (rates - 0.4)) + 0.02 * np.sin(40 * rates), 3)
    before = lab.cost(lambda: None)
    counts = [300] * len(rates)
    return lab.cost(lambda: fit_sigmoid("scaled", list(rates), list(robust), counts, clean=0.9)).plus(before, -1.0)


def _rank(unit: Unit, lab: Laboratory) -> Cost:
    """A rank correlation of `batch` points."""
    rates = np.sin(np.arange(unit.batch))
    before = lab.cost(lambda: None)
    return lab.cost(lambda: spearmanr(rates, np.roll(rates, 1))).plus(before, -1.0)


def _figure(unit: Unit, lab: Laboratory) -> Cost:
    """Drawing a figure and writing it as PDF and PNG."""

    def draw() -> None:
        figure = Figure(figsize=(6, 4))
        for axes in figure.subplots(1, 2):
            axes.errorbar(range(30), range(30), range(30), label="line")
            axes.legend()
        for kind in ("pdf", "png"):
            figure.savefig(io.BytesIO(), format=kind, dpi=200)

    before = lab.cost(lambda: None)
    return lab.cost(draw).plus(before, -1.0)


PROBES: dict[str, Callable[[Unit, Laboratory], Cost]] = {
    "purify": _purify,
    "path": _path,
    "classify": _classify,
    "gradient": _gradient,
    "pull": _pull,
    "push": _push,
    "train": _train,
    "spectrum": _spectrum,
    "null_model": _null_model,
    "fit": _fit,
    "rank": _rank,
    "figure": _figure,
}


def measure(unit: Unit, lab: Laboratory) -> Cost:
    """Cost of one unit in this process, on one thread."""
    torch.set_num_threads(1)
    TALLY.memory = 0.0
    return PROBES[unit.kind](unit, lab)
