"""What is wrong with a Python file named in a configuration, found without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from purification.sources import defined_names
from workflow_scripts.configuration_schema import nearest


def python_file_problems(key: str, entry: dict[str, str]) -> Iterator[str]:
    """At most one sentence about `path` and `factory` of an entry; `key` is the entry's."""
    path, factory = Path(entry["path"]), entry["factory"]
    if "\0" in entry["path"] or not path.is_file():
        yield f"{key}.path: expected a Python file, got none at {path} — correct the path"
        return
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else error
        yield f"{key}.path: expected Python code in {path}{line}, got an error ({said}) — correct the file"
        return
    except OSError as error:
        yield f"{key}.path: expected a readable file at {path}, got an error ({error.strerror}) — allow reading"
        return
    names = set(defined_names(path))
    if factory not in names and "*" not in names:
        known = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        advice = nearest(factory, known) if known else "define it there"
        yield f"{key}.factory: expected a function of {path}, got {factory!r} — {advice}"
