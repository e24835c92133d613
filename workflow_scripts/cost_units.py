"""How much work a job is: one function per script that counts units whose cost can be measured.

The settings are those that the job receives. A script of a rule without a function here fails a test.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from purification.reporting.law_claims import RESAMPLES
from workflow_scripts.cost_plan import Job
from workflow_scripts.followed import followed_by
from workflow_scripts.surrogates import surrogate_of
from workflow_scripts.variations import varied

ATTACKED = 0.4  # ASSUME: mean share of images still attacked where an attack stops at those it has broken


@dataclass(frozen=True)
class Unit:
    """Something whose time and memory `cost_probe` measures.

    kind      key of `cost_probe.PROBES`
    purifier  its entry as JSON
    batch     images at once
    option    what else it depends on: a gradient mode, a type, the name of a network
    """

    kind: str
    purifier: str = ""
    batch: int = 0
    option: str = ""


Work = Counter[Unit]


@dataclass(frozen=True)
class Context:
    """What all jobs share: the configuration and (C, H, W) of an image."""

    config: Mapping[str, Any]
    shape: tuple[int, int, int]

    @property
    def batch(self) -> int:
        size: int = self.config["batch_size"]
        return size

    @property
    def gradients(self) -> int:
        """Images whose gradient is computed at once."""
        size: int = self.config["gradient_batch_size"]
        return size

    def blocks(self, images: float, size: int | None = None) -> int:
        """Batches of so many images."""
        return math.ceil(images / (size or self.batch))


def entry_of(purifier: Mapping[str, Any]) -> str:
    """The entry as JSON; a tenth of the schedule stands for every t* but 0, which change nothing but numbers."""
    entry = dict(purifier)
    if entry["kind"] == "diffusion" and entry["t_star"] and not {"spacing", "noise_index"} & entry.keys():
        entry["t_star"] = max(entry.get("steps", 1), entry["schedule"]["train_steps"] // 10)
    return json.dumps(entry, sort_keys=True)


def _twins(job: Job, context: Context) -> list[str]:
    """Entries of the purifier and, where the job has its files, of the null model."""
    entry = job.params["purifier"]
    null = {**entry, "denoiser": context.config["null_denoiser"]}
    return [entry_of(entry), *([entry_of(null)] if job.null else [])]


def _purify(context: Context, entry: str, images: float, size: int) -> Work:
    """Purification of images, at most `size` at a time."""
    size = max(1, min(size, int(images)))
    return Counter({Unit("purify", entry, size): math.ceil(images / size)})


def _pgd(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    one_run = settings["steps"] + len(settings.get("radii", [1]))
    evaluations = one_run * settings.get("restarts", 1) * settings.get("targets", 1)
    attacked = _attacked(context, settings, context.gradients)
    return _gradients(context, entry, settings, math.ceil(evaluations * settings["draws"] * attacked))


def _attacked(context: Context, settings: Mapping[str, Any], size: int) -> float:
    """Batches of the images still attacked, on average over the steps."""
    blocks = context.blocks(settings["images"], size)
    stops = settings.get("stop_when_broken", settings["knowledge"] == "both")
    return max(1.0, ATTACKED * blocks) if stops else blocks


def _queries(context: Context, entry: str, settings: Mapping[str, Any], count: int) -> Work:
    """So many evaluations without gradients."""
    blocks = math.ceil(count * settings["draws"] * _attacked(context, settings, context.batch))
    return Counter({Unit("purify", entry, context.batch): blocks, Unit("classify", "", context.batch): blocks})


def _fab(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    count = settings["steps"] * settings["targets"]
    gradients = math.ceil(count * settings["draws"] * _attacked(context, settings, context.gradients))
    return _gradients(context, entry, settings, gradients) + _queries(context, entry, settings, count)


def _square(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    count = settings["queries"] * settings.get("restarts", 1) * (2 if settings.get("paired") else 1)
    return _queries(context, entry, settings, count)


def _exemplars(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    return _queries(context, entry, {**settings, "draws": settings.get("judges", 1)}, settings["count"])


def _autoattack(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    alone = {key: value for key, value in settings.items() if key not in ("targets", "restarts")}
    climb = _pgd(context, entry, {**alone, "restarts": settings["restarts"]})
    if settings["version"] == "rand":
        return climb + climb
    towards = _pgd(context, entry, {**alone, "targets": settings["targets"]})
    boundary = _fab(context, entry, {**settings, "targets": settings["fab_targets"]})
    return climb + towards + boundary + _square(context, entry, alone)


def _gradients(context: Context, entry: str, settings: Mapping[str, Any], count: int) -> Work:
    """So many batches of gradients in the attack's mode; a surrogate's come with the value of what runs."""
    size, mode = context.gradients, settings["gradient"]
    if mode != "surrogate":
        return Counter({Unit("gradient", entry, size, mode): count})
    cheaper = json.dumps(surrogate_of(json.loads(entry), settings), sort_keys=True)
    surrogate = Unit("gradient", cheaper, size, "replay")
    return Counter({surrogate: count, Unit("purify", entry, size): count, Unit("classify", "", size): count})


def _diffhammer(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    """Every draw up to the purified images and back through the classifier; one draw of each step through all."""
    blocks, steps = context.blocks(settings["images"], context.gradients), settings["steps"]
    seen = _gradients(context, entry, {**settings, "gradient": "bpda"}, (steps + 1) * settings["draws"] * blocks)
    return seen + _gradients(context, entry, settings, steps * blocks)


def _sequence(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    """Every stage as if it were alone: those that follow have fewer images, but break fewer of them."""
    work = Work()
    for stage in settings["stages"]:
        work += ATTACKS[stage["kind"]](context, entry, {**stage, "images": settings["images"]})
    return work


ATTACKS: dict[str, Callable[[Context, str, Mapping[str, Any]], Work]] = {
    "pgd": _pgd,
    "apgd": _pgd,
    "fab": _fab,
    "square": _square,
    "autoattack": _autoattack,
    "own_draws": _pgd,
    "diffattack": _pgd,
    "diffhammer": _diffhammer,
    "exemplars": _exemplars,
    "sequence": _sequence,
}


def _attack(context: Context, entry: str, settings: Mapping[str, Any]) -> Work:
    """Gradients of one attack; unknown kinds count like projected gradient descent."""
    return ATTACKS[settings.get("kind", "pgd")](context, entry, settings)


def _attack_images(job: Job, context: Context) -> Work:
    return _attack(context, entry_of(job.params["purifier"]), job.params["settings"])


def _measure_attack_strength(job: Job, context: Context) -> Work:
    entry, settings, work = entry_of(job.params["purifier"]), job.params["settings"], Work()
    for variation in job.params["variations"]:
        work += _attack(context, entry, varied(settings, variation))
        work += _judged(context, entry, settings["images"], 1)
    return work


def _measure_attack_adequacy(job: Job, context: Context) -> Work:
    """Every variation with its judgement; then gradients on the draws of the reference and of the largest mean."""
    entry, options, work = entry_of(job.params["purifier"]), job.params["options"], Work()
    for variation in options["variations"]:
        changed = varied(job.params["attacks"][variation["attack"]], variation)
        settings = {**changed, "images": options["images"]}
        work += _attack(context, entry, settings)
        work += _judged(context, entry, options["images"], 1 if settings["knowledge"] == "both" else options["draws"])
    noise = job.params["noise"]
    blocks = context.blocks(noise["images"], context.gradients)
    draws = noise["reference"] + max(noise["draws"])
    return work + Counter({Unit("gradient", entry, context.gradients, "replay"): draws * blocks})


def _judged(context: Context, entry: str, images: int, draws: int) -> Work:
    blocks = draws * context.blocks(images)
    return Counter({Unit("purify", entry, context.batch): blocks, Unit("classify", "", context.batch): blocks})


def _purify_images(job: Job, context: Context) -> Work:
    """Every distinct image on every draw: clean, random, and of each attack; some of each also on known noise.

    The controls of perturbations that use the budget are the random images; those of an attack that stops early differ.
    """
    settings, attacks = job.params["evaluation"], context.config["attacks"]
    entry, largest = entry_of(job.params["purifier"]), max([settings["pool"], *settings["pools"].values()])
    own = {**attacks, "transfer": attacks[context.config["transfer_attack"]]}
    chosen = [own[name] for name in job.params["attacks"]]
    images = max([settings["images"], *(attack["images"] for attack in chosen)]) + settings["images"]
    images += sum(attack["images"] * (1.5 if attack.get("stop_when_broken") else 1.0) for attack in chosen)
    known = (2 + len(chosen)) * settings["known_images"]
    work = _judged(context, entry, math.ceil(images), settings["draws"] + 1)
    work += Counter({Unit("classify", "", context.batch): context.blocks(images)})
    return work + _judged(context, entry, known, 2 * settings["known_draws"] + largest)


def _measure_distances(job: Job, context: Context) -> Work:
    blocks = 3 * context.blocks(job.params["settings"]["images"])
    return Counter({Unit("path", entry, context.batch): blocks for entry in _twins(job, context)})


def _measure_randomness(job: Job, context: Context) -> Work:
    settings, work = job.params["settings"], Work()
    for entry in _twins(job, context):
        for unit, count in _purify(context, entry, settings["samples"], context.batch).items():
            work[unit] += 3 * settings["images"] * count
    return work


def _measure_compression(job: Job, context: Context) -> Work:
    settings, work = job.params["settings"], Work()
    for entry in _twins(job, context):
        work[Unit("purify", entry, 1)] += settings["images"]
        for unit, count in _purify(context, entry, settings["samples"], context.batch).items():
            work[unit] += len(settings["probe_scales"]) * settings["images"] * count
    return work


def _compute_jacobian(job: Job, context: Context) -> Work:
    settings, work = job.params["settings"], Work()
    pixels, size = math.prod(context.shape), context.gradients
    for entry in _twins(job, context):
        full = settings["spectrum"] == "full"
        formed, probed = context.blocks(pixels, size), context.blocks(settings["probes"], size)
        work[Unit("pull", entry, size)] += probed + (formed if full else probed)
        steps, directions = settings["iterations"], 0 if full else settings["directions"]
        work[Unit("pull", entry, 1)] += steps + directions * (steps - 1)
        work[Unit("push", entry, 1)] += steps + directions * steps
        work += _purify(context, entry, settings["probes"], context.batch)
        work += Counter({Unit("spectrum"): 1} if full else {})
    return Counter({unit: settings["images"] * count for unit, count in work.items()})


def _audit_gradients(job: Job, context: Context) -> Work:
    """Of the purifier: gradients in every mode, and what random changes do; of every stage of an attack: its gradient.

    A forward pass in float64 counts as a third of a gradient.
    """
    settings, entry = job.params["settings"], entry_of(job.params["purifier"])
    size, blocks = context.gradients, context.blocks(settings["images"], context.gradients)
    stages = [stage for attack in job.params["attacks"].values() for stage in followed_by(attack)]
    passes = 6 + 4 * settings["changes"] + 6 * len(stages)
    work = _judged(context, entry, settings["images"], passes)
    gradients = Counter({"autograd": 2, "replayed": 2, "bpda": 1})
    gradients["float64"] = 2 + math.ceil(2 * settings["directions"] / 3) + 2 * len(stages)
    for stage in stages:
        gradients["bpda" if stage.gradient == "bpda" else "replay"] += 3
    for option, times in gradients.items():
        work[Unit("gradient", entry, size, option)] += times * blocks
    return work


def _trained(job: Job, context: Context) -> Work:
    settings = dict(job.params["settings"])
    steps = settings.get("training", settings)["steps"]
    if "base" in settings:
        settings["tuned"] = context.config["denoisers"][settings["base"]]
    return Counter({Unit("train", option=json.dumps(settings, sort_keys=True)): steps})


def _detector(job: Job) -> dict[str, Any]:
    """One reverse step of a detector's denoiser, as the entry of a purifier: what one reconstruction costs."""
    settings = job.params["settings"]
    fixed = {"kind": "diffusion", "sampler": "one_step", "forward_noise": True, "clip": "none", "clamp_output": False}
    return {**fixed, "denoiser": settings["detector"], "t_star": 1, "schedule": settings["schedule"]}


def _measure_anomalies(job: Job, context: Context) -> Work:
    """Gradients of every attack and scores of all it made, of AdvRAD and of the purifier; both calibrated first."""
    settings, one = job.params["settings"], _detector(job)
    purifier = {**settings["purifier"], "denoiser": one["denoiser"], "schedule": one["schedule"]}
    work, images = Work(), job.params["images"]
    for entry, shots in ((entry_of(one), settings["shots"]), (entry_of(purifier), 1)):
        for attack in settings["attacks"].values():
            for unit, count in _pgd(context, entry, {**attack, "images": images}).items():
                work[unit] += shots * count
        scored = (len(settings["attacks"]) + 1) * (2 * settings["draws"] + 2) + settings["calibration"]
        work[Unit("purify", entry, context.batch)] += shots * scored * context.blocks(images)
    return work


def _certify_anomalies(job: Job, context: Context) -> Work:
    """Two of the three arms have a network."""
    settings = job.params["settings"]
    draws = settings["certification"]["samples"] + settings["calibration"]
    return Counter(
        {Unit("purify", entry_of(_detector(job)), context.batch): 2 * draws * context.blocks(job.params["images"])}
    )


def _fit_null_model(job: Job, context: Context) -> Work:
    return Counter({Unit("null_model", option=json.dumps(dict(job.params["settings"]), sort_keys=True)): 1})


PREDICTORS = 4  # of a purifier that was left out, each by a rising and a falling sigmoid


def _left_out(context: Context, points: int) -> int:
    """Fits with every point and every value of t* left out, for every subset, and those of the law by itself."""
    return len(context.config["fit"]["subsets"]) * 2 * PREDICTORS * 2 * points + 2 * points


def _fit_compression_robustness(job: Job, context: Context) -> Work:
    """Every form with and without the anchor for every subset, and the predictions."""
    points = len(context.config["run"]["sweep"])
    fits = 6 * len(context.config["fit"]["subsets"]) + _left_out(context, points)
    return Counter({Unit("fit", batch=points): fits})


def _render_tables(job: Job, context: Context) -> Work:
    """The same again, the points three times, and claims that refit the curve to resampled images and purifiers."""
    points = len(context.config["run"]["sweep"])
    fits = _left_out(context, points) + 4 * points + 2 * RESAMPLES + 3 * points
    return Counter({Unit("fit", batch=points): fits, Unit("rank", batch=points): 2 * RESAMPLES + 3 * points})


def _render_figures(job: Job, context: Context) -> Work:
    """Panels and marks worth a few of the figures that are measured."""
    return Counter({Unit("figure"): 4})


def _nothing(job: Job, context: Context) -> Work:
    """Little beside the start of Python."""
    return Work()


# Script -> what its jobs do beside starting.
WORK: dict[str, Callable[[Job, Context], Work]] = {
    "prepare_dataset": _nothing,
    "train_classifier": _trained,
    "train_robust_classifier": _trained,
    "train_denoiser": _trained,
    "finetune_denoiser": _trained,
    "prepare_anomalies": _nothing,
    "train_detector": _trained,
    "measure_anomalies": _measure_anomalies,
    "certify_anomalies": _certify_anomalies,
    "convert_classifier": _nothing,
    "convert_denoiser": _nothing,
    "fit_null_model": _fit_null_model,
    "attack_images": _attack_images,
    "purify_images": _purify_images,
    "measure_attack_strength": _measure_attack_strength,
    "measure_attack_adequacy": _measure_attack_adequacy,
    "measure_distances": _measure_distances,
    "measure_randomness": _measure_randomness,
    "measure_compression": _measure_compression,
    "compute_jacobian": _compute_jacobian,
    "audit_gradients": _audit_gradients,
    "fit_compression_robustness": _fit_compression_robustness,
    "render_tables": _render_tables,
    "render_figures": _render_figures,
    "render_report": _nothing,
    "check_results": _nothing,
    "list_checksums": _nothing,
}
