"""The gradient that an attack follows, examined on what runs; a robust accuracy whose audit fails means nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purification.balls import NORMS
from purification.defence import TARGETED_LOSSES, Defence, loss_of
from purification.noise import NoiseSource
from purification.threat import ThreatModel

OTHER_FUNCTION = 1e-2  # pixels: a purifier whose result in float64 differs by more is another function there


@dataclass(frozen=True)
class Sample:
    """What is audited: images (n, C, H, W) in [0, 1], labels (n,), dataset indices, and the noise (draw 0 of it)."""

    images: Tensor
    labels: Tensor
    ids: Sequence[int]
    source: NoiseSource

    def double(self) -> Sample:
        """The same numbers in float64."""
        return replace(self, images=self.images.double(), source=replace(self.source, dtype=torch.float64))

    def at(self, images: Tensor) -> Sample:
        """Other images in the place of these, with their labels and their noise."""
        return replace(self, images=images)


@dataclass(frozen=True)
class Followed:
    """What an attack, or one stage of it, follows: a loss of `defence.LOSSES`, by a mode of `gradients`."""

    loss: str
    gradient: str


@dataclass(frozen=True)
class Slope:
    """Loss (n,), its gradient (n, C, H, W), and what the purifier gave while the gradient was recorded."""

    values: Tensor
    gradient: Tensor
    purified: Tensor


def random_point(sample: Sample, threat: ThreatModel) -> Sample:
    """The sample at a uniform point of the ball around every image."""
    noise = sample.source(sample.ids)
    radius = (noise.uniform("radius").flatten(1)[:, 0] + 1) / 2
    return sample.at(threat.random_start(noise.uniform("start"), radius, sample.images))


def first_image(sample: Sample) -> Sample:
    """The sample of the first image alone."""
    return replace(sample, images=sample.images[:1], labels=sample.labels[:1], ids=sample.ids[:1])


def likeliest_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong class with the highest logit, (n,): what a targeted loss drives to."""
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)


def loss_at(loss: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Value (n,) of a loss; a targeted one drives to the likeliest wrong class."""
    targets = likeliest_wrong(logits, labels) if loss in TARGETED_LOSSES else None
    return loss_of(loss, logits, labels, targets)


def slope_of(defence: Defence, sample: Sample, followed: Followed, kept_steps: int) -> Slope:
    """The gradient as an attack takes it: in its mode, in batches of its size, with graph recording on."""
    seen: dict[int, Tensor] = {}

    def judge(purified: Tensor, block: list[int]) -> tuple[Tensor, Tensor]:
        seen[block[0]] = purified.detach()
        logits = defence.classifier(purified)
        return loss_at(followed.loss, logits, sample.labels[block]), logits

    values, gradient, _ = defence.differentiate(
        defence.purifier, sample.images, sample.ids, sample.source, 0, judge,
        mode=followed.gradient, kept_steps=kept_steps,
    )  # fmt: skip
    return Slope(values, gradient, torch.cat(list(seen.values()))[: len(values)])


def largest(values: Tensor) -> Tensor:
    """Largest absolute value of every image, (n,) in float64."""
    return values.flatten(1).double().abs().amax(dim=1)


def fault_of_double(defence: Defence, exact: Defence, sample: Sample, mode: str) -> str:
    """Why float64 says nothing about the defence; empty where it does.

    mode  of the gradient that must run there too
    """
    twin = sample.double()
    pair = replace(exact, gradient_batch_size=2)
    try:
        double = exact.purify(twin.images, twin.ids, twin.source, 0)
        slope_of(pair, first_image(twin), Followed("margin", mode), 0)
    except ValueError as refusal:
        return str(refusal)
    single = defence.purify(sample.images, sample.ids, sample.source, 0)
    if float(largest(single - double).max()) > OTHER_FUNCTION:
        return "in float64 it is another function"
    return ""


def signs(single: Tensor, double: Tensor) -> dict[str, Tensor]:
    """Where two gradients have different signs: the share of the pixels, and of the absolute value of the second."""
    first = single.flatten(1).double()
    second = double.flatten(1)
    other = first.sign() != second.sign()
    mass = (second.abs() * other).sum(dim=1) / second.abs().sum(dim=1).clamp_min(1e-300)
    return {"sign_disagreement": other.double().mean(dim=1), "sign_mass": mass}


def _at_a_point(
    defence: Defence, exact: Defence | None, sample: Sample, followed: Followed, threat: ThreatModel, kept: int
) -> tuple[Slope, dict[str, Tensor]]:
    """The gradient at some images, and what is checked about it there."""
    slope = slope_of(defence, sample, followed, kept)
    evaluated = defence.purify(sample.images, sample.ids, sample.source, 0)
    logits = defence.logits(evaluated)
    right = logits.argmax(dim=1) == sample.labels
    normal = sample.source(sample.ids).normal("signs")
    moved = sample.images + threat.epsilon * NORMS[threat.norm].unit(normal)
    after = defence.logits(defence.purify(moved, sample.ids, sample.source, 0))
    values = [loss_at(followed.loss, each, sample.labels) for each in (logits, after)]
    change = (values[1] - values[0]).abs()
    flat = slope.gradient.flatten(1)
    vanishes = ~flat.any(dim=1)
    unknown = torch.full((len(flat),), torch.nan, dtype=torch.float64)
    checks = {
        "recorded_difference": largest(slope.purified - evaluated),
        "zero_gradient": (vanishes & (change > 0) & right).double(),
        "zero_share": (flat == 0).double().mean(dim=1),
        "not_finite": (~torch.isfinite(flat)).double().mean(dim=1),
        "sign_disagreement": unknown,
        "sign_mass": unknown,
        "loss_change": change.double(),
    }
    if exact is not None:
        checks |= signs(slope.gradient, slope_of(exact, sample.double(), followed, kept).gradient)
    return slope, checks


def audit_attack(
    defence: Defence, exact: Defence | None, sample: Sample, followed: Followed, threat: ThreatModel, memory: float
) -> dict[str, Tensor]:
    """What one attack follows, (n,) each; all but the last should be (nearly) zero.

    The worst of the image itself and of a random point of the ball, but for `gradient_repeat` and `loss_change`, which
    are of the image itself.

    gradient_repeat      largest difference of the same gradient taken twice, over its largest entry
    recorded_difference  largest difference of the purified image while gradients are recorded and as it is evaluated
    zero_gradient        1 for an image that is right and whose gradient vanishes although random signs of the budget's
                         size change the loss
    zero_share           share of the pixels without a gradient
    not_finite           share of NaN and infinity in the gradient
    sign_disagreement    share of the pixels at which the gradient in float64 has another sign
    sign_mass            the same, pixels weighted by the absolute value of the gradient in float64
    loss_change          how much those random signs change the loss

    exact   the same defence in float64; None where that says nothing (`fault_of_double`), which leaves NaN
    memory  bytes of activations that an exact gradient may keep
    Raises NoDerivative for a purifier without one.
    """
    kept = defence.kept_steps(sample.images, sample.ids, sample.source, memory)
    slope, here = _at_a_point(defence, exact, sample, followed, threat, kept)
    again = slope_of(defence, sample, followed, kept)
    _, there = _at_a_point(defence, exact, random_point(sample, threat), followed, threat, kept)
    found = {name: torch.maximum(here[name], there[name]) for name in here}
    size = largest(slope.gradient.nan_to_num()).clamp_min(1e-300)
    repeat = largest((slope.gradient - again.gradient).nan_to_num()) / size
    return {"gradient_repeat": repeat, **found, "loss_change": here["loss_change"]}
