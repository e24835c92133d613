"""A purifier that answers with the nearest of a few stored images, and its worst case."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from purification.known_truth.catalogue import Known
from purification.known_truth.examples import Examples, make_examples
from purification.known_truth.truths import Truth, certain
from purification.noise import Noise
from purification.purifiers import FunctionPurifier
from purification.statistics import Array

STORED = range(10**6, 10**6 + 12)  # numbers of the stored images
SHARE = 0.02  # of the image itself in the answer


def replace_by_nearest(on: Examples) -> Known:
    """The nearest of twelve stored images, with a little of the image itself: its derivative knows of no other."""
    stored = make_examples(on.conditions, STORED, on.seed).images
    flat = stored.flatten(1)

    def purify(images: Tensor, noise: Noise) -> Tensor:
        apart = images.detach().flatten(1)[:, None] - flat.to(images)
        nearest = apart.square().sum(dim=2).argmin(dim=1)
        return (1.0 - SHARE) * stored.to(images)[nearest] + SHARE * images

    truth = nearest_image_truth(on, flat.double(), share=SHARE)
    return Known(FunctionPurifier(purify), on.classifier, truth)


def nearest_image_truth(on: Examples, stored: Tensor, *, share: float) -> Truth:
    """Truth of x -> (1 - share) t_j + share x, t_j the nearest of the stored images (m, D), under l_inf.

    x is nearest to t_j where 2 (t_k - t_j) x <= |t_k|^2 - |t_j|^2 for all k: inside one such cell the purifier is
    affine, so the least margin over a rival within cell and budget is a linear program.
    """
    if on.threat.norm != "linf":
        raise ValueError(f"expected norm linf for linear programs, got {on.threat.norm!r} — change the conditions")
    points = stored.numpy()
    images = on.images.double().flatten(1).numpy()
    robust = [_is_robust(on, points, images[i], i, share) for i in range(len(images))]
    return certain(torch.tensor(robust))


def _is_robust(on: Examples, points: Array, image: Array, number: int, share: float) -> bool:
    differences = on.differences[number].numpy()
    biases = on.bias_differences[number].numpy()
    epsilon = on.threat.epsilon
    lengths = (points**2).sum(axis=1)
    nearest_first = ((points - image) ** 2).sum(axis=1).argsort()
    for j in nearest_first:
        normals = 2.0 * (points - points[j])
        limits = lengths - lengths[j]
        if not _may_reach(normals, limits, image, epsilon):
            continue
        fixed = (1.0 - share) * differences @ points[j] + biases
        bounds = fixed + share * (differences @ image - epsilon * np.abs(differences).sum(axis=1))
        for rival in np.flatnonzero(bounds <= 0.0):  # the others stay positive in the whole budget
            least = _least_margin(differences[rival], normals, limits, image, epsilon)
            if fixed[rival] + share * least <= 0.0:
                return False
    return True


def _may_reach(normals: Array, limits: Array, image: Array, epsilon: float) -> bool:
    """Whether every inequality of a cell holds somewhere in the budget: necessary, and quick to see."""
    least = normals @ image - epsilon * np.abs(normals).sum(axis=1)
    return bool((least <= limits).all())


def _least_margin(weights: Array, normals: Array, limits: Array, image: Array, epsilon: float) -> float:
    """Least <weights, x> over the budget within a cell; infinity where the budget does not reach the cell."""
    bounds = np.stack([image - epsilon, image + epsilon], axis=1)
    found = linprog(weights, A_ub=normals, b_ub=limits, bounds=bounds, method="highs")
    if found.status == 2:
        return float("inf")
    if found.status != 0:
        raise ValueError(f"expected a solved linear program, got {found.message!r} — choose other stored images")
    return float(found.fun)
