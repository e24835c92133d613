"""Training of the classifier and of the denoiser, reproducible from (settings, seed) alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from purification.journal import NO_JOURNAL, Journal, State, restore
from purification.models.classifiers import ResidualNetwork
from purification.philox import generator
from purification.progress import track
from purification.schedule import Schedule

Network = TypeVar("Network", bound=nn.Module)
Example = Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor | None]]
Objective = Callable[[ResidualNetwork, Tensor, Tensor, np.random.Generator], Tensor]


def evaluations(steps: int) -> dict[str, int]:
    """Passes of one batch through the network in a whole plain training."""
    return {"network_forward": steps, "network_backward": steps}


def initialise(build: Callable[[], Network], seed: int) -> Network:
    """Build a network with its initial weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _optimiser(network: nn.Module, settings: Mapping[str, Any], done: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW with linear warm-up and cosine decay to zero, after `done` steps."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    warmup, total = settings["warmup"], settings["steps"]

    def rate(step: int) -> float:
        if step < warmup:
            return float((step + 1) / warmup)
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    optimiser.param_groups[0]["initial_lr"] = settings["learning_rate"]
    return optimiser, LambdaLR(optimiser, rate, last_epoch=done - 1)


def _state(modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, losses: list[float]) -> State:
    """Everything the next step depends on; the learning rate follows from the number of losses."""
    state = {f"{kind}/{name}": value for kind, module in modules.items() for name, value in module.state_dict().items()}
    for number, entry in optimiser.state_dict()["state"].items():
        state |= {f"optimiser/{number}/{name}": value for name, value in entry.items()}
    return {**state, "losses": torch.tensor(losses, dtype=torch.float64)}


def _resume(modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, saved: State) -> list[float]:
    """Put a saved state back, nothing if none was saved; returns the losses so far."""
    if not saved:
        return []
    for kind, module in modules.items():
        prefix = f"{kind}/"
        own = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        restore(module.state_dict(), own)
    for number, parameter in enumerate(optimiser.param_groups[0]["params"]):
        prefix = f"optimiser/{number}/"
        for key, value in saved.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                like = value if name == "step" else torch.empty_like(parameter, requires_grad=False).copy_(value)
                optimiser.state[parameter][name] = like
    losses: list[float] = saved["losses"].tolist()
    return losses


def _finite(loss: Tensor, step: int) -> Tensor:
    if not torch.isfinite(loss):
        raise ValueError(f"expected a finite loss, got {loss.item()} in step {step} — lower learning_rate")
    return loss


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, every part of it back in its own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _shift(images: Tensor, pixels: int, rng: np.random.Generator) -> Tensor:
    """Shift every image by up to `pixels`, repeating the border."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, mode="replicate")
    offsets = rng.integers(0, 2 * pixels + 1, (len(images), 2)).tolist()
    return torch.stack([p[:, i : i + height, j : j + width] for p, (i, j) in zip(padded, offsets, strict=True)])


def fit_classifier(
    images: Tensor,
    labels: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    objective: Objective,
    label: str,
    journal: Journal,
) -> tuple[ResidualNetwork, list[float]]:
    """Train a small residual network on shifted images in [0, 1]; `label` names the training and its random numbers.

    objective(network, images, labels, rng) -> loss of one batch

    Returns the network in evaluation mode and the loss per step.
    """
    channels, classes = images.shape[1], int(labels.max()) + 1
    network = initialise(lambda: ResidualNetwork(channels, classes, settings["widths"]), seed)
    network.mean.copy_(images.mean(dim=(0, 2, 3)))
    network.std.copy_(images.std(dim=(0, 2, 3)))
    saved = journal.load()
    optimiser, schedule = _optimiser(network, settings, len(saved.get("losses", ())))
    losses = _resume({"network": network}, optimiser, saved)
    network.train()
    for step in track(range(settings["steps"]), f"train {label}", len(losses)):
        rng = generator(seed, "training", label, step=step)
        index = torch.from_numpy(rng.integers(0, len(images), settings["batch_size"]))
        batch = _shift(images[index], settings["shift"], rng)
        loss = _finite(objective(network, batch, labels[index], rng), step)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        journal.save(lambda: _state({"network": network}, optimiser, losses))
    return network.eval(), losses


def train_classifier(
    images: Tensor, labels: Tensor, settings: Mapping[str, Any], seed: int, journal: Journal = NO_JOURNAL
) -> tuple[ResidualNetwork, list[float]]:
    """Cross-entropy training on images in [0, 1]; returns the network in evaluation mode and the loss per step.

    A training of the same arguments goes on from the state that `journal` kept, to the same bits.
    """

    def objective(network: ResidualNetwork, batch: Tensor, truth: Tensor, rng: np.random.Generator) -> Tensor:
        return F.cross_entropy(network(batch), truth)

    return fit_classifier(images, labels, settings, seed, objective, "classifier", journal)


def sample_indices(rng: np.random.Generator, count: int, settings: Mapping[str, Any], train_steps: int) -> Tensor:
    """Noise indices (count,): a share `low_fraction` uniform below `low_below`, the rest uniform over the schedule."""
    low = rng.random(count) < settings["low_fraction"]
    high = np.where(low, settings["low_below"], train_steps)
    return torch.from_numpy((rng.random(count) * high).astype(np.int64))


def squared_error(predicted: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over all pixels of weight (predicted - target)^2; weight (B, 1, 1, 1), or 1."""
    if weight is None:
        return F.mse_loss(predicted, target)
    return (weight * (predicted - target).square()).mean()


def predict_noise(
    network: Network, example: Example, settings: Mapping[str, Any], label: str, journal: Journal
) -> tuple[Network, list[float]]:
    """Mean squared error training of a diffusers-style network(u, position).sample on the examples of every step.

    example(step) -> noisy images (B, C, H, W), their positions as the network takes them (B,), the noise to predict
                     (B, C, H, W), and the weight of each image's squared error (B, 1, 1, 1), 1 where there is none

    Returns the exponential moving average of the network in evaluation mode and the loss per step.
    """
    ema = get_ema_multi_avg_fn(settings["ema"])  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=ema)
    modules: dict[str, nn.Module] = {"network": network, "averaged": averaged}
    saved = journal.load()
    optimiser, rate = _optimiser(network, settings, len(saved.get("losses", ())))
    losses = _resume(modules, optimiser, saved)
    network.train()
    for step in track(range(settings["steps"]), label, len(losses)):
        noisy, positions, target, weight = example(step)
        loss = _finite(squared_error(network(noisy, positions).sample, target, weight), step)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), settings["gradient_clip"])
        optimiser.step()
        rate.step()
        averaged.update_parameters(network)
        losses.append(loss.item())
        journal.save(lambda: _state(modules, optimiser, losses))
    return cast(Network, averaged.module).eval(), losses


def train_denoiser(
    images: Tensor,
    network: Network,
    schedule: Schedule,
    settings: Mapping[str, Any],
    seed: int,
    journal: Journal = NO_JOURNAL,
) -> tuple[Network, list[float]]:
    """Noise-prediction training (Ho et al. 2020) of a diffusers-style network(u, t).sample.

    images are in [0, 1]; returns the exponential moving average of the network and the loss per step.
    A training of the same arguments goes on from the state that `journal` kept, to the same bits.
    """
    root = torch.from_numpy(np.sqrt(schedule.alpha_bars)).float()
    rest = torch.from_numpy(np.sqrt(1.0 - schedule.alpha_bars)).float()

    def example(step: int) -> tuple[Tensor, Tensor, Tensor, None]:
        rng = generator(seed, "training", "denoiser", step=step)
        chosen = torch.from_numpy(rng.integers(0, len(images), settings["batch_size"]))
        index = sample_indices(rng, len(chosen), settings, schedule.train_steps)
        u0 = 2.0 * images[chosen] - 1.0
        eps = torch.from_numpy(rng.standard_normal(u0.shape, dtype=np.float32))
        scale, noise_scale = root[index].view(-1, 1, 1, 1), rest[index].view(-1, 1, 1, 1)
        return scale * u0 + noise_scale * eps, index, eps, None

    return predict_noise(network, example, settings, "train denoiser", journal)
