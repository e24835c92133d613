"""Locks that end with the process that holds them, so that none is ever left behind."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems that do not know them


def try_lock(file: IO[str]) -> bool:
    """Whether the file could be locked; the lock lasts until it is closed or its process ends in any way.

    Raises ValueError on a file system without locks: jobs that run beside each other would not see each other there.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            raise ValueError(
                f"expected a file system with locks (flock), got {error.strerror} at {file.name} — have it mounted "
                "with them (Lustre: -o flock, NFS: a lock service) or set a `results` folder elsewhere"
            ) from None
        raise
    return True


@contextmanager
def alone(path: Path, waiting: IO[str]) -> Iterator[None]:
    """Be the only process that holds the lock file `path`; as long as another one does, say so and wait for it."""
    with path.open("a") as file:
        if not try_lock(file):
            waiting.write(f"waiting for another process that is still at work on this job ({path})\n")
            waiting.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Run:
    """One run of the workflow in a results folder: a second one at the same time is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = self._last()

    def _last(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def start(self) -> None:
        """Hold the folder until this process ends.

        Raises ValueError while another run holds it, or when one did since `self` was made: what is to be done was
        planned before that and may be wrong.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a+")
        if not try_lock(self.file):
            raise ValueError(
                f"expected no other run in {self.path.parent.parent}, got process {self._last().split()[0]} — "
                "wait for it, end it, or set another `results` folder"
            )
        if self._last() != self.seen:
            raise ValueError(
                f"expected {self.path.parent.parent} as it was when this run was planned, got a run in between — "
                "start this one again"
            )
        self.file.truncate(0)
        self.file.write(f"{os.getpid()} {os.urandom(8).hex()}\n")
        self.file.flush()
