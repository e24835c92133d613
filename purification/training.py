"""Training of the classifier and of the denoiser, reproducible from (settings, seed) alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from purification.models.classifiers import ResidualNetwork
from purification.philox import generator
from purification.progress import track
from purification.schedule import Schedule

Network = TypeVar("Network", bound=nn.Module)


def initialise(build: Callable[[], Network], seed: int) -> Network:
    """Build a network with its initial weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _optimiser(network: nn.Module, settings: Mapping[str, Any]) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW with linear warm-up and cosine decay to zero."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    warmup, total = settings["warmup"], settings["steps"]

    def rate(step: int) -> float:
        if step < warmup:
            return float((step + 1) / warmup)
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return optimiser, LambdaLR(optimiser, rate)


def _finite(loss: Tensor, step: int) -> Tensor:
    if not torch.isfinite(loss):
        raise ValueError(f"expected a finite loss, got {loss.item()} in step {step} — lower learning_rate")
    return loss


def _shift(images: Tensor, pixels: int, rng: np.random.Generator) -> Tensor:
    """Shift every image by up to `pixels`, repeating the border."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, mode="replicate")
    offsets = rng.integers(0, 2 * pixels + 1, (len(images), 2)).tolist()
    return torch.stack([p[:, i : i + height, j : j + width] for p, (i, j) in zip(padded, offsets, strict=True)])


def train_classifier(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], seed: int
) -> tuple[ResidualNetwork, list[float]]:
    """Cross-entropy training on images in [0, 1]; returns the network in evaluation mode and the loss per step."""
    channels, classes = images.shape[1], int(labels.max()) + 1
    network = initialise(lambda: ResidualNetwork(channels, classes, settings["widths"]), seed)
    network.mean.copy_(images.mean(dim=(0, 2, 3)))
    network.std.copy_(images.std(dim=(0, 2, 3)))
    optimiser, schedule = _optimiser(network, settings)
    network.train()
    losses = []
    for step in track(range(settings["steps"]), "train classifier"):
        rng = generator(seed, "training", "classifier", step=step)
        index = torch.from_numpy(rng.integers(0, len(images), settings["batch_size"]))
        batch = _shift(images[index], settings["shift"], rng)
        loss = _finite(F.cross_entropy(network(batch), labels[index]), step)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval(), losses


def sample_indices(rng: np.random.Generator, count: int, settings: Mapping[str, Any], train_steps: int) -> Tensor:
    """Noise indices (count,): a share `low_fraction` uniform below `low_below`, the rest uniform over the schedule."""
    low = rng.random(count) < settings["low_fraction"]
    high = np.where(low, settings["low_below"], train_steps)
    return torch.from_numpy((rng.random(count) * high).astype(np.int64))


def train_denoiser(
    images: Tensor, network: Network, schedule: Schedule, settings: Mapping[str, Any], seed: int
) -> tuple[Network, list[float]]:
    """Noise-prediction training (Ho et al. 2020) of a diffusers-style network(u, t).sample.

    images are in [0, 1]; returns the exponential moving average of the network and the loss per step.
    """
    ema = get_ema_multi_avg_fn(settings["ema"])  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=ema)
    optimiser, rate = _optimiser(network, settings)
    root = torch.from_numpy(np.sqrt(schedule.alpha_bars)).float()
    rest = torch.from_numpy(np.sqrt(1.0 - schedule.alpha_bars)).float()
    network.train()
    losses = []
    for step in track(range(settings["steps"]), "train denoiser"):
        rng = generator(seed, "training", "denoiser", step=step)
        chosen = torch.from_numpy(rng.integers(0, len(images), settings["batch_size"]))
        index = sample_indices(rng, len(chosen), settings, schedule.train_steps)
        u0 = 2.0 * images[chosen] - 1.0
        eps = torch.from_numpy(rng.standard_normal(u0.shape, dtype=np.float32))
        scale, noise_scale = root[index].view(-1, 1, 1, 1), rest[index].view(-1, 1, 1, 1)
        loss = _finite(F.mse_loss(network(scale * u0 + noise_scale * eps, index).sample, eps), step)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), settings["gradient_clip"])
        optimiser.step()
        rate.step()
        averaged.update_parameters(network)
        losses.append(loss.item())
    return cast(Network, averaged.module).eval(), losses
