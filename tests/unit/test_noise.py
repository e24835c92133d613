"""Noise as an argument: who shares a batch, in which order and how often must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from purification.noise import FORWARD, REVERSE, Noise, NoiseSource

SOURCE = NoiseSource(seed=0, role="fixed", shape=(3, 5, 4))
KINDS: dict[str, Callable[[Noise, str, int], Tensor]] = {"normal": Noise.normal, "uniform": Noise.uniform}
BIG = NoiseSource(seed=1, role="fixed", shape=(1, 200, 500))
Sampler = Callable[[Noise, str, int], Tensor]


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def sample(request: pytest.FixtureRequest) -> Sampler:
    return request.param  # type: ignore[no-any-return]


def test_noise_of_an_image_ignores_batch_size_order_companions_and_restarts(sample: Sampler) -> None:
    ids = [7, 0, 1000003, 42, 5]
    whole = sample(SOURCE(ids, 3), REVERSE, 2)
    for order in ([4, 2, 0, 1, 3], [3], [2, 2, 2], [1, 4]):
        some = replace(SOURCE)([ids[i] for i in order], 3)
        assert torch.equal(sample(some, REVERSE, 2), whole[order])


def test_numbers_outlive_the_process_that_drew_them() -> None:
    noise = SOURCE([7], 3)
    drawn = [float(x) for kind in (noise.normal, noise.uniform) for x in kind(REVERSE, 2).flatten()[:2]]
    assert drawn == [0.010508492588996887, 1.3709261417388916, -0.9798464775085449, 0.9202957153320312]


def test_earlier_calls_do_not_matter(sample: Sampler) -> None:
    noise = SOURCE([1, 2])
    late = [sample(noise, REVERSE, step) for step in (5, 0, 5)]
    assert torch.equal(late[0], late[2])
    assert torch.equal(late[1], sample(SOURCE([1, 2]), REVERSE, 0))


@pytest.mark.parametrize(
    "other",
    [
        (replace(SOURCE, seed=1), 6, 2, REVERSE, 4),
        (replace(SOURCE, role="evaluation"), 6, 2, REVERSE, 4),
        (SOURCE, 7, 2, REVERSE, 4),
        (SOURCE, 6, 3, REVERSE, 4),
        (SOURCE, 6, 2, FORWARD, 4),
        (SOURCE, 6, 2, REVERSE, 5),
    ],
    ids=["seed", "role", "image", "draw", "stream", "step"],
)
def test_every_coordinate_changes_every_number(other: tuple[Any, ...], sample: Sampler) -> None:
    source, image, draw, stream, step = other
    one = sample(SOURCE([6], 2), REVERSE, 4)
    two = sample(source([image], draw), stream, step)
    assert not (one == two).any()


def test_draws_may_differ_within_a_batch(sample: Sampler) -> None:
    mixed = sample(SOURCE([4, 4, 9], [0, 1, 0]), FORWARD, 0)
    for row, (image, draw) in enumerate([(4, 0), (4, 1), (9, 0)]):
        assert torch.equal(mixed[row : row + 1], sample(SOURCE([image], draw), FORWARD, 0))


def test_normals_have_the_moments_of_the_standard_normal_law() -> None:
    x = BIG([0]).normal(FORWARD).double().flatten()
    error = 4 / np.sqrt(len(x))
    moments = [float(x.pow(k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=error * np.sqrt(96))
    assert moments[0] == pytest.approx(0, abs=error)
    assert moments[1] == pytest.approx(1, abs=error * np.sqrt(2))


def test_uniform_numbers_fill_minus_one_to_one_evenly() -> None:
    x = BIG([0]).uniform("start").double().flatten()
    assert -1 <= float(x.min()) < -0.999 and 0.999 < float(x.max()) < 1
    assert float(x.mean()) == pytest.approx(0, abs=4 * np.sqrt(1 / 3 / len(x)))
    counts = torch.histc(x, bins=20, min=-1, max=1)
    assert float((counts - len(x) / 20).abs().max()) < 5 * np.sqrt(len(x) / 20)


def test_steps_draws_and_streams_are_uncorrelated() -> None:
    cells = [BIG([image], draw).normal(s, k) for image in (0, 1) for draw in (0, 1) for s in "ab" for k in (0, 1)]
    correlation = torch.corrcoef(torch.stack([c.flatten() for c in cells])) - torch.eye(16)
    assert float(correlation.abs().max()) < 5 / np.sqrt(1e5)


@pytest.mark.parametrize("held", [(FORWARD,), (REVERSE,), (FORWARD, REVERSE)], ids="+".join)
def test_hold_freezes_the_named_streams_and_no_other(held: tuple[str, ...], sample: Sampler) -> None:
    fresh, frozen = replace(SOURCE, role="evaluation")([1, 2], 9), SOURCE([1, 2], 0)
    mixed = fresh.hold(held, frozen)
    for stream in (FORWARD, REVERSE, "start"):
        expected = frozen if stream in held else fresh
        assert torch.equal(sample(mixed, stream, 1), sample(expected, stream, 1))


def test_held_streams_of_a_source_come_from_draw_0_of_the_fixed_role() -> None:
    source = replace(SOURCE, role="attack", held=(REVERSE,))
    for draw in (0, 4, [5, 6]):
        noise = source([1, 2], draw)
        assert torch.equal(noise.normal(REVERSE, 3), SOURCE([1, 2], 0).normal(REVERSE, 3))
        assert torch.equal(noise.normal(FORWARD), replace(SOURCE, role="attack")([1, 2], draw).normal(FORWARD))


def test_holding_adds_to_what_is_already_held() -> None:
    fresh = replace(SOURCE, role="evaluation")([1])
    noise = fresh.hold([FORWARD], SOURCE([1], 1)).hold([REVERSE], SOURCE([1], 2))
    assert torch.equal(noise.normal(FORWARD), SOURCE([1], 1).normal(FORWARD))
    assert torch.equal(noise.normal(REVERSE), SOURCE([1], 2).normal(REVERSE))


def test_float64_noise_is_the_float32_noise_cast(sample: Sampler) -> None:
    single, double = (
        sample(SOURCE([3, 4]), FORWARD, 0),
        sample(replace(SOURCE, dtype=torch.float64)([3, 4]), FORWARD, 0),
    )
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(double, single.double())


def test_one_draw_number_per_image_is_required() -> None:
    with pytest.raises(ValueError, match="expected one draw number per image, got 2 images and 3 draws"):
        SOURCE([1, 2], [0, 1, 2])


@pytest.mark.usefixtures("global_random_state")
def test_the_global_random_state_is_not_changed(sample: Sampler) -> None:
    sample(SOURCE([1, 2, 3]), FORWARD, 0)


def test_the_global_random_state_is_not_read(sample: Sampler) -> None:
    drawn = []
    with torch.random.fork_rng():
        state = np.random.get_state()  # noqa: NPY002
        for seed in (0, 1):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            drawn.append(sample(SOURCE([1, 2, 3]), FORWARD, 0))
        np.random.set_state(state)  # noqa: NPY002
    assert torch.equal(*drawn)
