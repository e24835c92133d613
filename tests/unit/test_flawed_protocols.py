"""Flawed protocols report of a defence that no attack changes what chance makes of it, and nobody else calls them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from purification.attacks import DiffHammer
from purification.known_truth import flawed_protocols as flawed
from purification.known_truth.catalogue import KnownDefence, set_up
from purification.known_truth.evaluators import Sizes, pose, report_published
from purification.known_truth.masking import MASKING
from purification.known_truth.randomised import PROBABILITY, RANDOMISED

ROOT = Path(__file__).parents[2]
P = PROBABILITY
SIZES = Sizes(steps=4, step_size=0.5, draws=2, iterates=12, fresh=20, worst_of=10, votes=9, vote_subsets=10)
HAMMER = DiffHammer(
    steps=4, step_size=2.0, loss="margin", gradient="replay", draws=5, redraw=True, rounds=2, temperature=5.0,
    reach=1.0, smoothing=0.5,
)  # fmt: skip


def build(name: str, count: int) -> KnownDefence:
    group = "randomised" if name in RANDOMISED else "masking"
    entry = {**RANDOMISED, **MASKING}[name]
    return set_up(name, group, entry, ids=range(count), seed=1, batch_size=50, gradient_batch_size=50)


def test_flawed_protocols_report_what_chance_makes_of_a_coin() -> None:
    """P = .85: P^3, the mean of the least of three means of 20 draws, and P^12."""
    found = {each.protocol: each for each in report_published(build("coin", 200), SIZES, HAMMER)}
    at_least = [float(binom.sf(k - 1, SIZES.fresh, P)) ** 3 for k in range(1, SIZES.fresh + 1)]
    expected = {
        "AutoAttack rand": P**3,
        "stop at first success": P**SIZES.iterates,
        "minimum of estimates": sum(at_least) / SIZES.fresh,
    }
    assert [each.truth for each in found.values()] == pytest.approx([P] * 4)
    for protocol, value in expected.items():
        error = (value * (1 - value) / 200) ** 0.5
        assert abs(found[protocol].reported.value - value) < 3.5 * error, protocol
    assert expected["minimum of estimates"] == pytest.approx(0.783, abs=5e-3)
    assert found["DiffHammer"].reported.value < P - 0.1, "the best of five iterations, by their own draws"


def test_published_attacks_find_what_there_is_to_find_where_draws_do_not_matter() -> None:
    """On a defence without masks and hardly any noise all of them come near the truth."""
    for each in report_published(build("noise .02", 60), SIZES, HAMMER):
        assert abs(each.reported.value - each.truth) < 0.1, each.protocol


def test_the_published_cross_entropy_vanishes_where_logits_are_large() -> None:
    known = build("logits x 1000", 60)
    problem = pose(known, "both", 1)
    path = flawed.iterate_pgd(problem, mode="autograd", count=4, step_size=0.5)
    moved = (path[-1] != problem.images).flatten(1).any(dim=1)
    assert float(moved.float().mean()) < 0.5
    assert not torch.equal(flawed.flawed_apgd(problem, "dlr", mode="autograd", steps=4, draws=1), problem.images)


def test_bookkeeping_by_the_last_draw_returns_clean_images_where_no_draw_fails() -> None:
    """A lattice that masks every gradient: nothing moves but the random start, and an unbroken image is returned."""
    problem = pose(build("rounded", 20), "both", 1)
    found = flawed.flawed_apgd(problem, "ce", mode="autograd", steps=3, draws=1)
    right = problem.defence.predict(found, problem.ids, problem.source, 0) == problem.labels
    assert torch.equal(found[right], problem.images[right])


def test_flawed_protocols_are_called_by_this_experiment_only() -> None:
    users = []
    for path in [*ROOT.glob("purification/**/*.py"), *ROOT.glob("workflow_scripts/*.py"), *ROOT.glob("rules/*.smk")]:
        if path.suffix == ".smk":
            users += [path.name] if "flawed_protocols" in path.read_text() else []
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", "") or ""
            if any("flawed_protocols" in name for name in [*names, module]):
                users.append(path.name)
    assert users == ["evaluators.py"]
