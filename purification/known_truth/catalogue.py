"""Defences of known truth by name, and how one is set up.

To add one, write a function that takes `Examples` and returns `Known`, and give it a name and conditions in one of the
groups: `randomised`, `faulty` (randomised, and its gradient is not that of what runs), `masking` or `honest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from purification.defence import Defence
from purification.known_truth.examples import Conditions, Examples, make_examples
from purification.known_truth.truths import Truth
from purification.models.classifiers import Classifier
from purification.purifiers import Purifier


@dataclass(frozen=True)
class Known:
    """A defence, and what is true of it on the images it was built for."""

    purifier: Purifier
    classifier: Classifier
    truth: Truth


@dataclass(frozen=True)
class Entry:
    """How a defence is built, and on which images."""

    conditions: Conditions
    build: Callable[[Examples], Known]


@dataclass(frozen=True)
class KnownDefence:
    """A defence of known truth with its images, ready to be evaluated."""

    name: str
    group: str
    examples: Examples
    defence: Defence
    truth: Truth


def set_up(
    name: str, group: str, entry: Entry, *, ids: Sequence[int], seed: int, batch_size: int, gradient_batch_size: int
) -> KnownDefence:
    """The defence on images number `ids`."""
    examples = make_examples(entry.conditions, ids, seed)
    known = entry.build(examples)
    defence = Defence(known.purifier, known.classifier, batch_size, gradient_batch_size=gradient_batch_size)
    return KnownDefence(name, group, examples, defence, known.truth)


Group = Mapping[str, Entry]
