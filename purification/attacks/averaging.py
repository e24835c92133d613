"""How an attack averages loss and gradient over draws of the noise (EOT, Athalye et al. 2018), one draw at a time.

The gradient of the cross-entropy is 1 - p_y times that of the log-odds of being wrong. A draw counts by how likely it
is wrong, so the mean over draws goes where draws can be fooled. With the weights 1 - p_y themselves the mean would
vanish in float32 where all draws are certain; over the largest weight among the draws it never does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SURELY_RIGHT = -15.0  # log-odds below which log(log(1 + exp(L))) is L to float32


@dataclass(frozen=True)
class Averages:
    """Of the draws of one evaluation so far; one entry per image.

    losses    mean loss; of cross-entropy its logarithm
    slopes    (n, C, H, W) its gradient, of cross-entropy over the largest of the draws' weights
    accuracy  share of the draws that are classified rightly
    peak      logarithm of the largest weight; minus infinity before the first draw
    """

    losses: Tensor
    slopes: Tensor
    accuracy: Tensor
    peak: Tensor


def no_draws(x: Tensor) -> dict[str, Tensor]:
    """Fields of `Averages` before the first draw."""
    zeros = torch.zeros(len(x), device=x.device)
    return {
        "losses": zeros.clone(),
        "slopes": torch.zeros_like(x),
        "accuracy": zeros.clone(),
        "peak": zeros - torch.inf,
    }


def forget_draws(at: Averages) -> None:
    """Begin the next evaluation."""
    for average in (at.losses, at.slopes, at.accuracy):
        average.zero_()
    at.peak.fill_(-torch.inf)


def log_cross_entropy(log_odds: Tensor) -> Tensor:
    """log(log(1 + exp(L))), which for very negative L is L."""
    return torch.where(log_odds < SURELY_RIGHT, log_odds, F.softplus(log_odds.clamp_min(SURELY_RIGHT)).log())


def _add_to_mean(at: Averages, active: Tensor, values: Tensor, slopes: Tensor, draws: int) -> None:
    at.losses[active] += values / draws
    at.slopes[active] += slopes / draws


def _add_cross_entropy(at: Averages, active: Tensor, values: Tensor, slopes: Tensor, draws: int) -> None:
    """Values are log-odds and slopes their gradients; what is averaged is the cross-entropy."""
    before, weight = at.peak[active], F.logsigmoid(values)
    peak = torch.maximum(before, weight)
    kept, share = _images(torch.exp(before - peak), slopes), _images(torch.exp(weight - peak), slopes)
    at.slopes[active] = kept * at.slopes[active] + share * slopes / draws
    loss = log_cross_entropy(values) - math.log(draws)
    at.losses[active] = torch.where(before.isneginf(), loss, torch.logaddexp(at.losses[active], loss))
    at.peak[active] = peak


def _images(values: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values.view(-1, *[1] * (like.dim() - 1))


# Loss -> how a draw's values (n,) and slopes (n, C, H, W) are added to the averages of the active images; others: mean.
ADD: dict[str, Callable[[Averages, Tensor, Tensor, Tensor, int], None]] = {"ce": _add_cross_entropy}


def add_draw(at: Averages, active: Tensor, loss: str, values: Tensor, slopes: Tensor, draws: int) -> None:
    """Add one of `draws` draws to loss and gradient of the active images."""
    ADD.get(loss, _add_to_mean)(at, active, values, slopes, draws)
