"""What is wrong with a configuration file before its keys mean anything: unreadable, not YAML, a key given twice.

`python -m workflow_scripts.configuration_files FILE...` checks files before Snakemake reads them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml


def _place(path: Path, mark: yaml.Mark | None) -> str:
    shown = path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
    return f"{shown}, line {mark.line + 1}" if mark else str(shown)


def _duplicates(path: Path, node: yaml.Node | None, seen: set[int]) -> Iterator[str]:
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _duplicates(path, inner, seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, yaml.Mark] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in first:
                yield (
                    f"{_place(path, key.start_mark)}: expected every key once, got {key.value!r} again "
                    f"(first in line {first[key.value].line + 1}) — remove one, YAML would silently take the last"
                )
            elif isinstance(key, yaml.ScalarNode):
                first[key.value] = key.start_mark
            yield from _duplicates(path, value, seen)


def _yaml(text: str) -> str:
    """The text itself; JSON, which Snakemake also takes, without the tabs that YAML forbids."""
    try:
        json.loads(text)
    except ValueError:
        return text
    return text.replace("\t", " ")


def _syntax(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    said = str(getattr(error, "problem", None) or error).splitlines()[0]
    tab = "\\t" in said or "\t" in said
    advice = "indent with spaces, not with tabs" if tab else "correct this line or the one before it"
    return f"{_place(path, mark)}: expected valid YAML, got an error ({said}) — {advice}"


def _problems(path: Path) -> Iterator[str]:
    if not path.is_file():
        there = "a folder" if path.is_dir() else "no such file"
        yield f"{_place(path, None)}: expected a configuration file, got {there} — correct the path"
        return
    try:
        loader = yaml.SafeLoader(_yaml(path.read_text(encoding="utf-8")))
        node = loader.get_single_node()
        if node is not None:
            yield from _duplicates(path, node, set())
            loader.construct_document(node)
    except yaml.YAMLError as error:
        yield _syntax(path, error)
        return
    except OSError as error:
        yield f"{_place(path, None)}: expected a readable file, got an error ({error.strerror}) — allow reading"
        return
    except UnicodeDecodeError as error:
        yield f"{_place(path, None)}: expected UTF-8 text, got byte {error.object[error.start]:#x} — save it as UTF-8"
        return
    except (ValueError, RecursionError) as error:
        yield f"{_place(path, None)}: expected values YAML can hold, got an error ({error}) — correct the file"
        return
    if not isinstance(node, yaml.MappingNode):
        got = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(node), "an empty file")
        yield f"{_place(path, None)}: expected `key: value` pairs, got {got} — see config/default.yaml"


def file_problems(paths: Sequence[str | Path]) -> list[str]:
    """One sentence per thing that is wrong with the files, naming file and line; empty when all can be read."""
    return [sentence for path in dict.fromkeys(map(Path, paths)) for sentence in _problems(path)]


if __name__ == "__main__":
    sys.exit("\n".join(file_problems(sys.argv[1:])) or 0)
