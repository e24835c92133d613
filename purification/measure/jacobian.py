"""The Jacobian J of x -> f(x; w) at frozen noise: full spectrum, and estimates that never form it.

Rows of J come from vector-Jacobian products. They are batched by repeating the image with the same noise and giving
every copy another cotangent, which needs nothing from the purifier but independence of its batch members, and uses the
replayed gradient, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from purification.batching import batches
from purification.gradients import gradient
from purification.noise import NoiseSource
from purification.purifiers import Purifier, purify

Pull = Callable[[Tensor], Tensor]


def pullback(
    purifier: Purifier,
    image: Tensor,
    identity: int,
    source: NoiseSource,
    *,
    batch_size: int,
    mode: str,
    kept_steps: int,
) -> Pull:
    """Function (k, D) cotangents -> (k, D) products v^T J at one image (C, H, W) with draw 0."""
    noise = source([identity] * batch_size, 0)
    copies = image.expand(batch_size, -1, -1, -1)

    def pull(cotangents: Tensor) -> Tensor:
        rows = []
        for block, valid in batches(range(len(cotangents)), batch_size):
            weights = cotangents[block].view_as(copies)

            def objective(purified: Tensor, weights: Tensor = weights) -> Tensor:
                return (purified * weights).flatten(1).sum(dim=1)

            out = gradient(purifier, copies, noise, objective, mode=mode, kept_steps=kept_steps)
            rows.append(out.gradient.flatten(1)[:valid])
        return torch.cat(rows)

    return pull


def full_jacobian(pull: Pull, image: Tensor) -> Tensor:
    """J (D, D), row i = gradient of output i."""
    return pull(torch.eye(image.numel(), dtype=image.dtype, device=image.device))


def singular_values(jacobian: Tensor) -> Tensor:
    """Descending singular values, computed in float64."""
    values: Tensor = torch.linalg.svdvals(jacobian.double())
    return values


def mean_square_gain(pull: Pull, probes: Tensor) -> Tensor:
    """Hutchinson samples of mean sigma^2 = ||J||_F^2 / D, one per probe: ||v^T J||^2 / D for E v v^T = I, (k,)."""
    return pull(probes).double().square().sum(dim=1) / probes.shape[1]


def push(purifier: Purifier, image: Tensor, identity: int, source: NoiseSource, tangents: Tensor) -> Tensor:
    """J t for tangents (k, D) as the derivative of the pulled-back product (two reverse passes), (k, D)."""
    copies = image.expand(len(tangents), -1, -1, -1).detach().requires_grad_()
    purified = purify(purifier, copies, source([identity] * len(tangents), 0)).flatten(1)
    cotangent = torch.zeros_like(purified, requires_grad=True)
    (product,) = torch.autograd.grad(purified, copies, cotangent, create_graph=True)
    (tangent,) = torch.autograd.grad((product.flatten(1) * tangents).sum(), cotangent)
    return tangent


def largest_gain(pull: Pull, forward: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int) -> float:
    """Largest singular value by power iteration on J^T J from `start` (1, D); a lower bound at any iteration."""
    vector = start / start.norm()
    value = 0.0
    for _ in range(iterations):
        image = forward(vector)
        value = float(image.norm())
        vector = pull(image)
        vector = vector / vector.norm().clamp_min(1e-30)
    return value
