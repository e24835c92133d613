"""Progress of long loops as ordinary log lines, readable in a terminal and in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger("purification")
INTERVAL = 5.0  # seconds between two lines


def track(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield the items and log how many are done and roughly how long the rest takes."""
    begin = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= INTERVAL or done == len(items):
            remaining = (now - begin) / done * (len(items) - done)
            logger.info("%s: %d/%d, %.0f s so far, about %.0f s left", label, done, len(items), now - begin, remaining)
            last = now
