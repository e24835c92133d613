"""Whether a purifier is a function of an image and its noise alone, and its derivative that of what runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purification.balls import NORMS
from purification.batching import map_batches
from purification.defence import Defence, margin
from purification.differences import DOUBLE, SINGLE, directional_error
from purification.measure.audit import (
    Followed,
    Sample,
    largest,
    random_point,
    slope_of,
)
from purification.measure.masks import masked_share
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel

logger = logging.getLogger("purification")
UNDEFENDED = FunctionPurifier(lambda images, noise: images)
APPROXIMATIONS = ("bpda", "surrogate", "adjoint")
SCALES = {"linearity": 0.25, "linearity_budget": 1.0}  # sizes of random changes, in units of the budget


@dataclass(frozen=True)
class Options:
    """How closely a derivative is examined.

    threat      threat model: the distance of the random point, and the size of random changes
    directions  of the finite differences
    changes     random changes of each size that the gradient is to foresee
    """

    threat: ThreatModel
    directions: int
    changes: int


def repeat_difference(defence: Defence, sample: Sample) -> Tensor:
    """Largest difference (n,) of two purifications with the same noise."""
    first = defence.purify(sample.images, sample.ids, sample.source, 0)
    second = defence.purify(sample.images, sample.ids, sample.source, 0)
    return largest(first - second)


def memory_difference(used: Defence, unused: Defence, sample: Sample, threat: ThreatModel) -> Tensor:
    """Largest difference (n,), of purified images and of logits, of a used defence and an unused one.

    At points in the ball around images that the used one has just seen: a defence that remembers
    images answers with what it has kept.
    """
    used.purify(sample.images, sample.ids, sample.source, 0)
    near = random_point(sample, threat)
    first = unused.purify(near.images, near.ids, near.source, 0)
    again = used.purify(near.images, near.ids, near.source, 0)
    judged = largest(unused.logits(first) - used.logits(again))
    return torch.maximum(largest(first - again), judged)


def batch_difference(defence: Defence, sample: Sample, alone: int) -> Tensor:
    """Largest difference (n,) of an image's purification in other company, at another place, or alone.

    Every second image in reverse order, then the others; the first `alone` images also in batches of one. Infinite for
    an image that cannot be purified alone.
    """
    whole = defence.purify(sample.images, sample.ids, sample.source, 0)
    found = torch.zeros(len(sample.ids), dtype=torch.float64)
    orders = [list(range(start, len(sample.ids), 2))[::-1] for start in (0, 1)]
    for order in filter(None, orders):
        ids = [sample.ids[i] for i in order]
        moved = defence.purify(sample.images[order], ids, sample.source, 0)
        found[order] = largest(moved - whole[order])
    if not alone:
        return found
    some = slice(0, alone)
    try:
        single = replace(defence, batch_size=1).purify(sample.images[some], sample.ids[some], sample.source, 0)
        difference = largest(single - whole[some])
    except ValueError as refusal:
        logger.warning("an image cannot be purified alone: %s", refusal)
        difference = torch.full((len(whole[some]),), torch.inf, dtype=torch.float64)
    found[some] = torch.maximum(found[some], difference)
    return found


def masked(defence: Defence, sample: Sample) -> Tensor:
    """Share (n,) of the derivatives that one operation stops (`masks`)."""

    def run(block: list[int]) -> Tensor:
        noise = sample.source([sample.ids[i] for i in block])
        return masked_share(defence.purifier, sample.images[block], noise)

    return map_batches(run, range(len(sample.ids)), defence.batch_size)


def relative(first: Tensor, second: Tensor) -> Tensor:
    """||a - b|| / ||b|| per image, (n,); 0 where both vanish."""
    first = first.flatten(1).double()
    second = second.flatten(1).double()
    length = torch.linalg.vector_norm
    ratio: Tensor = length(first - second, dim=1) / length(second, dim=1).clamp_min(1e-300)
    return ratio


def compared_gradients(defence: Defence, sample: Sample, exact: Tensor) -> dict[str, Tensor]:
    """The replayed gradient and every approximate one beside the exact gradient of the margin."""
    replayed = slope_of(defence, sample, Followed("margin", "replay"), 0).gradient
    found = {"replay_difference": relative(replayed, exact)}
    for mode in APPROXIMATIONS:
        if mode == "surrogate" and defence.surrogate is None:
            found[f"{mode}_cosine"] = torch.full((len(exact),), torch.nan)
        else:
            slope = slope_of(defence, sample, Followed("margin", mode), 0).gradient
            found[f"{mode}_cosine"] = torch.cosine_similarity(slope.flatten(1), exact.flatten(1))
    return found


def _smallest_error(values: Callable[[Tensor], Tensor], images: Tensor, gradient: Tensor, along: Tensor) -> Tensor:
    """Error (n,) over its tolerance, at the first step for the type of the images at which it is at most 1.

    Where it is so at none, the smallest over the steps.
    """
    best = torch.full((len(images),), torch.inf, dtype=torch.float64)
    for difference in DOUBLE if images.dtype == torch.float64 else SINGLE:
        beyond = best > 1.0
        if not bool(beyond.any()):
            break
        error = directional_error(values, images, gradient, along, difference.step) / difference.tolerance
        best = torch.where(beyond, torch.fmin(best, error), best)
    return best


def finite_difference(defence: Defence, sample: Sample, directions: int) -> Tensor:
    """Error (n,) of the gradient against central differences, in units of the tolerance for the type of the images.

    Of a random linear functional of the purified image, and of the margin at the purified image; the larger of the two.
    So a kink of the classifier, which is near some image at any step, spoils nothing about the purifier.
    """
    noise = [sample.source(sample.ids, draw) for draw in range(directions)]
    along = torch.stack([each.normal("direction") for each in noise])
    weights = noise[0].normal("weights")

    def functional(moved: Tensor) -> Tensor:
        purified = defence.purify(moved, sample.ids, sample.source, 0)
        return (purified.double() * weights).flatten(1).sum(dim=1)

    def judged(moved: Tensor) -> Tensor:
        return margin(defence.logits(moved), sample.labels)

    pulled = defence.pull_back(
        sample.images, weights, sample.ids, sample.source, [0] * len(sample.ids), mode="replay", kept_steps=0
    )
    purified = defence.purify(sample.images, sample.ids, sample.source, 0)
    bare = replace(defence, purifier=UNDEFENDED)
    slope = slope_of(bare, sample.at(purified), Followed("margin", "autograd"), 0).gradient
    purifier = _smallest_error(functional, sample.images, pulled, along)
    classifier = _smallest_error(judged, purified, slope, along)
    return torch.maximum(purifier, classifier)


def margins_of(defence: Defence, sample: Sample, moved: Sequence[Tensor]) -> Tensor:
    """Margins (K, n) in float64 of K versions of the images, all in the same batches."""
    ids = [*sample.ids] * len(moved)
    logits = defence.logits(defence.purify(torch.cat([*moved]), ids, sample.source, 0))
    return margin(logits, sample.labels.repeat(len(moved))).double().view(len(moved), -1)


def linearity(defence: Defence, sample: Sample, gradient: Tensor, options: Options, scale: float) -> Tensor:
    """Correlation (n,) of the changes of the margin that the gradient foresees with those that happen.

    Between pairs of opposite random perturbations of `scale` times the budget, within ball and box; 0 for a gradient
    that is zero, NaN where nothing changes. Near 1 for a loss that is nearly linear at that size; near 0 for a gradient
    that is exact and says nothing about its surroundings (shattered gradients, Athalye et al. 2018).
    """
    threat = replace(options.threat, epsilon=scale * options.threat.epsilon)
    moved, foreseen = [], []
    for draw in range(options.changes):
        normal = sample.source(sample.ids, draw).normal("signs")
        change = threat.epsilon * NORMS[threat.norm].unit(normal)
        up = threat.project(sample.images + change, sample.images)
        down = threat.project(sample.images - change, sample.images)
        foreseen.append((gradient.double() * (up - down).double()).flatten(1).sum(dim=1))
        moved += [up, down]
    raised, lowered = margins_of(defence, sample, moved).view(options.changes, 2, -1).unbind(dim=1)
    first = torch.stack(foreseen, dim=1)  # (n, changes): sums within an image do not depend on the others
    second = (raised - lowered).T.contiguous()
    sizes = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    correlation = (first * second).sum(dim=1) / sizes.clamp_min(1e-300)
    return torch.where(second.any(dim=1), correlation, torch.nan)


def foreseen(defence: Defence, sample: Sample, gradient: Tensor, threat: ThreatModel) -> Tensor:
    """Change of the margin that the gradient foresees over the size of the one that happens, (n,).

    Along the steepest step of the whole budget, within ball and box: about 1 where the loss is nearly linear, near 0
    where it jumps between answers that the gradient knows nothing of; infinite or NaN where nothing happens.
    """
    share = sample.images.new_full((len(sample.images),), threat.share or 1.0)
    step = threat.epsilon * NORMS[threat.norm].steepest(gradient, sample.images, share)
    moved = threat.project(sample.images + step, sample.images)
    before, after = margins_of(defence, sample, [sample.images, moved])
    expected = (gradient.double() * (moved - sample.images).double()).flatten(1).sum(dim=1)
    happened = (after - before).abs()
    return torch.div(expected, happened)


def audit_purifier(defence: Defence, sample: Sample, alone: int) -> dict[str, Tensor]:
    """What needs no derivative, (n,) each: `repeat_difference` and `batch_difference`; both should be zero.

    alone  how many of the first images are also purified in a batch of their own
    """
    return {
        "repeat_difference": repeat_difference(defence, sample),
        "batch_difference": batch_difference(defence, sample, alone),
    }


def audit_derivative(defence: Defence, exact: Defence | None, sample: Sample, options: Options) -> dict[str, Tensor]:
    """What is checked about the derivative of a purifier with its classifier, (n,) each.

    replay_difference  relative difference of the replayed gradient, nothing kept, and plain autograd; should be zero
    finite_difference  error against central differences over its tolerance: at most 1. At a random point near the image
                       that is not clipped to the box, since many images have pixels that sit where a clamp has its kink
    linearity, linearity_budget   correlation of foreseen and real changes, at a quarter of the budget and at all of it
    foreseen           foreseen over real change of the margin, along the gradient's own direction
    masked             share of the purifier's derivatives that one operation stops (`masks`)
    <mode>_cosine      cosine of the BPDA, surrogate and adjoint gradient with the exact one (information)

    exact  the same defence in float64; None where that says nothing: finite differences are then taken in float32
    Raises NoDerivative for a purifier without one.
    """
    plain = slope_of(defence, sample, Followed("margin", "autograd"), 0).gradient
    found = compared_gradients(defence, sample, plain)
    inside = options.threat.epsilon * sample.source(sample.ids).uniform("inside")
    point = sample.at(sample.images + inside)
    if exact is None:
        found["finite_difference"] = finite_difference(defence, point, options.directions)
    else:
        found["finite_difference"] = finite_difference(exact, point.double(), options.directions)
    for name, scale in SCALES.items():
        found[name] = linearity(defence, sample, plain, options, scale)
    found["foreseen"] = foreseen(defence, sample, plain, options.threat)
    return {**found, "masked": masked(defence, sample)}
