"""Named index lists: recipes of published code against its own words, hashes, and lists that are not what they say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from purification.index_lists import index_hash, listed, positions

LISTS = yaml.safe_load((Path(__file__).parents[2] / "config/default.yaml").read_text())["index_lists"]
SIZES = {
    "diffpure_cifar10": 504,  # 8 x 64, of which 8 were drawn before
    "diffpure_imagenet": 510,
    "lee_kim_cifar10": 512,
    "lee_kim_svhn": 512,
    "addt_cifar10": 1024,
    "liu_wei_cifar10": 1000,
}


def test_the_lists_have_the_sizes_and_hashes_they_state() -> None:
    found = {name: positions(entry) for name, entry in LISTS.items()}
    assert {name: len(index) for name, index in found.items()} == SIZES
    for name, index in found.items():
        digest = hashlib.sha256(b"".join(number.to_bytes(8, "little") for number in index)).hexdigest()
        assert digest == LISTS[name]["sha256"] and len(set(index)) == len(index)


def test_a_draw_is_the_head_of_the_permutation_of_its_seed() -> None:
    """choice without replacement is permutation(n)[:k] in RandomState: another way to the same images."""
    kim = np.random.RandomState(0).permutation(10000)[:512]
    assert positions(LISTS["lee_kim_cifar10"]) == kim.tolist()
    parts = [np.random.RandomState(seed).permutation(10000)[:64].tolist() for seed in range(8)]
    union = positions(LISTS["diffpure_cifar10"])
    assert set(union) == {index for part in parts for index in part} and union[:64] == parts[0]


def test_a_file_is_a_json_list_or_lines(tmp_path: Path) -> None:
    index = [5, 0, 9]
    for name, text in {"a.json": json.dumps(index), "b.txt": "5\n0\n9\n"}.items():
        (tmp_path / name).write_text(text)
        assert positions({"path": str(tmp_path / name), "sha256": index_hash(index)}) == index


def test_positions_count_within_the_subset() -> None:
    entry = {"indices": [2, 0], "sha256": index_hash([2, 0])}
    assert listed(entry, [30, 10, 20]) == [20, 30]
    with pytest.raises(ValueError, match="expected indices below 2, got 2 — enlarge the subset"):
        listed(entry, [30, 10])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "twice": ({"indices": [3, 1, 3]}, "expected every index once, got 3 2 times"),
    "negative": ({"indices": [3, -1]}, "expected whole numbers >= 0, got -1"),
    "fraction": ({"indices": [3, 0.5]}, "expected whole numbers >= 0, got 0.5"),
    "empty": ({"indices": []}, "expected whole numbers >= 0, got none"),
    "edited": ({"indices": [1, 2]}, "expected indices with sha256 0000"),
    "no file": ({"path": "nowhere"}, "expected a list of indices in nowhere, got something else"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_is_not_one_is_refused(name: str) -> None:
    settings, sentence = WRONG[name]
    with pytest.raises(ValueError, match="expected") as refusal:
        positions({**settings, "sha256": "0" * 64})
    assert str(refusal.value).startswith(sentence)


def test_a_file_of_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one two")
    with pytest.raises(ValueError, match="got something else"):
        positions({"path": str(tmp_path / "list.txt"), "sha256": "0" * 64})
