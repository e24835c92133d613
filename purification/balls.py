"""Norms of perturbations: size, exact projection onto ball and box, steepest ascent, points of the ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def normalised(vectors: Tensor, order: int) -> Tensor:
    """v / ||v|| over the last dimension, 0 for 0.

    Vectors are divided by their largest entry first: a square of 1e20 would overflow in float32, one of 1e-20 vanish.
    """
    largest = vectors.abs().amax(dim=-1, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(vectors, ord=order, dim=-1, keepdim=True)
    return vectors / norms.clamp_min(1.0)


def _unit(x: Tensor, order: int) -> Tensor:
    return normalised(x.flatten(1), order).view(x.shape)


def _room(delta: Tensor, images: Tensor) -> Tensor:
    """How far each pixel can move in the direction of delta until it meets the box, float64."""
    x = images.double()
    return torch.where(delta > 0, 1 - x, x)


def _pick(table: Tensor, column: Tensor) -> Tensor:
    return table.gather(1, column[:, None]).squeeze(1)


def _project_linf(candidate: Tensor, images: Tensor, epsilon: float) -> Tensor:
    return (images + (candidate - images).clamp(-epsilon, epsilon)).clamp(0.0, 1.0)


def _project_l2(candidate: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """|delta_i| = min(t a_i, r_i), a = |candidate - image|, r the room in the box, t <= 1 with ||delta||_2 = epsilon.

    The condition of Karush, Kuhn and Tucker; t is found exactly between the sorted points r_i / a_i where pixels meet
    the box.
    """
    delta = candidate.double() - images.double()
    size, room = delta.abs().flatten(1), _room(delta, images).flatten(1)
    reach = torch.minimum(size, room)
    at, order = torch.where(size > 0, reach / size, 1.0).sort(dim=1)
    met = reach.square().gather(1, order).cumsum(dim=1)
    free = size.square().gather(1, order).flip(1).cumsum(dim=1).flip(1)  # of the pixels from this one on
    length = met + at.square() * (free - size.square().gather(1, order))
    first = (length < epsilon**2).sum(dim=1).clamp_max(size.shape[1] - 1)
    before = _pick(met - reach.square().gather(1, order), first).clamp_max(epsilon**2)
    scale = ((epsilon**2 - before) / _pick(free, first).clamp_min(1e-300)).sqrt()
    kept = torch.minimum(size * scale[:, None], room)
    moved = torch.where((reach.square().sum(dim=1) <= epsilon**2)[:, None], reach, kept)
    return _towards(images, delta.sign() * moved.view(delta.shape))


def _project_l1(candidate: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """|delta_i| = clip(a_i - t, 0, r_i), a = |candidate - image|, r the room in the box, t with ||delta||_1 = epsilon.

    t is found exactly between the sorted points a_i - r_i and a_i, between which the length falls linearly (as in
    Croce and Hein 2021, section 3.1).
    """
    delta = candidate.double() - images.double()
    size, room = delta.abs().flatten(1), _room(delta, images).flatten(1)
    reach = torch.minimum(size, room)
    points, order = torch.cat([(size - room).clamp_min(0.0), size], dim=1).sort(dim=1)
    slope = torch.where(order < size.shape[1], 1.0, -1.0).to(size).cumsum(dim=1)  # after each point, pixels that shrink
    drop = (points[:, 1:] - points[:, :-1]) * slope[:, :-1]
    length = reach.sum(dim=1, keepdim=True) - torch.cat([torch.zeros_like(points[:, :1]), drop], dim=1).cumsum(dim=1)
    last = ((length > epsilon).sum(dim=1) - 1).clamp_min(0)
    cut = _pick(points, last) + (_pick(length, last) - epsilon) / _pick(slope, last).clamp_min(1.0)
    kept = (size - cut[:, None]).clamp_min(0.0).minimum(room)
    moved = torch.where((reach.sum(dim=1) <= epsilon)[:, None], reach, kept)
    return _towards(images, delta.sign() * moved.view(delta.shape))


def _towards(images: Tensor, delta: Tensor) -> Tensor:
    """images + delta in the images' precision, rounded towards the images: no sum of roundings leaves the ball."""
    there = (images.double() + delta).to(images.dtype)
    beyond = (there.double() - images.double()).abs() > delta.abs()
    return torch.where(beyond, torch.nextafter(there, images), there).clamp(0.0, 1.0)


def _ranks(values: Tensor) -> Tensor:
    """Place of each value among those of its image, 0 for the largest."""
    return values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _steepest_l1(gradient: Tensor, current: Tensor, share: Tensor) -> Tensor:
    """Signs of the `share` steepest pixels but those that the box stops, of l1 length 1 (Tramer and Boneh 2019).

    At least one pixel moves. Steeper ones that the box stops are pushed on, so that the projection leaves them there.
    """
    slope, signs = gradient.flatten(1), gradient.sign().flatten(1)
    stopped = ((current <= 0) & (gradient < 0) | (current >= 1) & (gradient > 0)).flatten(1)
    count = (share * slope.shape[1]).round().clamp_min(1.0)[:, None]
    held = (stopped & (_ranks(slope.abs()) < count)).sum(dim=1, keepdim=True)
    chosen = (_ranks(slope.abs().masked_fill(stopped, -1.0)) < (count - held).clamp_min(1.0)) & ~stopped
    moving = (chosen & (signs != 0)).sum(dim=1, keepdim=True).clamp_min(1)
    least = slope.abs().masked_fill(~chosen, torch.inf).amin(dim=1, keepdim=True)
    return (signs * (chosen | stopped & (slope.abs() >= least)) / moving).view(gradient.shape)


def _ball_l2(uniform: Tensor, radius: Tensor) -> Tensor:
    """Normal numbers by the inverse distribution function, scaled to length radius^(1/D)."""
    numbers = uniform.double().clamp(-1 + 1e-7, 1 - 1e-7)
    scale = radius.double() ** (1 / uniform[0].numel())
    return (_per_image(scale, uniform) * _unit(torch.erfinv(numbers), 2)).to(uniform.dtype)


def _ball_l1(uniform: Tensor, radius: Tensor) -> Tensor:
    """Laplace numbers by the inverse distribution function, scaled to l1 length radius^(1/D)."""
    numbers = uniform.double().clamp(-1 + 1e-7, 1 - 1e-7)
    scale = radius.double() ** (1 / uniform[0].numel())
    return (_per_image(scale, uniform) * _unit(-numbers.sign() * torch.log1p(-numbers.abs()), 1)).to(uniform.dtype)


@dataclass(frozen=True)
class Norm:
    """All functions take and give one value or image per image.

    size       (B,) of perturbations
    project    nearest point of ball and box: candidates, images, epsilon
    steepest   ascent direction of length 1: gradient, current images, share of the pixels moved (l1)
    ball       uniform point of the unit ball from uniform numbers in [-1, 1) and a radius (B,) in [0, 1)
    unit       perturbation of length 1 from standard normals
    """

    size: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]
    steepest: Callable[[Tensor, Tensor, Tensor], Tensor]
    ball: Callable[[Tensor, Tensor], Tensor]
    unit: Callable[[Tensor], Tensor]


NORMS = {
    "linf": Norm(
        size=lambda delta: delta.flatten(1).abs().amax(dim=1),
        project=_project_linf,
        steepest=lambda gradient, current, share: gradient.sign(),
        ball=lambda uniform, radius: uniform,
        unit=torch.sign,
    ),
    "l2": Norm(
        size=lambda delta: delta.flatten(1).norm(dim=1),
        project=_project_l2,
        steepest=lambda gradient, current, share: _unit(gradient, 2),
        ball=_ball_l2,
        unit=lambda normal: _unit(normal, 2),
    ),
    "l1": Norm(
        size=lambda delta: delta.flatten(1).double().abs().sum(dim=1),
        project=_project_l1,
        steepest=_steepest_l1,
        ball=_ball_l1,
        unit=lambda normal: _unit(normal, 1),
    ),
}
