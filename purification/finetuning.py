"""Fine-tuning of a noise predictor so that it also removes what an attack adds: ADDT, ADBM, and the plain control.

Every method makes, in every step, noisy images and the noise to predict from a batch of clean ones. The classifier is
frozen; the network that the perturbations are made against is the one in training, in evaluation mode. Gradients are
taken at the perturbation alone, so none is left in the weights when the loss is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from purification.journal import NO_JOURNAL, Journal
from purification.models.classifiers import Classifier
from purification.philox import generator
from purification.schedule import Schedule
from purification.training import Network, evaluating, predict_noise

END = 1e-5  # least time of continuous levels
Predict = Callable[[Tensor, Tensor], Tensor]  # noisy images (B, C, H, W), positions (B,) -> predicted noise


@dataclass(frozen=True)
class Batch:
    """Clean images of one step with their noise levels.

    images      (B, C, H, W) on [-1, 1]
    labels      (B,)
    alpha_bars  (B, 1, 1, 1), float64
    positions   (B,) as the network takes them: in the schedule, or noise per unit of signal
    end         abar of the level that purification starts from (ADBM)
    rng         all randomness of the step
    """

    images: Tensor
    labels: Tensor
    alpha_bars: Tensor
    positions: Tensor
    end: float
    rng: np.random.Generator

    def normal(self) -> Tensor:
        """Fresh standard normals, (B, C, H, W)."""
        return torch.from_numpy(self.rng.standard_normal(self.images.shape, dtype=np.float32)).to(self.images)

    def uniform(self) -> Tensor:
        """Fresh uniform numbers in [-1, 1), (B, C, H, W)."""
        return torch.from_numpy(2 * self.rng.random(self.images.shape, dtype=np.float32) - 1).to(self.images)

    def signal(self) -> Tensor:
        """sqrt(abar), (B, 1, 1, 1)."""
        return self.alpha_bars.sqrt().to(self.images)

    def spread(self) -> Tensor:
        """sqrt(1 - abar), (B, 1, 1, 1)."""
        return (1.0 - self.alpha_bars).sqrt().to(self.images)

    def clean_estimate(self, noisy: Tensor, eps: Tensor) -> Tensor:
        """(u - sqrt(1 - abar) e) / sqrt(abar), not clipped."""
        return (noisy - self.spread() * eps) / self.signal()


Example = tuple[Tensor, Tensor]  # noisy images, noise to predict
Make = Callable[[Batch, Predict, Classifier | None, Mapping[str, Any]], Example]


def classified(batch: Batch, estimate: Tensor, classifier: Classifier | None) -> Tensor:
    """Cross-entropy of the true labels at estimates on [-1, 1], (B,)."""
    if classifier is None:
        raise ValueError("expected a classifier for an adversarial method, got none — give its files")
    return F.cross_entropy(classifier(0.5 * (estimate + 1.0)), batch.labels, reduction="none")


def slope(values: Tensor, at: Tensor) -> Tensor:
    """Gradient of the sum of values at one tensor; gradients of weights are left alone."""
    (found,) = torch.autograd.grad(values.sum(), at)
    return found


def plain(batch: Batch, predict: Predict, classifier: Classifier | None, settings: Mapping[str, Any]) -> Example:
    """Noise prediction as in the first training (Ho et al. 2020): the control of every method."""
    eps = batch.normal()
    return batch.signal() * batch.images + batch.spread() * eps, eps


def ranks(gradient: Tensor, batch: Batch) -> Tensor:
    """Rank-based Gaussian mapping (ADDT): the k-th smallest of fresh normals where the k-th smallest value stands.

    Every channel of every image is mapped on its own; equal values are ordered at random, so a zero gradient becomes
    Gaussian noise and not a ramp.
    """
    flat, fresh = gradient.flatten(2), batch.normal().flatten(2)
    shuffled = batch.uniform().flatten(2).argsort(dim=2)
    order = shuffled.gather(2, flat.gather(2, shuffled).argsort(dim=2, stable=True))
    return torch.empty_like(flat).scatter(2, order, fresh.sort(dim=2).values).view_as(gradient)


def moments(gradient: Tensor, batch: Batch) -> Tensor:
    """Mean 0 and standard deviation 1 of every channel; zeros where the gradient is constant."""
    flat = gradient.flatten(2)
    centred = flat - flat.mean(dim=2, keepdim=True)
    scale = centred.square().mean(dim=2, keepdim=True).sqrt()
    return torch.where(scale > 0, centred / scale, 0.0).view_as(gradient)


def normalised(gradient: Tensor, batch: Batch) -> Tensor:
    """Root mean square 1 of every image; zeros where the gradient is zero."""
    scale = gradient.flatten(1).square().mean(dim=1).sqrt().view(-1, 1, 1, 1)
    return torch.where(scale > 0, gradient / scale, 0.0)


MAPPINGS: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "ranks": ranks,
    "moments": moments,
    "normalised": normalised,
}


def preserving(eps: Tensor, delta: Tensor, share: Tensor) -> Tensor:
    """sqrt(1 - share^2) eps + share delta: unit variance."""
    return (1.0 - share.square()).sqrt() * eps + share * delta


def additive(eps: Tensor, delta: Tensor, share: Tensor) -> Tensor:
    """eps + share delta."""
    return eps + share * delta


MIXES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"preserving": preserving, "additive": additive}


def adversarial_share(alpha_bars: Tensor, strength: float, limit: float) -> Tensor:
    """lambda_t = min(strength sqrt(abar_t) / sqrt(1 - abar_t), limit) (ADDT)."""
    return (strength * alpha_bars.sqrt() / (1.0 - alpha_bars).sqrt()).clamp(max=limit)


def addt(batch: Batch, predict: Predict, classifier: Classifier | None, settings: Mapping[str, Any]) -> Example:
    """ADDT (Liu et al. 2025, arXiv 2404.14309): classifier-guided perturbation of the noise, made to look Gaussian.

    u_t = sqrt(abar) u_0 + sqrt(1 - abar) mix(eps, delta, lambda_t); delta begins Gaussian; in every iteration the
    gradient at delta of the classifier's loss at the one-step estimate, with fresh eps, is added to those before, and
    delta becomes their mapping. The noise to predict is the whole mix, so the estimate is the clean image.
    """
    share = adversarial_share(batch.alpha_bars, settings["strength"], settings["limit"]).to(batch.images)
    mix, delta, total = MIXES[settings["mix"]], batch.normal(), torch.zeros_like(batch.images)
    for _ in range(settings["iterations"]):
        eps, leaf = batch.normal(), delta.requires_grad_()
        noisy = batch.signal() * batch.images + batch.spread() * mix(eps, leaf, share)
        predicted = predict(noisy, batch.positions)
        total += slope(OBJECTIVES[settings["objective"]](batch, noisy, predicted, eps, classifier), leaf)
        delta = MAPPINGS[settings["mapping"]](total, batch)
    target = mix(batch.normal(), delta.detach(), share)
    return batch.signal() * batch.images + batch.spread() * target, target


def _of_class(batch: Batch, noisy: Tensor, predicted: Tensor, eps: Tensor, classifier: Classifier | None) -> Tensor:
    return classified(batch, batch.clean_estimate(noisy, predicted), classifier)


def _of_noise(batch: Batch, noisy: Tensor, predicted: Tensor, eps: Tensor, classifier: Classifier | None) -> Tensor:
    return (predicted - eps).square().flatten(1).mean(dim=1)


OBJECTIVES: dict[str, Callable[[Batch, Tensor, Tensor, Tensor, Classifier | None], Tensor]] = {
    "class": _of_class,
    "noise": _of_noise,
}


def ascend(batch: Batch, delta: Tensor, direction: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """One signed step of a perturbation on [-1, 1], back into ball and box; the budget is one of images in [0, 1]."""
    budget = 2.0 * settings["epsilon"]
    moved: Tensor = (delta + settings["step_size"] * budget * direction.sign()).clamp(-budget, budget)
    return (batch.images + moved).clamp(-1.0, 1.0) - batch.images


def linf_addt(batch: Batch, predict: Predict, classifier: Classifier | None, settings: Mapping[str, Any]) -> Example:
    """Linf-ADDT: signed ascent of an image perturbation delta from 0.

    Noise to predict eps + delta min(sqrt(abar) / sqrt(1 - abar), limit); fresh eps in every iteration and in the loss.
    """
    share = adversarial_share(batch.alpha_bars, 1.0, settings["limit"]).to(batch.images)
    delta = torch.zeros_like(batch.images)
    for _ in range(settings["iterations"]):
        eps, leaf = batch.normal(), delta.requires_grad_()
        noisy = batch.signal() * batch.images + batch.spread() * additive(eps, leaf, share)
        estimate = batch.clean_estimate(noisy, predict(noisy, batch.positions))
        delta = ascend(batch, delta.detach(), slope(classified(batch, estimate, classifier), leaf), settings)
    target = additive(batch.normal(), delta.detach(), share)
    return batch.signal() * batch.images + batch.spread() * target, target


def bridge(alpha_bars: Tensor, end: float) -> tuple[Tensor, Tensor]:
    """c_in and c_out of ADBM at abar_t for a bridge that ends at abar_T.

    u_t = sqrt(abar_t) u_0 + sqrt(1 - abar_t) eps + c_in e_a, c_in = abar_T (1 - abar_t) / ((1 - abar_T) sqrt(abar_t));
    noise to predict eps + c_out e_a, c_out = c_in / sqrt(1 - abar_t), so that the estimate of u_0 is exact.
    """
    into = end * (1.0 - alpha_bars) / ((1.0 - end) * alpha_bars.sqrt())
    return into, into / (1.0 - alpha_bars).sqrt()


def adbm(batch: Batch, predict: Predict, classifier: Classifier | None, settings: Mapping[str, Any]) -> Example:
    """ADBM (Li et al. 2025, arXiv 2408.00315): a bridge from the noised adversarial image to the clean one.

    The perturbation begins uniform in the ball and ascends the classifier's loss at the one-step estimate; level and
    noise stay the same in all iterations and in the loss.
    """
    into, out = (weight.to(batch.images) for weight in bridge(batch.alpha_bars, batch.end))
    eps = batch.normal()
    diffused = batch.signal() * batch.images + batch.spread() * eps
    delta = 2.0 * settings["epsilon"] * batch.uniform()
    for _ in range(settings["iterations"]):
        leaf = delta.requires_grad_()
        noisy = diffused + into * leaf
        estimate = batch.clean_estimate(noisy, predict(noisy, batch.positions))
        delta = ascend(batch, delta.detach(), slope(classified(batch, estimate, classifier), leaf), settings)
    return diffused + into * delta.detach(), eps + out * delta.detach()


def evaluations(settings: Mapping[str, Any]) -> dict[str, int]:
    """Passes of one batch through network and classifier in a whole training, from its settings."""
    steps, inner = settings["training"]["steps"], settings.get("adversary", {}).get("iterations", 0)
    judged = inner if settings.get("adversary", {}).get("objective", "class") == "class" else 0
    passes = {"network": steps * (1 + inner), "classifier": steps * judged}
    return {f"{name}_{way}": count for name, count in passes.items() for way in ("forward", "backward")}


METHODS: dict[str, Make] = {"none": plain, "addt": addt, "linf_addt": linf_addt, "adbm": adbm}


def discrete(schedule: Schedule, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and abar of noise index ceil(count) - 1, count in (0, T]."""
    index = np.ceil(counts).astype(np.int64) - 1
    return index, schedule.alpha_bars[index]


def continuous(schedule: Schedule, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and abar of time count / T in the continuous schedule, not below `END`."""
    levels = [schedule.level_at(max(count / schedule.train_steps, END)) for count in counts]
    return np.array([level.position for level in levels]), np.array([level.alpha_bar for level in levels])


LEVELS: dict[str, Callable[[Schedule, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "discrete": discrete,
    "continuous": continuous,
}


def share_below(rng: np.random.Generator, count: int, settings: Mapping[str, Any], steps: int) -> tuple[Any, float]:
    """Upper ends (count,) of the levels: a share `low_fraction` at `low_below`, the rest at the whole schedule."""
    low = rng.random(count) < settings["low_fraction"]
    return np.where(low, settings["low_below"], steps), float(steps)


def below_start(rng: np.random.Generator, count: int, settings: Mapping[str, Any], steps: int) -> tuple[Any, float]:
    """Upper ends (count,) of the levels, all at one T drawn uniformly from `start` (ADBM)."""
    first, last = settings["start"]
    end = first + (last - first) * rng.random()
    return np.full(count, end), end


ENDS: dict[str, Callable[..., tuple[Any, float]]] = {
    "none": share_below,
    "addt": share_below,
    "linf_addt": share_below,
    "adbm": below_start,
}

Drawn = tuple[np.ndarray, np.ndarray, float]  # positions (B,), abar (B,), abar of the level purification starts from


def uniform(rng: np.random.Generator, count: int, schedule: Schedule, settings: Mapping[str, Any]) -> Drawn:
    """Levels uniform in index or time below the ends of the method."""
    ends, end = ENDS[settings["method"]](rng, count, settings["training"], schedule.train_steps)
    levels = LEVELS[settings["levels"]]
    positions, alpha_bars = levels(schedule, ends * (1.0 - rng.random(count)))
    _, last = levels(schedule, np.array([end]))
    return positions, alpha_bars, float(last[0])


def lognormal(rng: np.random.Generator, count: int, schedule: Schedule, settings: Mapping[str, Any]) -> Drawn:
    """ln sigma ~ N(mean, deviation^2), sigma = sqrt((1 - abar) / abar) (EDM, Karras et al. 2022, table 1)."""
    mean, deviation = settings["training"]["log_sigma"]
    sigmas = np.exp(mean + deviation * rng.standard_normal(count))
    positions = np.array([schedule.position_of(sigma) for sigma in sigmas])
    return positions, 1.0 / (1.0 + sigmas**2), schedule.level_at(1.0).alpha_bar


DRAWS: dict[str, Callable[[np.random.Generator, int, Schedule, Mapping[str, Any]], Drawn]] = {
    "discrete": uniform,
    "continuous": uniform,
    "edm": lognormal,
}


def no_weight(alpha_bars: Tensor, settings: Mapping[str, Any]) -> Tensor | None:
    """Every error of the noise counts alike (Ho et al. 2020)."""
    return None


def edm_weight(alpha_bars: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """(sigma^2 + s^2) / s^2, s = sigma_data: of the noise what EDM's lambda(sigma) is of the clean image.

    lambda ||D - u_0||^2 = (sigma^2 + s^2) / (sigma s)^2 ||D - u_0||^2, and D - u_0 = -sigma (eps_predicted - eps).
    """
    square: float = settings["sigma_data"] ** 2
    return ((1.0 - alpha_bars) / alpha_bars + square) / square


WEIGHTS: dict[str, Callable[[Tensor, Mapping[str, Any]], Tensor | None]] = {
    "discrete": no_weight,
    "continuous": no_weight,
    "edm": edm_weight,
}


def as_index(positions: Tensor, alpha_bars: Tensor) -> Tensor:
    """Positions in the schedule, of networks that take these."""
    return positions


def as_sigma(positions: Tensor, alpha_bars: Tensor) -> Tensor:
    """Noise per unit of signal sqrt((1 - abar) / abar), of networks that take this."""
    return ((1.0 - alpha_bars) / alpha_bars).sqrt()


POSITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"unet": as_index, "edm": as_sigma}


def batch_of(
    images: Tensor, labels: Tensor, schedule: Schedule, settings: Mapping[str, Any], rng: np.random.Generator
) -> Batch:
    """Images in [0, 1] drawn with replacement, each at a level of its own."""
    chosen = torch.from_numpy(rng.integers(0, len(images), settings["training"]["batch_size"]))
    drawn, drawn_bars, end = DRAWS[settings["levels"]](rng, len(chosen), schedule, settings)
    alpha_bars = torch.from_numpy(drawn_bars)
    positions = POSITIONS[settings["architecture"]](torch.from_numpy(drawn), alpha_bars)
    clean = 2.0 * images[chosen] - 1.0
    return Batch(clean, labels[chosen], alpha_bars.view(-1, 1, 1, 1), positions, end, rng)


def finetune_denoiser(
    images: Tensor,
    labels: Tensor,
    network: Network,
    schedule: Schedule,
    classifier: Classifier | None,
    settings: Mapping[str, Any],
    seed: int,
    journal: Journal = NO_JOURNAL,
) -> tuple[Network, list[float]]:
    """Fine-tune a diffusers-style network(u, position).sample with the method of a `kind: finetuned` entry.

    The entry's `architecture` says what a position is. images are in [0, 1].
    Returns the exponential moving average of the network and the loss per step.
    A training of the same arguments goes on from the state that `journal` kept, to the same bits.
    """
    make = METHODS[settings["method"]]

    def predict(noisy: Tensor, positions: Tensor) -> Tensor:
        predicted: Tensor = network(noisy, positions).sample
        return predicted

    def example(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        batch = batch_of(images, labels, schedule, settings, generator(seed, "training", "finetuned", step=step))
        with evaluating(network):
            noisy, target = make(batch, predict, classifier, settings.get("adversary", {}))
        weight = WEIGHTS[settings["levels"]](batch.alpha_bars, settings["training"])
        return noisy, batch.positions, target, None if weight is None else weight.to(target)

    return predict_noise(network, example, settings["training"], "fine-tune denoiser", journal)
