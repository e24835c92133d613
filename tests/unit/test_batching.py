"""Batches of one fixed size, padded with their own first member."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from purification.batching import batches, map_batches
from purification.progress import track


@given(st.lists(st.integers(0, 99), max_size=25), st.integers(1, 9))
def test_valid_parts_of_the_blocks_are_the_index_in_order(index: list[int], size: int) -> None:
    blocks = list(batches(index, size))
    assert [i for block, valid in blocks for i in block[:valid]] == index
    assert all(len(block) == size and 1 <= valid <= size for block, valid in blocks)
    assert all(set(block[valid:]) <= {block[0]} for block, valid in blocks)
    assert all(valid == size for _, valid in blocks[:-1])


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_mapping_in_batches_is_mapping_one_by_one(size: int) -> None:
    numbers = torch.arange(7.0)
    called: list[int] = []

    def square(block: list[int]) -> Tensor:
        called.append(len(block))
        return numbers[block] ** 2

    assert torch.equal(map_batches(square, range(7), size), numbers**2)
    assert set(called) == {size}


def test_an_empty_index_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one image, got none"):
        map_batches(lambda block: torch.zeros(len(block)), [], 4)


def test_tracked_loops_yield_everything_and_log_their_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="purification"):
        assert list(track(range(4), "count")) == [0, 1, 2, 3]
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["count: 4/4"]
