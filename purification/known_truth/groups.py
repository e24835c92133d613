"""All defences of known truth, by group."""

from __future__ import annotations

from purification.known_truth.catalogue import Group
from purification.known_truth.honest import HONEST
from purification.known_truth.masking import MASKING
from purification.known_truth.randomised import FAULTY, RANDOMISED

GROUPS: dict[str, Group] = {
    "randomised": RANDOMISED,
    "faulty": FAULTY,
    "honest": HONEST,
    "masking": MASKING,
}
