"""What an attacker knows of the defence's randomness, and the randomness under which its images are then judged.

Knowing a stream is having it frozen: attacker and evaluation read it from draw 0 of the role "fixed". What is not known
is drawn anew, by the attack and by the evaluation from roles of their own (deterministic white-box variants, ADDT
arXiv 2404.14309 section 4). Streams of other names than "forward" and "reverse" are known with `both` and `semi` only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from purification.noise import FORWARD, REVERSE, NoiseSource

# none     nothing: EOT over fresh draws, judged on fresh draws
# forward  the forward noise; the reverse noise is drawn anew in every step and at evaluation
# reverse  the reverse noise; the forward noise is drawn anew
# both     all of it: one frozen draw, a deterministic defence
# semi     the `pool` draws among which the defence picks one at random: EOT over them, judged on all of them
KNOWLEDGE: dict[str, Callable[[NoiseSource, int], NoiseSource]] = {
    "none": lambda fresh, pool: fresh,
    "forward": lambda fresh, pool: replace(fresh, held=(FORWARD,)),
    "reverse": lambda fresh, pool: replace(fresh, held=(REVERSE,)),
    "both": lambda fresh, pool: replace(fresh, role="fixed", pool=1),
    "semi": lambda fresh, pool: replace(fresh, role="fixed", pool=pool),
}


def shared_noise(fresh: NoiseSource, *, knowledge: str, pool: int) -> NoiseSource:
    """Noise of somebody with this knowledge; what is not known comes from `fresh`.

    pool  number of draws the defence picks from ("semi" only), >= 1; with one, "semi" is "both"
    """
    if knowledge not in KNOWLEDGE:
        raise ValueError(f"expected a knowledge among {sorted(KNOWLEDGE)}, got {knowledge!r}")
    if pool < 1:
        raise ValueError(f"expected a pool of at least one draw, got {pool} — raise it")
    return KNOWLEDGE[knowledge](fresh, pool)
