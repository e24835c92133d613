"""Knowledge of the defence's noise: what is frozen, what is drawn anew, and that attack and evaluation agree on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from purification.attacks import PGD, Problem, pgd_attack
from purification.defence import Defence
from purification.journal import NO_JOURNAL
from purification.knowledge import KNOWLEDGE, shared_noise
from purification.noise import FORWARD, REVERSE, Noise, NoiseSource
from purification.purifiers import FunctionPurifier
from purification.threat import ThreatModel

SHAPE = (1, 4, 4)
FRESH = NoiseSource(seed=3, role="evaluation", shape=SHAPE)
ATTACK = replace(FRESH, role="attack")
IDS = list(range(24))
SETTINGS = PGD(
    steps=4, step_size=0.5, random_start=False, loss="ce", gradient="replay",
    draws=1, redraw=True, select="last", stop_when_broken=False, restarts=1,
)  # fmt: skip
Numbers = Callable[..., Tensor]


def streams(knowledge: str, draw: int, role: str = "evaluation", pool: int = 3) -> dict[str, Tensor]:
    source = shared_noise(replace(FRESH, role=role), knowledge=knowledge, pool=pool)
    return {stream: source(IDS, draw).normal(stream, 1) for stream in (FORWARD, REVERSE)}


def purify(images: Tensor, noise: Noise) -> Tensor:
    """Both noises shift the phase of every pixel: the direction of an attack depends on what is known of them."""
    return 4.0 * images + 1.5 * noise.normal(FORWARD) + 1.5 * noise.normal(REVERSE)


def classify(phases: Tensor) -> Tensor:
    """Class 0 unless the waves of the pixels add up against it: about .96 of all draws without an attack."""
    waves = 5.0 + phases.flatten(1).sin().sum(dim=1)
    return torch.stack([waves, torch.zeros_like(waves)], dim=1)


DEFENCE = Defence(FunctionPurifier(purify), classify, batch_size=12)


@pytest.fixture
def images(random_tensor: Numbers) -> Tensor:
    return random_tensor(len(IDS), *SHAPE, seed=2)


def robust(
    images: Tensor, knowledge: str, *, defence: Defence = DEFENCE, pool: int = 1, draws: int = 1, judged: int = 24
) -> Tensor:
    """Share of `judged` draws, under the same knowledge, on which attacked images keep their class: (n,)."""
    labels = torch.zeros(len(IDS), dtype=torch.long)
    problem = Problem(
        defence, images, labels, IDS, threat=ThreatModel("linf", 0.2),
        source=shared_noise(ATTACK, knowledge=knowledge, pool=pool), start=replace(FRESH, role="start"),
        judge=shared_noise(replace(FRESH, role="judge"), knowledge=knowledge, pool=pool), judges=1, memory=1e9,
    )  # fmt: skip
    adversarial = pgd_attack(problem, replace(SETTINGS, draws=draws), NO_JOURNAL).adversarial
    source = shared_noise(FRESH, knowledge=knowledge, pool=pool)
    return torch.stack([defence.predict(adversarial, IDS, source, k) == labels for k in range(judged)]).float().mean(0)


FROZEN = {"none": set(), "forward": {FORWARD}, "reverse": {REVERSE}, "both": {FORWARD, REVERSE}}


@pytest.mark.parametrize("knowledge", sorted(FROZEN))
def test_what_is_known_is_the_frozen_draw_and_the_rest_is_new_in_every_draw_and_role(knowledge: str) -> None:
    frozen = {stream: replace(FRESH, role="fixed")(IDS, 0).normal(stream, 1) for stream in (FORWARD, REVERSE)}
    first, second, other = streams(knowledge, 0), streams(knowledge, 1), streams(knowledge, 0, "attack")
    for stream in (FORWARD, REVERSE):
        same = stream in FROZEN[knowledge]
        for drawn in (first, second, other):
            assert torch.equal(drawn[stream], frozen[stream]) == same
        assert torch.equal(first[stream], second[stream]) == same
        assert torch.equal(first[stream], other[stream]) == same


def test_a_pool_repeats_after_its_draws_and_starts_with_the_frozen_one() -> None:
    drawn = [streams("semi", draw, role)[REVERSE] for role in ("attack", "evaluation") for draw in range(6)]
    assert all(torch.equal(drawn[k], drawn[k % 3]) for k in range(12))
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == 3
    assert torch.equal(drawn[0], streams("both", 0)[REVERSE])


def test_draws_may_differ_within_a_batch_of_a_pool() -> None:
    source = shared_noise(FRESH, knowledge="semi", pool=2)
    mixed = source([4, 4, 9], [0, 3, 2]).normal(FORWARD)
    expected = [source([4], 0), source([4], 1), source([9], 0)]
    assert torch.equal(mixed, torch.cat([noise.normal(FORWARD) for noise in expected]))


def test_an_unknown_knowledge_and_an_empty_pool_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a knowledge among .*'semi'.*, got 'all'"):
        shared_noise(FRESH, knowledge="all", pool=1)
    with pytest.raises(ValueError, match="expected a pool of at least one draw, got 0"):
        shared_noise(FRESH, knowledge="semi", pool=0)
    assert set(KNOWLEDGE) == {*FROZEN, "semi"}


def test_with_all_noise_known_accuracy_is_the_same_bits_on_every_draw(images: Tensor) -> None:
    first, again = (robust(images, "both", judged=3) for _ in range(2))
    assert torch.equal(first, again) and set(first.tolist()) == {0.0, 1.0}
    source = shared_noise(FRESH, knowledge="both", pool=1)
    once, twice = (DEFENCE.purify(images, IDS, source, draw) for draw in (0, 17))
    assert torch.equal(once, twice)


def test_a_pool_of_one_draw_is_full_knowledge_bit_for_bit(images: Tensor) -> None:
    assert torch.equal(robust(images, "semi", pool=1, judged=2), robust(images, "both", judged=2))


def test_knowledge_helps_the_attacker_and_a_large_pool_approaches_no_knowledge(images: Tensor) -> None:
    found = {known: float(robust(images, known).mean()) for known in ("both", "forward", "reverse", "none")}
    pools = {k: float(robust(images, "semi", pool=k, draws=k, judged=k).mean()) for k in (1, 4, 24)}
    none = float(robust(images, "none", draws=24).mean())
    assert found["both"] + 0.1 < min(found["forward"], found["reverse"])
    assert max(found["forward"], found["reverse"]) + 0.02 < found["none"]
    assert pools[1] + 0.1 < pools[4] and pools[4] + 0.1 < pools[24]
    assert pools[24] == pytest.approx(none, abs=0.1) and none > pools[4] + 0.1


def test_one_known_stream_is_full_knowledge_where_the_purifier_has_no_other(images: Tensor) -> None:
    """DDIM with eta 0 has forward noise only: knowing it is knowing everything (ADDT, section 4)."""
    defence = replace(DEFENCE, purifier=FunctionPurifier(lambda x, noise: 4.0 * x + 2.0 * noise.normal(FORWARD)))
    both, forward, reverse, none = (
        robust(images, known, defence=defence, judged=4) for known in ("both", "forward", "reverse", "none")
    )
    assert torch.equal(both, forward)
    assert torch.equal(reverse, none)
