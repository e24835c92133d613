"""Images of any shape and number: finite results of the right shape, or a refusal in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from purification import statistics
from purification.attacks import PGD, Problem, pgd_attack
from purification.balls import NORMS
from purification.defence import Defence
from purification.gradients import MODES, gradient
from purification.measure import jacobian
from purification.measure.audit import Followed, Sample
from purification.measure.compression import directional, isotropic
from purification.measure.consistency import Options
from purification.measure.distances import METRICS, distances_along
from purification.measure.randomness import decompose, probes_of
from purification.measure.whole_audit import Twins, attack_columns, purifier_columns, reasons_of
from purification.models.classifiers import ResidualNetwork
from purification.models.denoisers import Denoiser, GaussianEpsilon, fit_gaussian
from purification.models.unet import UNet
from purification.noise import NoiseSource
from purification.purifiers import Purifier, make_purifier, purify
from purification.schedule import Schedule
from purification.threat import ThreatModel

Shape = tuple[int, int, int]
Result = TypeVar("Result")
CPU = torch.device("cpu")
SENTENCE = re.compile(r"expected .+, got .+ — .+")
EPSILON = 0.1
COMMON = {"kind": "diffusion", "t_star": 60, "forward_noise": True, "clip": "none", "clamp_output": False}
ENTRIES: list[dict[str, Any]] = [
    {**COMMON, "sampler": "ddpm", "variance": "fixed_small", "steps": 2, "clip": "straight_through"},
    {**COMMON, "sampler": "ddim", "eta": 0.5, "steps": 2},
    {**COMMON, "sampler": "vp_sde", "steps": 2},
    {**COMMON, "sampler": "pf_ode", "steps": 2, "forward_noise": False},
    {**COMMON, "sampler": "one_step"},
    {"kind": "blur", "sigma": 2.0},
    {"kind": "constant", "value": 0.5},
    {"kind": "identity"},
]
bounded = settings(max_examples=60, derandomize=True, database=None, deadline=None)
shapes = st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))
entries = st.sampled_from(ENTRIES)
counts, sizes = st.integers(1, 4), st.integers(1, 5)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def mixing(u: Tensor, level: Any) -> Tensor:
    """A smooth noise predictor that works at every shape."""
    return torch.tanh(0.7 * u + 0.4 * u.roll(1, dims=-1) - 0.3 * u.roll(1, dims=-2)) * (0.5 + level.position / 200)


def purifier_of(entry: dict[str, Any], shape: Shape) -> Purifier:
    return make_purifier(entry, Denoiser(mixing, Schedule(1e-4, 0.02, 1000)), shape, CPU)


def defence_of(entry: dict[str, Any], shape: Shape, batch_size: int) -> Defence:
    weights = numbers(int(np.prod(shape)), 3, seed=1) - 0.5
    return Defence(purifier_of(entry, shape), lambda x: x.flatten(1) @ weights.to(x.dtype), batch_size)


def refused(call: Callable[[], Result]) -> Result | None:
    """The result, or None when it was refused in a sentence."""
    try:
        return call()
    except ValueError as error:
        assert SENTENCE.fullmatch(str(error)), error
        return None


def assert_finite(value: Tensor | float, shape: tuple[int, ...] = ()) -> None:
    tensor = torch.as_tensor(value)
    assert tuple(tensor.shape) == shape
    assert torch.isfinite(tensor).all()


@given(shapes, entries, counts, st.sampled_from(sorted(MODES)), st.integers(0, 3))
@bounded
def test_purified_images_and_gradients(shape: Shape, entry: dict[str, Any], n: int, mode: str, kept: int) -> None:
    images, noise, purifier = numbers(n, *shape), NoiseSource(0, "fixed", shape)(range(n)), purifier_of(entry, shape)
    assert_finite(purify(purifier, images, noise), (n, *shape))
    surrogate = purifier if mode == "surrogate" else None
    out = gradient(
        purifier,
        images,
        noise,
        lambda x: x.square().flatten(1).sum(dim=1),
        mode=mode,
        kept_steps=kept,
        surrogate=surrogate,
    )
    assert_finite(out.values, (n,))
    assert_finite(out.gradient, (n, *shape))


@given(shapes, entries, counts, sizes, st.sampled_from(sorted(NORMS)), st.booleans())
@bounded
def test_attacks(shape: Shape, entry: dict[str, Any], n: int, batch_size: int, norm: str, known: bool) -> None:
    images, labels, ids = numbers(n, *shape), torch.arange(n) % 3, list(range(n))
    pgd = PGD(2, 0.5, not known, "margin", "replay", 1 if known else 2, not known, "best", known, 2 - known)
    source, start = (NoiseSource(0, role, shape) for role in ("fixed", "start"))
    threat, defence = ThreatModel(norm, EPSILON, 0.3), defence_of(entry, shape, batch_size)
    out = pgd_attack(Problem(defence, images, labels, ids, threat, source, start, source, 1, 1e6), pgd)
    assert_finite(out.adversarial, (n, *shape))
    assert_finite(out.loss, (n,))
    threat.check(out.adversarial, images)
    assert defence.predict(out.adversarial, ids, source, 0).shape == (n,)
    moved = directional(images + 0.1, images, images + EPSILON, images)
    assert_finite(moved, (n,))


@given(shapes, entries, counts, sizes)
@bounded
def test_audit(shape: Shape, entry: dict[str, Any], n: int, batch_size: int) -> None:
    defence = defence_of(entry, shape, batch_size)
    images, labels = numbers(n, *shape), torch.arange(n) % 3
    sample = Sample(images, labels, list(range(n)), NoiseSource(0, "fixed", shape))
    twins, threat = Twins(defence, defence), ThreatModel("linf", EPSILON)
    reasons = reasons_of(twins, sample)
    checks = purifier_columns(twins, sample, Options(threat, 2, 2), 2, reasons)
    checks |= attack_columns(twins, sample, Followed("margin", "replay"), threat, 1e9, reasons)
    for name, values in checks.items():
        undefined = name == "surrogate_cosine" or (name.startswith("linearity") and values.isnan().any())
        assert undefined or assert_finite(values, (n,)) is None


@given(shapes, entries, counts)
@bounded
def test_distances(shape: Shape, entry: dict[str, Any], n: int) -> None:
    images, noise = numbers(n, *shape), NoiseSource(0, "fixed", shape)(range(n))
    records = refused(lambda: distances_along(purifier_of(entry, shape), images, images, noise))
    assert (records is None) == (min(shape[1:]) < 7)
    for record in records or ():
        for name in METRICS:
            assert_finite(record[name], (n,))


@given(shapes, st.sampled_from(ENTRIES[:6]), st.integers(1, 4))
@bounded
def test_randomness_and_compression(shape: Shape, entry: dict[str, Any], samples: int) -> None:
    """A purifier that is not constant; correlations of a constant are NaN by definition."""
    image, purifier, source = numbers(*shape), purifier_of(entry, shape), NoiseSource(0, "fixed", shape)
    probes = probes_of(NoiseSource(0, "probe", shape), 0, samples, EPSILON)

    def run(inputs: Tensor, draws: list[int]) -> Tensor:
        return purify(purifier, inputs, source([0] * len(inputs), draws))

    rates = refused(lambda: isotropic(run, image, run(image[None], [0]), probes))
    assert (rates is None) == (samples < 2)
    rows = refused(lambda: decompose(run, image, probes))
    assert (rows is None) == (samples < 2 or image.numel() < 2)
    for name, value in {**(rates or {}), **(rows or {})}.items():
        undefined = entry["kind"] == "blur" and "varied" in name
        assert undefined or np.isfinite(value), (name, value)


@given(shapes.filter(lambda shape: np.prod(shape) <= 60), entries, sizes)
@bounded
def test_jacobians(shape: Shape, entry: dict[str, Any], batch_size: int) -> None:
    image, purifier, source = numbers(*shape), purifier_of(entry, shape), NoiseSource(0, "fixed", shape)
    d = image.numel()
    pull = jacobian.pullback(purifier, image, 0, source, batch_size=batch_size, mode="replay", kept_steps=1)
    matrix = jacobian.full_jacobian(pull, image)
    assert_finite(matrix, (d, d))
    assert_finite(jacobian.singular_values(matrix), (d,))
    probes = numbers(3, d) - 0.5
    assert_finite(jacobian.mean_square_gain(pull, probes), (3,))
    largest = jacobian.largest_gain(
        pull, lambda t: jacobian.push(purifier, image, 0, source, t), probes[:1], iterations=2
    )
    assert_finite(largest)


@given(shapes, st.integers(1, 5))
@bounded
def test_the_null_model_and_the_classifier(shape: Shape, n: int) -> None:
    images = numbers(n, *shape)
    fitted = refused(lambda: fit_gaussian(images))
    assert (fitted is None) == (n < 2)
    if fitted:
        denoiser = Denoiser(GaussianEpsilon(**fitted), Schedule(1e-4, 0.02, 1000))
        purifier = make_purifier(ENTRIES[1], denoiser, shape, CPU)
        assert_finite(purify(purifier, images, NoiseSource(0, "fixed", shape)(range(n))), (n, *shape))
    assert_finite(ResidualNetwork(shape[0], 3, [2, 4, 4]).eval()(images).detach(), (n, 3))


@given(shapes, counts)
@bounded
def test_the_network_refuses_sides_it_cannot_halve(unet_config: dict[str, Any], shape: Shape, n: int) -> None:
    network = UNet.from_config({**unet_config, "in_channels": shape[0], "out_channels": shape[0]})
    out = refused(lambda: network(numbers(n, *shape), 3.0).detach())
    assert (out is None) == bool(shape[1] % 2 or shape[2] % 2)
    if out is not None:
        assert_finite(out, (n, *shape))


@given(st.integers(0, 4), st.integers(1, 4), st.integers(0, 5), st.integers(0, 3))
@bounded
def test_statistics(n: int, draws: int, chosen: int, successes: int) -> None:
    predictions = np.random.default_rng(n).integers(0, 3, (n, draws))
    labels = np.arange(n) % 3
    correct = predictions == labels[:, None]
    rate = statistics.rate(statistics.average_robustness(correct))
    share = statistics.wilson(min(successes, n), n)
    difference = statistics.difference(statistics.average_robustness(correct))
    for estimate, lowest in ((rate, 0), (share, 0), (difference, -1)):
        assert estimate.n == n
        assert np.isnan(estimate.value) == (n == 0)
        if n:
            assert lowest <= estimate.low <= estimate.value <= estimate.high <= 1
    worst = refused(lambda: statistics.worst_of(correct, chosen))
    vote = refused(lambda: statistics.majority_vote(predictions, labels, chosen, subsets=3, seed=0))
    assert (worst is None) == (not 1 <= chosen <= draws)
    assert (vote is None) == (not 1 <= chosen <= draws)
    for values in (worst, vote):
        if values is not None:
            assert values.shape == (n,) and np.isfinite(values).all()
    assert 0 <= statistics.mcnemar(chosen, successes) <= 1


def test_no_image_is_refused() -> None:
    shape = (1, 4, 4)
    images, source = torch.empty(0, *shape), NoiseSource(0, "fixed", shape)
    defence, threat = defence_of(ENTRIES[0], shape, 2), ThreatModel("linf", EPSILON)
    calls: list[Callable[[], Any]] = [
        lambda: defence.purify(images, [], source, 0),
        lambda: Problem(defence, images, torch.empty(0, dtype=torch.int64), [], threat, source, source, source, 1, 1e6),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expected at least one image, got none — raise"):
            call()
