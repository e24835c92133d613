"""Counter-based random numbers: every number is a function of (seed, role, stream, image, draw, step).

Philox4x64 (Salmon et al., SC 2011) takes a 128-bit key and a 256-bit counter. The key holds the seed and a hash of
role and stream, the counter holds image, draw and step, so no state is carried from one call to the next.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, role: str, stream: str, image: int = 0, draw: int = 0, step: int = 0) -> np.random.Generator:
    """NumPy generator of one cell of the noise table; cells never overlap."""
    for name, value in (("seed", seed), ("image", image), ("draw", draw), ("step", step)):
        if value < 0:
            raise ValueError(f"expected a non-negative {name}, got {value} — number images, draws and steps from 0")
    if "/" in role or "/" in stream:
        raise ValueError(f"expected a role and a stream without '/', got {role!r} and {stream!r} — rename it")
    key = np.array([seed, _word(f"{role}/{stream}")], dtype=np.uint64)
    counter = np.array([0, image, draw, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
