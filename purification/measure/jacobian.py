"""The Jacobian J of x -> f(x; w) at frozen noise: full spectrum, and estimates that never form it.

Rows of J come from vector-Jacobian products. They are batched by repeating the image with the same noise and giving
every copy another cotangent, which needs nothing from the purifier but independence of its batch members, and uses the
replayed gradient, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.stats import t as student
from torch import Tensor

from purification.batching import batches
from purification.gradients import gradient
from purification.noise import NoiseSource
from purification.purifiers import Purifier, purify

TINY = 1e-7  # of the largest entry: the rest of a direction is rounding error
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


def interval(samples: Tensor, confidence: float) -> tuple[float, float, float]:
    """Mean of independent samples (k,), k >= 2, and Student's interval for their expectation."""
    if len(samples) < 2:
        raise ValueError(f"expected at least 2 samples for an interval, got {len(samples)} — raise their number")
    mean, error = float(samples.mean()), float(samples.std() / len(samples) ** 0.5)
    reach = error * float(student.ppf(0.5 + confidence / 2, len(samples) - 1))
    return mean, mean - reach, mean + reach


def trace_samples(pull: Pull, probes: Tensor) -> Tensor:
    """Hutchinson samples of tr J, one per probe: v^T J v for E v v^T = I, (k,)."""
    return (pull(probes) * probes).double().sum(dim=1)


def _apart(vector: Tensor, others: list[Tensor]) -> Tensor:
    """The part of a vector (1, D) that is orthogonal to orthonormal others."""
    for _ in range(2):  # once leaves rounding errors behind
        for other in others:
            vector = vector - (vector * other).sum() * other
    return vector


def quadrature(pull: Pull, forward: Callable[[Tensor], Tensor], start: Tensor, *, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (steps,) with sum_i w_i g(s_i) ~ v^T g(sqrt(J^T J)) v, v = start / ||start||, start (1, D).

    Golub-Kahan bidiagonalisation of J from v (Golub & Kahan 1965) with full orthogonalisation: the singular values of
    the bidiagonal B, and the squares of the first entries of its right singular vectors (stochastic Lanczos quadrature;
    Ubaru, Chen & Saad 2017). Over isotropic v the mean is (1/D) sum over all singular values of g. Exact for
    polynomials in s^2 of degree below 2 steps, and for every g at D steps.
    """
    right, left = [start / start.norm()], list[Tensor]()
    main, above = list[float](), list[float]()
    for number in range(steps):
        u = _apart(forward(right[-1]), left)
        main.append(float(u.norm()))
        if number == steps - 1 or main[-1] <= TINY * max(main):
            break
        left.append(u / main[-1])
        v = _apart(pull(left[-1]), right)
        above.append(float(v.norm()))
        if above[-1] <= TINY * max(main):
            above.pop()
            break
        right.append(v / above[-1])
    entries = torch.tensor(main, dtype=torch.float64).diag()
    entries += torch.diag(torch.tensor(above[: len(main) - 1], dtype=torch.float64), 1) if len(main) > 1 else 0.0
    _, nodes, vectors = torch.linalg.svd(entries)
    short = steps - len(nodes)
    return F.pad(nodes, (0, short)), F.pad(vectors[:, 0].square(), (0, short))


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
