"""Whether networks can run on this machine, asked before a run starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECK = "import sys; from purification.models.placing import Place; Place(*sys.argv[1:]).prepare()"


def device_problems(config: Mapping[str, Any]) -> list[str]:
    """A sentence when torch, asked in a process of its own, does not find the device; the CPU is always there."""
    if config["device"] == "cpu":
        return []
    command = [sys.executable, "-c", CHECK, config["device"], config["precision"]]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    return [line.removeprefix("ValueError: ") for line in done.stderr.splitlines()[-1:]] if done.returncode else []
