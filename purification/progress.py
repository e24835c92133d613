"""Progress of long loops as ordinary log lines, readable in a terminal and in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger("purification")
INTERVAL = 5.0  # seconds between two lines at the least
SHARE = 0.05  # of the time so far between two lines at the least, so that the log of a long job stays short


def track(items: Sequence[T], label: str, first: int = 0) -> Iterator[T]:
    """Yield the items from number `first` on and log how many are done and roughly how long the rest takes."""
    begin = last = time.monotonic()
    if first:
        logger.info("%s: resuming at %d/%d", label, first, len(items))
    for done, item in enumerate(items[first:], start=first + 1):
        yield item
        now = time.monotonic()
        if now - last >= max(INTERVAL, SHARE * (now - begin)) or done == len(items):
            remaining = (now - begin) / (done - first) * (len(items) - done)
            logger.info("%s: %d/%d, %.0f s so far, about %.0f s left", label, done, len(items), now - begin, remaining)
            last = now
