"""The counter-based generator: an independent Philox4x64-10, published test vectors, and separation of cells."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from purification.philox import generator

MASK = 2**64 - 1
CELL: dict[str, Any] = {"seed": 3, "role": "attack", "stream": "reverse", "image": 11, "draw": 7, "step": 5}
VECTORS = [
    # Random123, kat_vectors (Salmon et al. 2011): counter, key, output
    ((0,) * 4, (0,) * 2, (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    ((MASK,) * 4, (MASK,) * 2, (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)),
]


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """One block of Philox4x64-10 in integer arithmetic."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        low, high = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(high >> 64) ^ c[1] ^ k0, high & MASK, (low >> 64) ^ c[3] ^ k1, low & MASK]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return tuple(c)


def numbers(**changes: Any) -> list[float]:
    return generator(**{**CELL, **changes}).standard_normal(8).tolist()


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_reference_implementation_gives_the_published_vectors(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected


def test_numbers_are_those_of_philox_at_counter_image_draw_step_and_key_seed_hash() -> None:
    word = int.from_bytes(hashlib.blake2b(b"attack/reverse", digest_size=8).digest(), "little")
    raw = generator(**CELL).bit_generator.random_raw(8).tolist()
    blocks = [philox((block, 11, 7, 5), (3, word)) for block in (1, 2)]
    assert raw == [number for block in blocks for number in block]


def test_a_cell_gives_the_same_numbers_every_time() -> None:
    assert numbers() == numbers()


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"role": "evaluation"}, {"stream": "forward"}, {"image": 12}, {"draw": 8}, {"step": 6}],
    ids=lambda change: next(iter(change)),
)
def test_another_cell_gives_other_numbers(change: dict[str, Any]) -> None:
    assert not set(numbers()) & set(numbers(**change))


def test_swapped_coordinates_are_different_cells() -> None:
    cells = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    drawn = [tuple(numbers(image=i, draw=d, step=s)) for i, d, s in cells]
    assert len(set(drawn)) == len(cells)


@pytest.mark.parametrize("name", ["role", "stream"])
def test_role_and_stream_are_kept_apart(name: str) -> None:
    with pytest.raises(ValueError, match="without '/'"):
        numbers(**{name: "a/b"})


def test_neighbouring_cells_are_uncorrelated() -> None:
    rows = np.array(
        [generator(0, "r", "s", image, draw).standard_normal(4000) for image in range(5) for draw in range(5)]
    )
    correlation = np.corrcoef(rows) - np.eye(25)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("name", ["seed", "image", "draw", "step"])
def test_negative_coordinates_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected a non-negative {name}, got -1"):
        numbers(**{name: -1})
