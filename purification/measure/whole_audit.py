"""All that is checked about one purifier and one attack on it, with NaN where something cannot be measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purification.defence import Defence
from purification.errors import NoDerivative
from purification.measure.audit import Followed, Sample, audit_attack, fault_of_double, first_image, slope_of
from purification.measure.consistency import Options, audit_derivative, audit_purifier, memory_difference
from purification.threat import ThreatModel

ALONE = 2  # images that are also purified in a batch of their own
OF_DERIVATIVE = (
    *("replay_difference", "bpda_cosine", "surrogate_cosine", "adjoint_cosine"),
    *("finite_difference", "linearity", "linearity_budget", "foreseen", "masked"),
)
OF_ATTACK = (
    *("gradient_repeat", "recorded_difference", "zero_gradient", "zero_share", "not_finite"),
    *("sign_disagreement", "sign_mass", "loss_change"),
)


@dataclass(frozen=True)
class Twins:
    """A defence as it is attacked, and the same in float64.

    unused  the first made anew, which no image has gone through; None where nothing of it can keep anything
    """

    single: Defence
    double: Defence
    unused: Defence | None = None


@dataclass(frozen=True)
class Reasons:
    """Why something could not be measured; empty where it could.

    no_derivative  why the purifier has no derivative;  no_double: why float64 says nothing about it
    """

    no_derivative: str
    no_double: str


def _unknown(names: tuple[str, ...], sample: Sample) -> dict[str, Tensor]:
    return {name: torch.full((len(sample.ids),), torch.nan, dtype=torch.float64) for name in names}


def reasons_of(twins: Twins, sample: Sample) -> Reasons:
    """What of a defence cannot be measured, found by trying one image."""
    no_derivative = ""
    try:
        slope_of(twins.single, first_image(sample), Followed("margin", "autograd"), 0)
    except NoDerivative as refusal:
        no_derivative = str(refusal)
    mode = "bpda" if no_derivative else "autograd"
    return Reasons(no_derivative, fault_of_double(twins.single, twins.double, sample, mode))


def purifier_columns(twins: Twins, sample: Sample, options: Options, alone: int, reasons: Reasons) -> dict[str, Tensor]:
    """What is checked about a purifier whatever attacks it, (n,) each.

    sample  with the frozen noise;  alone: how many of its first images are also purified in a batch of their own
    """
    columns = audit_purifier(twins.single, sample, alone)
    if reasons.no_derivative:
        columns |= _unknown(OF_DERIVATIVE, sample)
    else:
        exact = None if reasons.no_double else twins.double
        columns |= audit_derivative(twins.single, exact, sample, options)
    if twins.unused is not None:
        kept = memory_difference(twins.single, twins.unused, sample, options.threat)
        columns["repeat_difference"] = torch.maximum(columns["repeat_difference"], kept)
    return columns


def attack_columns(
    twins: Twins, sample: Sample, followed: Followed, threat: ThreatModel, memory: float, reasons: Reasons
) -> dict[str, Tensor]:
    """What is checked about the gradient of one stage of an attack, (n,) each.

    sample  with the attack's noise;  threat, memory: of the attack
    """
    if reasons.no_derivative and followed.gradient != "bpda":
        return _unknown(OF_ATTACK, sample)
    exact = None if reasons.no_double or followed.gradient == "surrogate" else twins.double
    return audit_attack(twins.single, exact, sample, followed, threat, memory)
