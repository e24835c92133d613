"""Exact gradients through a purifier, and the approximations that are not.

Modes
    autograd  plain differentiation of the executed chain; memory grows with the number of steps
    replay    the same gradient (bit for bit, but for the order of sums where steps also read the image): states are
              stored, steps are recomputed one at a time from the last to the first with the same noise; the last
              `kept_steps` steps keep their activations instead

Approximations, named so and never exact; all of them return the value of what runs
    bpda      the purifier's derivative is replaced by the identity (Athalye et al. 2018)
    surrogate the gradient of a cheaper purifier of fewer steps (Lee & Kim, ICCV 2023)
    adjoint   the continuous adjoint (Nie et al. 2022): states are not stored but integrated backwards from the result,
              so every derivative is taken at a state that the chain has not visited
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from purification.errors import NoDerivative
from purification.noise import Noise
from purification.purifiers import Purifier, purify

PerImage = Callable[[Tensor], Tensor]
NO_PATH = (
    "expected a purifier that autograd can follow from image to result, got a result without a derivative — attack it "
    "with gradient: bpda"
)


class Gradient(NamedTuple):
    """values (B,) of the objective, their gradient (B, C, H, W) at the images, and the purified images."""

    values: Tensor
    gradient: Tensor
    purified: Tensor


def _autograd(purifier: Purifier, images: Tensor, noise: Noise, objective: PerImage, kept_steps: int) -> Gradient:
    leaf = images.detach().requires_grad_()
    purified = purify(purifier, leaf, noise)
    if not purified.requires_grad:
        raise NoDerivative(NO_PATH)
    values = objective(purified)
    try:
        (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    except NotImplementedError as error:
        raise NoDerivative(NO_PATH) from error
    if gradient is None:
        raise NoDerivative(NO_PATH)
    return Gradient(values.detach(), gradient, purified.detach())


def _bpda(purifier: Purifier, images: Tensor, noise: Noise, objective: PerImage, kept_steps: int) -> Gradient:
    with torch.no_grad():
        purified = purify(purifier, images, noise)
    leaf = purified.detach().requires_grad_()
    values = objective(leaf)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return Gradient(values.detach(), gradient, purified)


def _replay(purifier: Purifier, images: Tensor, noise: Noise, objective: PerImage, kept_steps: int) -> Gradient:
    cut = max(purifier.num_steps - kept_steps, 0)
    if cut == 0:
        return _autograd(purifier, images, noise, objective, kept_steps)
    with torch.no_grad():
        states = [purifier.start(images, noise)]
        for number in range(cut):
            states.append(purifier.step(number, states[-1], images, noise))
    source = images.detach().requires_grad_()
    leaf = states.pop().requires_grad_()
    state = leaf
    for number in range(cut, purifier.num_steps):
        state = purifier.step(number, state, source, noise)
    purified = purifier.finish(state)
    values = objective(purified)
    adjoint, total = _pull(values.sum(), None, leaf, source)
    for number in range(cut - 1, -1, -1):
        leaf = states.pop().requires_grad_()
        adjoint, direct = _pull(purifier.step(number, leaf, source, noise), adjoint, leaf, source)
        total = total + direct
    return Gradient(values.detach(), total + _by_start(purifier, source, noise, adjoint), purified.detach())


def _adjoint(purifier: Purifier, images: Tensor, noise: Noise, objective: PerImage, kept_steps: int) -> Gradient:
    """Euler on the augmented system of state and adjoint, from the result back to the start, with the same noise.

    With step k as u' = u + F_k(u): v_n = u_n; v_k = v_{k+1} - F_k(v_{k+1}); a_k = a_{k+1} + F_k'(v_{k+1})^T a_{k+1}.
    The exact chain has F_k'(u_k) instead; the two differ by the length of a step (Li et al. 2020, arXiv 2001.01328).
    """
    if purifier.num_steps == 0:
        return _autograd(purifier, images, noise, objective, kept_steps)
    with torch.no_grad():
        state = purifier.start(images, noise)
        for number in range(purifier.num_steps):
            state = purifier.step(number, state, images, noise)
    source, leaf = images.detach().requires_grad_(), state.detach().requires_grad_()
    purified = purifier.finish(leaf)
    values = objective(purified)
    adjoint, total = _pull(values.sum(), None, leaf, source)
    for number in range(purifier.num_steps - 1, -1, -1):
        leaf = state.detach().requires_grad_()
        after = purifier.step(number, leaf, source, noise)
        adjoint, direct = _pull(after, adjoint, leaf, source)
        total = total + direct
        state = 2.0 * state - after.detach()
    return Gradient(values.detach(), total + _by_start(purifier, source, noise, adjoint), purified.detach())


def _pull(output: Tensor, adjoint: Tensor | None, state: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Pull `adjoint` back to the state and to the image that a guided step also reads; 0 where nothing leads back."""
    by_state, by_source = None, None
    if output.requires_grad:
        by_state, by_source = torch.autograd.grad(output, (state, source), adjoint, allow_unused=True)
    zero = torch.zeros_like(source)
    return zero if by_state is None else by_state, zero if by_source is None else by_source


def _by_start(purifier: Purifier, source: Tensor, noise: Noise, adjoint: Tensor) -> Tensor:
    """Pull `adjoint` back through the start of the chain, which may ignore the image."""
    begin = purifier.start(source, noise)
    return torch.autograd.grad(begin, source, adjoint)[0] if begin.requires_grad else torch.zeros_like(source)


MODES: dict[str, Callable[[Purifier, Tensor, Noise, PerImage, int], Gradient]] = {
    "autograd": _autograd,
    "replay": _replay,
    "bpda": _bpda,
    "surrogate": _replay,
    "adjoint": _adjoint,
}


def gradient(
    purifier: Purifier,
    images: Tensor,
    noise: Noise,
    objective: PerImage,
    *,
    mode: str,
    kept_steps: int,
    surrogate: Purifier | None = None,
) -> Gradient:
    """Gradient of sum_b objective(purify(images, noise))_b with respect to images.

    objective   purified images (B, C, H, W) -> one value per image (B,); last called on the result of `purifier`
    kept_steps  how many of the last steps keep their activations (modes "replay" and "surrogate")
    surrogate   purifier whose gradient takes the place of the executed one's (mode "surrogate" only)
    Raises NoDerivative where autograd finds no path from the images to the purified ones.
    """
    if mode not in MODES:
        raise ValueError(f"expected a gradient mode among {sorted(MODES)}, got {mode!r}")
    if (mode == "surrogate") != (surrogate is not None):
        given = "one" if surrogate else "none"
        raise ValueError(f"expected a surrogate purifier exactly with mode 'surrogate', got {given} with {mode!r}")
    out = MODES[mode](surrogate or purifier, images, noise, objective, kept_steps)
    return out if surrogate is None else _executed(purifier, images, noise, objective, out)


def _executed(purifier: Purifier, images: Tensor, noise: Noise, objective: PerImage, other: Gradient) -> Gradient:
    """The gradient of another purifier with the values and the images of the one that runs."""
    with torch.no_grad():
        purified = purify(purifier, images, noise)
        return Gradient(objective(purified), other.gradient, purified)


def bytes_of_step(purifier: Purifier, images: Tensor, noise: Noise) -> int:
    """Activations that the first step of this batch keeps for its derivative, in bytes; 0 without steps."""
    if purifier.num_steps == 0:
        return 0
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.requires_grad or not tensor.is_leaf:  # frozen weights are shared by all steps
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    source = images.detach().requires_grad_()
    state = purifier.start(source, noise).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        purifier.step(0, state, source, noise)
    return sum(saved.values())


def steps_within(purifier: Purifier, images: Tensor, noise: Noise, memory: float) -> int:
    """How many steps' activations fit into `memory` bytes for this batch."""
    return min(purifier.num_steps, int(memory // max(bytes_of_step(purifier, images, noise), 1)))
