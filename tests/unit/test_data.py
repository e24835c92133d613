"""Datasets: bundled images, and splits that are the same for everybody."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from purification.data import Dataset, load_dataset
from purification.index_lists import SPLITS, index_hash

SETTINGS: dict[str, Any] = {"kind": "digits", "size": 16, "splits": {"train": 1097, "validation": 300, "test": 400}}
HASHES = {
    "train": "7ad37f5f1b1926d70b6595c217ec365c9ef5f8ff4694e774dc8f81371132d84d",
    "validation": "0261a54af8d15e405d917682f69bb00829bd7d478a34d8725819108ec2b124ff",
    "test": "867361884e5eca20100d381fdde3a8be5dbdce838f19d727d506cf7b615badc5",
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(SETTINGS, 0)


def test_images_are_in_the_unit_interval_with_integer_labels(digits: Dataset) -> None:
    assert digits.images.shape == (1797, 1, 16, 16) and digits.images.dtype == torch.float32
    assert float(digits.images.min()) == 0 and float(digits.images.max()) == 1
    assert digits.labels.dtype == torch.int64 and digits.num_classes == 10 and digits.shape == (1, 16, 16)
    assert digits.labels.tolist() == load_digits().target.tolist()


def test_images_of_the_original_size_are_the_bundled_ones() -> None:
    original = load_dataset({**SETTINGS, "size": 8}, 0)
    expected = torch.tensor(load_digits().images / 16, dtype=torch.float32)
    torch.testing.assert_close(original.images[:, 0], expected, rtol=0, atol=1e-7)


def test_upsampling_is_bilinear_between_pixel_centres(digits: Dataset) -> None:
    small = torch.tensor(load_digits().images / 16, dtype=torch.float32)
    inner = digits.images[:, 0, 1:-1, 1:-1]
    near, far = small[:, :-1], small[:, 1:]
    rows = torch.stack([0.75 * near + 0.25 * far, 0.25 * near + 0.75 * far], dim=2).flatten(1, 2)
    near, far = rows[:, :, :-1], rows[:, :, 1:]
    expected = torch.stack([0.75 * near + 0.25 * far, 0.25 * near + 0.75 * far], dim=3).flatten(2, 3)
    torch.testing.assert_close(inner, expected, rtol=0, atol=1e-6)


def test_splits_are_disjoint_and_have_their_sizes(digits: Dataset) -> None:
    assert tuple(digits.subsets) == SPLITS
    assert {name: len(index) for name, index in digits.subsets.items()} == SETTINGS["splits"]
    union = [i for index in digits.subsets.values() for i in index]
    assert sorted(union) == list(range(1797))


@pytest.mark.parametrize("subset", SPLITS)
def test_the_split_of_seed_0_is_fixed_for_ever(digits: Dataset, subset: str) -> None:
    assert index_hash(digits.subsets[subset]) == HASHES[subset]


@pytest.mark.usefixtures("global_random_state")
def test_the_split_depends_on_the_seed_alone() -> None:
    first, again, other = (load_dataset(SETTINGS, seed).subsets for seed in (0, 0, 1))
    assert first == again and first["test"] != other["test"]


def test_smaller_splits_are_prefixes_of_one_permutation(digits: Dataset) -> None:
    small = load_dataset({**SETTINGS, "splits": {"train": 100, "validation": 10, "test": 20}}, 0)
    assert small.subsets["train"] == digits.subsets["train"][:100]
    assert small.subsets["validation"] == digits.subsets["train"][100:110]


def test_the_hash_is_sha256_of_little_endian_int64() -> None:
    expected = hashlib.sha256(struct.pack("<3q", 5, 0, 1796)).hexdigest()
    assert index_hash([5, 0, 1796]) == expected != index_hash([0, 5, 1796])


def test_taking_a_subset_gives_its_first_images_with_their_dataset_indices(digits: Dataset) -> None:
    images, labels, index = digits.take("test", 7)
    assert index == digits.subsets["test"][:7]
    assert torch.equal(images, digits.images[index]) and torch.equal(labels, digits.labels[index])
    assert digits.take("test")[2] == digits.subsets["test"] and len(digits.take("test", 400)[2]) == 400


def test_mistakes_are_named(digits: Dataset) -> None:
    with pytest.raises(ValueError, match=r"expected a subset among \['test', 'train', 'validation'\], got 'holdout'"):
        digits.take("holdout")
    with pytest.raises(ValueError, match="expected at most 400 images of subset 'test', got 401"):
        digits.take("test", 401)
    with pytest.raises(ValueError, match="expected splits of at most 1797 images in total, got 1798"):
        load_dataset({**SETTINGS, "splits": {"train": 1098, "validation": 300, "test": 400}}, 0)
