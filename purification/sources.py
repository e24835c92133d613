"""Files a Python file of a user consists of: itself and what it imports from its own folder. Nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

OWN = frozenset({"purification", "workflow_scripts"})  # this project's packages are no siblings


def _imported(path: Path) -> set[str]:
    """Top-level names that a file imports absolutely, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names - OWN


def _files(folder: Path, name: str) -> list[Path]:
    """Files of module or package `name` in a folder; of a package all, imported or not."""
    package = folder / name
    if (package / "__init__.py").is_file():
        return sorted(package.rglob("*.py"))
    module = folder / f"{name}.py"
    return [module] if module.is_file() else []


def siblings(path: Path) -> dict[str, list[Path]]:
    """Module name -> its files, for every module in the folder of `path` that it imports, directly or not.

    Raises SyntaxError when a file is not Python.
    """
    found: dict[str, list[Path]] = {}
    waiting = [path]
    while waiting:
        for name in sorted(_imported(waiting.pop()) - found.keys()):
            files = [file for file in _files(path.parent, name) if file != path]
            if files:
                found[name] = files
                waiting += files
    return found


def source_files(path: Path) -> list[Path]:
    """The file and its siblings, in one order; only the file itself while it cannot be read as Python."""
    try:
        found = siblings(path)
    except (OSError, SyntaxError, ValueError):
        return [path]
    return [path, *sorted(file for files in found.values() for file in files)]


def defined_names(path: Path) -> Iterator[str]:
    """Names that the top level of a file defines or imports; "*" for a star import. Raises SyntaxError."""
    for node in ast.parse(path.read_bytes(), str(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif not isinstance(node, ast.Expr):
            yield "*"  # a name may be made in here
