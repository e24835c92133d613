"""Why a job failed, in one sentence: disk, permissions, memory, or the place in the code."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

# Libraries report the machine's errors as errors of their own, with the system's words in the text.
FULL = ("No space left", "StorageFull", "File too large", "FileTooLarge", "Disk quota exceeded", "QuotaExceeded")
FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN_NUMBERS = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def _place(error: BaseException) -> str:
    """The innermost line that belongs to no installed package."""
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if "/lib/python" not in frame.filename] or stack
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def sentence(error: BaseException) -> str:
    """`expected ..., got ... — do ...` for any error; a sentence of our own is left as it is."""
    text, number = str(error), getattr(error, "errno", None)
    file = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
    if number in FULL_NUMBERS or any(words in text for words in FULL):
        return (
            f"expected space for the outputs, got a full disk or a limit on file size{file} — free some or name a "
            "results folder on another disk; finished results are kept"
        )
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        return (
            f"expected enough memory, got {' '.join(text.split()) or 'none left'} — lower batch_size, "
            "gradient_batch_size, memory_bytes or the numbers of images and samples, or run fewer jobs at once"
        )
    if number in FORBIDDEN_NUMBERS:
        return f"expected a file that can be written and read, got {error.strerror}{file} — change its permissions"  # type: ignore[attr-defined]
    if text.startswith("expected ") or (isinstance(error, ValueError) and ": expected " in text):
        return text
    said = " ".join(f"{type(error).__name__}: {text}".split())
    return f"expected no error, got {said}{_place(error)} — correct the settings or the code, the log has the traceback"
