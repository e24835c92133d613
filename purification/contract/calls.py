"""What comes out of a call, and that it is a function of images and noise alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from purification.contract.trial import (
    FAILED,
    IMAGES,
    NOTE,
    OK,
    SKIPPED,
    Finding,
    Trial,
    plain,
    random_state,
    set_random_state,
    verdict,
    wide,
)
from purification.user_code import faults

# Sums of float32 in another order differ by about 1e-6; BatchNorm or a mean over the batch by more than 1e-2.
COMPANIONS = 1e-4
FAR = 0.25  # values further outside [0, 1] than this are no excursion ...
FAR_SHARE = 0.25  # ... when more than this share of all has them: 38 % of 2 x - 1, nearly all of 255 x


def calls(trial: Trial) -> Iterator[Finding]:
    """Runs, leaves its input, and returns a tensor of the right shape, type and device with finite values."""
    images, results = trial.images(), []
    ids, given = range(len(images)), images.clone()
    try:
        with torch.no_grad():
            results.append(trial.function.run(given, *trial.noise(images, ids)))
            results.append(trial.function.run(wide(images), *trial.noise(images, ids)))
    except ValueError as error:
        text = plain(trial, error)
        yield Finding("device" if "cuda" in text.lower() else "runs", FAILED, text)
        return
    yield Finding("runs", OK, f"on {len(images)} images, two of them black and white")
    bad = "expected the images unchanged, got them changed in place — work on a copy"
    yield verdict("input", torch.equal(given, images), "left as it is", bad)
    found, outside = (dict(faults(result, images, trial.function.shape)) for result in results)
    if "finite" in outside and not found:
        found["finite"] = outside["finite"].replace("images —", "images slightly outside [0, 1], as probes are —")
    good = {
        "shape": f"{(len(images), *trial.function.shape)}",
        "dtype": f"{images.dtype}",
        "finite": "no NaN, no infinity",
    }
    if not trial.noisy:
        good["logits"] = "no probabilities"
    for check, word in good.items():
        if check != "shape" and "shape" in found:
            yield Finding(check, SKIPPED, "after shape")
        else:
            yield verdict(check, check not in found, word, found.get(check, ""))


def in_range(trial: Trial) -> Finding:
    """Purified images lie in [0, 1]; nothing clips them for the user."""
    with torch.no_grad():
        result = trial.run(trial.images(), range(IMAGES + 2))
    low, high = float(result.min()), float(result.max())
    measured = f"{low:.3g} to {high:.3g}"
    far = float(((result < -FAR) | (result > 1 + FAR)).double().mean())
    if far > FAR_SHARE:
        return Finding("range", FAILED, f"expected images in [0, 1], got {measured} — undo the scaling of the network")
    if low < -1e-6 or high > 1 + 1e-6:
        return Finding("range", NOTE, f"{measured}: leaves [0, 1], and nothing clips it for the classifier")
    return Finding("range", OK, measured)


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference in units of the largest value of `b`, at least 1."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1.0))


def repeats(trial: Trial) -> Finding:
    """The same images and noise give the same result, also after other calls."""
    images, ids = trial.images(), range(IMAGES + 2)
    before = random_state()
    with torch.no_grad():
        first = trial.run(images, ids)
        trial.run(images.flip(0), ids, 1)
        again = trial.run(images, ids)
        set_random_state(before)
        reset = trial.run(images, ids)
    subject = "the same images and noise" if trial.noisy else "the same images"
    if torch.equal(first, again):
        return Finding("repeatable", OK, f"{subject}, the same result")
    size = f"{_distance(again, first):.2g}"
    if torch.equal(first, reset):
        advice = "take them from `noise`" if trial.noisy else "switch dropout off, draw nothing"
        cause = f"it draws random numbers of its own (torch.randn, numpy, dropout) — {advice}"
    else:
        cause = "it keeps something between calls, or draws from a generator of its own — keep no state"
    return Finding("repeatable", FAILED, f"expected one result for {subject}, got a difference of {size}: {cause}")


def companions(trial: Trial) -> Finding:
    """The result of an image depends neither on the others of its batch nor on its place, and one image is enough."""
    images, ids = trial.images(), list(range(IMAGES + 2))
    with torch.no_grad():
        whole = trial.run(images, ids)
        moved = [[*ids[::-1]], [0] * len(ids), *([i] for i in ids[:2])]
        try:
            size = max(_distance(trial.run(images[order], order), whole[order]) for order in moved)
        except ValueError as error:
            return Finding("batch", FAILED, f"expected any batch to do, also one image alone; {plain(trial, error)}")
    bad = f"expected an image's result to depend on no other image, got a difference of {size:.2g} in other company"
    return verdict(
        "batch", size <= COMPANIONS, "independent of the other images", f"{bad} — take no mean over the batch"
    )
