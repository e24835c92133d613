"""An exhaustive attack on defences whose margins are sums over pixels; it looks at nothing but what they answer."""

from __future__ import annotations

import torch
from torch import Tensor

from purification.known_truth.catalogue import KnownDefence
from purification.purifiers import purify

GRID = 5  # points of a pixel's interval, both ends among them: enough for monotone maps
FINE_GRID = 81
FINE = ("round", "stair", "steps", "ripple")  # in names of defences that need the fine one
UNTOLD = ("saturated", "hard labels", "coin")  # in names of classifiers that answer without telling their margins


def margins(known: KnownDefence, images: Tensor, index: list[int], draw: int) -> Tensor:
    """(m, rivals) margins over every rival, of candidates for the images `index`, float64; in even batches."""
    on = known.examples
    untold = any(word in known.name for word in UNTOLD)
    classify = on.classifier if untold else known.defence.classifier
    with torch.no_grad():
        noise = on.noise("fixed")([on.ids[i] for i in index], draw)
        logits = classify(purify(known.defence.purifier, images, noise)).double()
    labels, rivals = on.labels[index], on.rivals[index]
    return logits.gather(1, labels[:, None]) - logits.gather(1, rivals)


def effects(known: KnownDefence, number: int, values: Tensor, draw: int) -> Tensor:
    """(points, D, rivals) change of the margins of one image when one pixel takes a value of (points, D)."""
    image = known.examples.images[number].flatten()
    points, pixels = values.shape
    moved = image.repeat(points, pixels, 1)
    moved[:, range(pixels), range(pixels)] = values
    batch = torch.cat([moved.view(points * pixels, -1), image[None], image[None]])
    found = margins(known, batch.view(-1, *known.examples.shape), [number] * len(batch), draw)
    return (found[:-2] - found[-1]).view(points, pixels, -1)


def worst_images(known: KnownDefence, number: int, draw: int = 0) -> Tensor:
    """(rivals + 1, C, H, W) images of the budget with the least margins, for margins that are sums over pixels.

    One per rival, then that of the sum of all margins. Under linf every pixel takes the best of a grid. Under l2 and
    l1 the margins are linear in the image, and the perturbation goes along the change that a pixel makes.
    """
    on = known.examples
    image = on.images[number].flatten()
    epsilon = on.threat.epsilon
    if on.threat.norm == "linf":
        points = FINE_GRID if any(word in known.name for word in FINE) else GRID
        values = image + epsilon * torch.linspace(-1.0, 1.0, points)[:, None]
        changes = effects(known, number, values, draw)
        best = torch.cat([changes, changes.sum(dim=2, keepdim=True)], dim=2).argmin(dim=0)  # (D, rivals + 1)
        return torch.stack([values[rival, range(len(image))] for rival in best.T]).view(-1, *on.shape)
    changes = effects(known, number, image[None] + 0.1, draw)[0].T.float()
    slope = torch.cat([changes, changes.sum(dim=0, keepdim=True)])
    if on.threat.norm == "l2":
        step = slope / slope.norm(dim=1, keepdim=True)
    else:
        steepest = slope.abs().argmax(dim=1, keepdim=True)
        step = torch.zeros_like(slope).scatter(1, steepest, slope.gather(1, steepest).sign())
    return (image - epsilon * step).view(-1, *on.shape)


def is_robust(known: KnownDefence, number: int, draw: int = 0) -> bool:
    """Whether the defence, with the frozen noise, is right on the image and on its worst images."""
    on = known.examples
    images = torch.cat([on.images[number][None], worst_images(known, number, draw)])
    ids = [on.ids[number]] * len(images)
    seen = known.defence.predict(images, ids, on.noise("fixed"), draw)
    return bool((seen == on.labels[number]).all())
