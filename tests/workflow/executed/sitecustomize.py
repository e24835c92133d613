"""Notes which project functions a Snakemake job executes; Python imports this at start when it is on PYTHONPATH."""

from __future__ import annotations

import atexit
import inspect
import json
import os
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGES = ("purification", "workflow_scripts")
seen: dict[CodeType, str] = {}


def note(frame: FrameType, event: str, argument: Any) -> None:
    seen.setdefault(frame.f_code, frame.f_globals.get("__name__") or "")


def write() -> None:
    sys.settrace(None)
    job = getattr(sys.modules["__main__"], "snakemake", None)
    if job is None:
        return
    functions = [(module, code) for code, module in seen.items() if code.co_flags & inspect.CO_OPTIMIZED]
    # the top-level name of `Class.method` and of `outer.<locals>.inner`
    names = {(module, code.co_qualname.partition(".")[0]) for module, code in functions}
    executed = sorted(name for name in names if name[0].partition(".")[0] in PACKAGES)
    record = {"rule": job.rule, "params": dict(job.params.items()), "executed": executed}
    folder = Path(os.environ["EXECUTED_FOLDER"])
    (folder / f"{job.rule}.{os.getpid()}.json").write_text(json.dumps(record, default=str))


if "EXECUTED_FOLDER" in os.environ:
    sys.settrace(note)
    atexit.register(write)
