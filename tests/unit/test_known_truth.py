"""Closed forms of robust accuracy against an exhaustive attack on what runs, and against counting draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from purification.known_truth.catalogue import Entry, KnownDefence, set_up
from purification.known_truth.examples import Conditions, make_examples
from purification.known_truth.groups import GROUPS
from purification.known_truth.masking import map_pixels, steep_tanh
from purification.known_truth.nearest import STORED
from purification.known_truth.randomised import add_noise
from tests.unit.known_truth_oracle import is_robust, margins, worst_images

EVERY = [(group, name) for group, entries in GROUPS.items() for name in entries]
RANDOM = [(group, name) for group, name in EVERY if group in ("randomised", "faulty")]
NOT_SUMS = ("nearest",)  # defences whose margins are no sums over pixels


def build(group: str, name: str, ids: range, seed: int = 3) -> KnownDefence:
    return set_up(name, group, GROUPS[group][name], ids=ids, seed=seed, batch_size=8, gradient_batch_size=5)


def sums(name: str) -> bool:
    return not any(word in name for word in NOT_SUMS)


@pytest.mark.parametrize(("group", "name"), [each for each in EVERY if sums(each[1])])
def test_the_frozen_truth_is_what_an_exhaustive_attack_finds(group: str, name: str) -> None:
    known = build(group, name, range(8))
    found = [is_robust(known, number) for number in range(8)]
    assert found == known.truth.frozen.tolist()


@pytest.mark.parametrize(("group", "name"), [each for each in EVERY if sums(each[1])])
def test_margins_are_sums_over_pixels_as_the_exhaustive_attack_supposes(group: str, name: str) -> None:
    known = build(group, name, range(2))
    image = known.examples.images[:1]
    change = known.examples.threat.epsilon * torch.linspace(-1, 1, image.numel()).sin().view_as(image)
    half = (torch.arange(image.numel()) % 2).view_as(image).to(image)
    batch = torch.cat([image, image + half * change, image + (1 - half) * change, image + change])
    seen = margins(known, batch, [0] * 4, 0)
    error = (seen[3] - seen[0]) - (seen[1] - seen[0]) - (seen[2] - seen[0])
    assert float(error.abs().max()) <= 1e-3 * max(float(seen.abs().max()), 1e-3)


@pytest.mark.parametrize(("group", "name"), RANDOM)
def test_the_least_probability_is_how_often_draws_are_right_on_the_worst_image(group: str, name: str) -> None:
    known = build(group, name, range(6))
    draws = 300
    for number in range(0, 6, 2):
        worst = worst_images(known, number)[-1:].expand(draws, -1, -1, -1)
        source = known.examples.noise("counting")
        noise_ids = [1000 * number + draw for draw in range(draws)]
        seen = known.defence.predict(worst, noise_ids, source, 0)
        share = float((seen == known.examples.labels[number]).float().mean())
        truth = float(known.truth.probability[number])
        assert abs(share - truth) <= 4.0 * (truth * (1 - truth) / draws) ** 0.5 + 1.5 / draws


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_truths_do_not_depend_on_the_other_images_and_leave_the_question_open(group: str, name: str) -> None:
    whole, some = build(group, name, range(30)), build(group, name, range(10, 20))
    assert np.allclose(whole.truth.probability[10:20], some.truth.probability)
    assert (whole.truth.frozen[10:20] == some.truth.frozen).all()
    assert torch.equal(whole.examples.images[10:20], some.examples.images)
    right = whole.defence.predict(whole.examples.images, whole.examples.ids, whole.examples.noise("fixed"), 0)
    assert (whole.truth.frozen <= (right == whole.examples.labels).numpy()).all()
    if name != "constant":
        assert 0.0 < whole.truth.probability.mean() <= 1.0


def test_every_group_is_as_large_as_it_must_be() -> None:
    assert len(GROUPS["randomised"]) + len(GROUPS["faulty"]) >= 12 and len(GROUPS["faulty"]) >= 4
    assert len(GROUPS["masking"]) >= 15 and len(GROUPS["honest"]) >= 15


def test_estimands_follow_from_the_least_probability() -> None:
    truth = build("randomised", "coin", range(4)).truth
    assert truth.average().tolist() == [0.85] * 4
    assert truth.worst_of(10).tolist() == pytest.approx([0.85**10] * 4)
    tosses = np.random.default_rng(0).random((40_000, 9)) < 0.85
    assert truth.majority(9)[0] == pytest.approx((tosses.sum(axis=1) > 4.5).mean(), abs=0.005)
    several = build("randomised", "five classes, noise .1", range(4)).truth
    assert np.isnan(several.majority(9)).all()


def test_the_integral_over_logits_is_what_counting_logits_gives() -> None:
    known = build("randomised", "five classes, noise .3", range(12))
    on = known.examples
    worst = torch.cat([worst_images(known, number)[-1:] for number in range(12)]).flatten(1).numpy()
    noise = 0.3 * np.random.default_rng(0).standard_normal((6000, 1, worst.shape[1]))
    logits = (worst + noise) @ on.classifier.weights.numpy().T + on.classifier.biases.numpy()
    share = (logits.argmax(axis=2) == on.labels.numpy()).mean(axis=0)
    assert np.abs(share - known.truth.probability).max() < 0.025


def test_a_nearest_image_is_certified_and_its_opposite_is_shown() -> None:
    """Random points of the budget never fool an image that the linear programs call robust; some fool the others."""
    known = build("masking", "nearest of stored images, with a leak", range(12))
    on, generator = known.examples, torch.Generator().manual_seed(0)
    stored = make_examples(on.conditions, STORED, on.seed).images
    for number in range(12):
        towards = stored - on.images[number]
        pulled = on.images[number] + on.threat.epsilon * torch.cat([towards.sign(), (20 * towards).clamp(-1, 1)])
        anywhere = 2 * torch.rand(3000, *on.shape, generator=generator) - 1
        mixed = on.images[number] + on.threat.epsilon * torch.cat([anywhere, anywhere.sign()])
        tried = torch.cat([pulled, mixed])
        seen = known.defence.predict(tried, [on.ids[number]] * len(tried), on.noise("fixed"), 0)
        fooled = bool((seen != on.labels[number]).any())
        assert fooled <= (not known.truth.frozen[number])
    assert 0 < known.truth.frozen.sum() < 12


def test_a_budget_that_reaches_the_box_is_refused() -> None:
    wide = Entry(Conditions("linf", 0.3, jitter=0.3), add_noise(0.1))
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        set_up("wide", "randomised", wide, ids=range(4), seed=0, batch_size=4, gradient_batch_size=4)
    steep = Entry(Conditions("linf", 0.3, jitter=0.3), map_pixels(steep_tanh))
    with pytest.raises(ValueError, match="farther than epsilon"):
        set_up("steep", "masking", steep, ids=range(4), seed=0, batch_size=4, gradient_batch_size=4)
