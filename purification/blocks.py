"""Contiguous blocks of images, which jobs of their own can work on: an image's result does not depend on the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """One of `count` consecutive pieces of a list of images, numbered from 1, whose lengths differ by at most one."""

    number: int
    count: int

    def start(self, total: int) -> int:
        """Position of its first image among `total`."""
        return total * (self.number - 1) // self.count

    def stop(self, total: int) -> int:
        """Position after its last image."""
        return total * self.number // self.count

    def within(self, total: int, first: int) -> int:
        """How many of the first `first` images of `total` are its own; they are its first ones."""
        return min(max(first - self.start(total), 0), self.stop(total) - self.start(total))


WHOLE = Block(1, 1)
