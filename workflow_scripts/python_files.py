"""What is wrong with a Python file named in a configuration, found without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.configuration_schema import nearest

INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _names(node: ast.AST) -> Iterator[str]:
    """Names a module binds at its top level; "*" where it imports everything of another."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield child.name
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in child.names)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        if not isinstance(child, INNER):
            yield from _names(child)


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
    names = set(_names(tree))
    if factory not in names and "*" not in names:
        known = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        advice = nearest(factory, known) if known else "define it there"
        yield f"{key}.factory: expected a function of {path}, got {factory!r} — {advice}"
