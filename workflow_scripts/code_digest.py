"""Which project code a job runs: the top-level definitions its stage script can reach, and a hash of them.

Names are followed from the script through every project module. A method counts when its class is reached and its name
occurs as an attribute; dunder methods, and all methods of a class with a base from elsewhere, count with the class. A
lookup `TABLE[settings["key"]]`, `TABLE[key]` or `TABLE[self.key]` in a table of string keys reaches only the entries
that the job's settings hold under `key`, and those that the code passes as `key="..."` or as `key=other`, where `other`
is a setting too; where `key` is a keyword-only parameter, the passed values are enough. When the values cannot be
known so, it reaches all. Comments, layout, docstrings and what errors say do not count. Lookups by computed strings
(getattr, globals) cannot be followed and must not be used; a test compares what jobs execute with what is reached.
"""

from __future__ import annotations

import ast
import hashlib
import symtable
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

Item = tuple[str, str]  # module, name of a top-level definition ("" for the statements of the module itself)
Chosen = tuple[str, str, str, bool]  # module, table, key, key is a keyword-only parameter
Keyword = tuple[str, str, str]  # name, "is" | "from" | "through" (a keyword-only parameter) | "unknown", value
MAIN = "__main__"


@dataclass
class References:
    """What one statement reads: global names, attributes of these and of anything, lookups in tables, keywords."""

    names: set[str] = field(default_factory=set)
    attributes: set[tuple[str, str]] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)
    lookups: set[tuple[str, str, bool]] = field(default_factory=set)  # table, key, key is a keyword-only parameter
    keywords: set[Keyword] = field(default_factory=set)
    words: set[str] = field(default_factory=set)  # string constants


class _Reader(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found = References()
        self.parameters: list[dict[str, bool]] = []  # of the enclosing functions: name -> keyword-only

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        others = [*node.args.posonlyargs, *node.args.args]
        own = {part.arg: False for part in others} | {part.arg: True for part in node.args.kwonlyargs}
        self.parameters.append(own)
        self._visit_parts(node)
        self.parameters.pop()

    def _visit_parts(self, node: ast.FunctionDef) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        for part in (node.target, node.value):
            if part is not None:
                self.visit(part)

    def visit_Name(self, node: ast.Name) -> None:
        self.found.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.found.methods.add(node.attr)
        if isinstance(node.value, ast.Name):
            self.found.attributes.add((node.value.id, node.attr))
        else:
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        key = _key(node.slice)
        if isinstance(node.value, ast.Name) and key:
            self.found.lookups.add((node.value.id, key, self._keyword_only(node.slice)))
        else:
            self.visit(node.value)
        self.visit(node.slice)

    def visit_Compare(self, node: ast.Compare) -> None:
        """`key in TABLE` depends on the key alone, as long as the key is looked up too."""
        self.visit(node.left)
        for operator, operand in zip(node.ops, node.comparators, strict=True):
            if not (isinstance(operator, ast.In | ast.NotIn) and isinstance(operand, ast.Name)):
                self.visit(operand)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.words.add(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is no result."""

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg and isinstance(node.value, ast.Constant):
            self.found.keywords.add((node.arg, "is", str(node.value.value)))
        elif node.arg:
            key = _key(node.value)
            kind = "through" if self._keyword_only(node.value) else "from" if key else "unknown"
            self.found.keywords.add((node.arg, kind, key or ""))
        self.visit(node.value)

    def _keyword_only(self, value: ast.expr) -> bool:
        """A name is the keyword-only parameter of the innermost enclosing function that has such a parameter."""
        name = value.id if isinstance(value, ast.Name) else ""
        return next((own[name] for own in reversed(self.parameters) if name in own), False)


def _key(index: ast.expr) -> str | None:
    """Setting that a table is looked up with."""
    match index:
        case ast.Subscript(value=ast.Name(id="settings"), slice=ast.Constant(value=str(key))):
            return key
        case ast.Name(id=key) | ast.Attribute(value=ast.Name(), attr=key):
            return key
    return None


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    top = table.get_type() == "module"
    yield from (symbol.get_name() for symbol in table.get_symbols() if top or symbol.is_global())
    for child in table.get_children():
        yield from _global_names(child)


def references(statement: ast.AST, source: str) -> References:
    """What a statement reads at module level; names local to its functions are left out."""
    reader = _Reader()
    reader.visit(statement)
    known = set(_global_names(symtable.symtable(source, "<definition>", "exec")))
    found = reader.found
    return References(
        found.names & known,
        {pair for pair in found.attributes if pair[0] in known},
        found.methods,
        {lookup for lookup in found.lookups if lookup[0] in known},
        found.keywords,
        found.words,
    )


def _test_of(node: ast.stmt) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            continue
        node.body = [  # type: ignore[attr-defined]
            part
            for number, part in enumerate(body)
            if number or not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        ] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return tree


def _bound(node: ast.stmt) -> list[str]:
    """Names a top-level definition binds; empty for every other statement."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            names = [part for target in targets for part in ast.walk(target) if not isinstance(part, ast.expr_context)]
            plain = all(isinstance(part, ast.Name | ast.Tuple) for part in names)
            return [part.id for part in names if isinstance(part, ast.Name)] if plain else []
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


class Module:
    """Top-level definitions, other statements and imports of one source file."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        body = [node for node in _without_docstrings(ast.parse(source)).body if "TYPE_CHECKING" not in _test_of(node)]
        self.main = [node for node in body if MAIN in _test_of(node)]
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.statements: list[ast.stmt] = []
        for node in body:
            if node in self.main or isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for bound in _bound(node):
                self.definitions.setdefault(bound, []).append(node)
            if not _bound(node):
                self.statements.append(node)
        self.imports = dict(_imports(body))

    @cached_property
    def tables(self) -> dict[str, dict[str, ast.expr]]:
        """Dictionaries of this module whose keys are all strings."""
        found = {}
        for name, nodes in self.definitions.items():
            value = getattr(nodes[0], "value", None) if len(nodes) == 1 else None
            if isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys):
                found[name] = {
                    ast.literal_eval(key): part for key, part in zip(value.keys, value.values, strict=True) if key
                }
        return found


def _imports(body: Iterable[ast.stmt]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Local name -> (module, name in it, or "" for the module itself)."""
    for node in (part for statement in body for part in ast.walk(statement)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname or alias.name.partition(".")[0]), (alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*" or node.level:
                    raise ValueError(f"expected absolute imports of names, got {ast.unparse(node)!r} — name them")
                yield alias.asname or alias.name, (node.module or "", alias.name)


def _values(settings: Any, key: str) -> Iterator[str]:
    """Strings that stand under `key` anywhere in settings."""
    if isinstance(settings, Mapping):
        if isinstance(settings.get(key), str):
            yield settings[key]
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for part in settings:
            yield from _values(part, key)


class Project:
    """Source files of some packages under one folder."""

    def __init__(self, root: Path, packages: Iterable[str]) -> None:
        self.modules: dict[str, Module] = {}
        for package in packages:
            for path in sorted((root / package).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                self.modules[name] = Module(name, path.read_text())
        self._read: dict[ast.AST, tuple[str, References]] = {}
        self._classes: dict[ast.ClassDef, tuple[ast.ClassDef, dict[str, ast.stmt]]] = {}

    def digest(self, script: str, settings: Any) -> str:
        """Hash (16 hex digits) of all that `script` reaches with these settings."""
        parts = sorted(self.reached(script, settings).items())
        return hashlib.sha256("\n".join(f"{item} {text}" for item, text in parts).encode()).hexdigest()[:16]

    def reached(self, script: str, settings: Any) -> dict[tuple[str, ...], str]:
        """(module, name) or (module, table, key) of everything `script` reaches -> its source, normalised."""
        return _Search(self, script, settings).run()

    def read(self, node: ast.AST) -> tuple[str, References]:
        """Normalised source of a statement and what it reads."""
        if node not in self._read:
            source = ast.unparse(node)
            self._read[node] = source, references(node, source)
        return self._read[node]

    def taken_apart(self, node: ast.ClassDef) -> tuple[ast.ClassDef, dict[str, ast.stmt]]:
        """A class without its methods, and the methods that run only when called by name."""
        if node not in self._classes:
            named = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
            once = {name for name in named if named.count(name) == 1 and not name.startswith("__")}
            methods: dict[str, ast.stmt] = {
                part.name: part for part in node.body if isinstance(part, ast.FunctionDef) and part.name in once
            }
            kept = [part for part in node.body if part not in methods.values()]
            shell = ast.ClassDef(**{**dict(ast.iter_fields(node)), "body": kept or [ast.Pass()]})
            self._classes[node] = shell, methods
        return self._classes[node]


class _Search:
    """Follows references until nothing new is found."""

    def __init__(self, project: Project, script: str, settings: Any) -> None:
        self.project, self.settings = project, settings
        self.found: dict[tuple[str, ...], str] = {}
        self.lookups: set[Chosen] = set()
        self.methods: dict[tuple[str, str, str], ast.stmt] = {}  # of reached classes
        self.attributes: set[str] = set()
        self.keywords: set[Keyword] = set()
        self.words: set[str] = set()
        self.executed: set[str] = set()
        self.script = script

    def run(self) -> dict[tuple[str, ...], str]:
        self._execute(self.script)
        for node in self.project.modules[self.script].main:
            self._take((self.script, MAIN), self.script, node)
        before = -1
        while before != len(self.found):
            before = len(self.found)
            for lookup in sorted(self.lookups):
                self._look_up(*lookup)
            for item, method in list(self.methods.items()):
                if item not in self.found and item[2] in self.attributes:
                    self._take(item, item[0], method)
        return self.found

    def _execute(self, name: str) -> None:
        """Importing a module runs its statements and those of all modules it imports, packages first."""
        if name in self.executed or name not in self.project.modules:
            return
        self.executed.add(name)
        self._execute(name.rpartition(".")[0])
        module = self.project.modules[name]
        for target, attribute in module.imports.values():
            self._execute(target)
            self._execute(f"{target}.{attribute}")
        for number, node in enumerate(module.statements):
            self._take((name, f"statement {number}"), name, node)

    def _take(self, item: tuple[str, ...], module: str, node: ast.AST) -> None:
        source, read = self.project.read(node)
        self.found[item] = self.found.get(item, "") + source
        self.keywords |= read.keywords
        self.attributes |= read.methods
        self.words |= read.words
        for name in sorted(read.names):
            self._follow(module, name)
        for name, attribute in sorted(read.attributes):
            self._follow(module, name, attribute)
        for name, key, keyword_only in sorted(read.lookups):
            home, table = self._resolve(module, name)
            if home and table in self.project.modules[home].tables:
                self.lookups.add((home, table, key, keyword_only))
            else:
                self._follow(module, name)

    def _resolve(self, module: str, name: str) -> Item:
        """Module and name of a definition; ("", "") when it is not the project's."""
        here = self.project.modules[module]
        if name in here.definitions:
            return module, name
        target, attribute = here.imports.get(name, ("", ""))
        if not attribute or f"{target}.{attribute}" in self.project.modules or target not in self.project.modules:
            return "", ""
        return self._resolve(target, attribute)

    def _module(self, module: str, name: str) -> str:
        """Project module that a name stands for, or ""."""
        target, attribute = self.project.modules[module].imports.get(name, ("", ""))
        full = f"{target}.{attribute}" if attribute else target
        return full if full in self.project.modules else ""

    def _follow(self, module: str, name: str, attribute: str | None = None) -> None:
        if inner := self._module(module, name):
            wanted = self.project.modules[inner].definitions if attribute is None else [attribute]
            for definition in wanted:
                self._follow(inner, definition)
            return
        home, found = self._resolve(module, name)
        if home and (home, found) not in self.found:
            self.found[home, found] = ""
            for node in self.project.modules[home].definitions[found]:
                if isinstance(node, ast.ClassDef) and self._is_own(home, node):
                    shell, methods = self.project.taken_apart(node)
                    self.methods |= {(home, found, name): method for name, method in methods.items()}
                    node = shell
                self._take((home, found), home, node)

    def _is_own(self, module: str, node: ast.ClassDef) -> bool:
        """All bases are the project's: nothing from elsewhere calls its methods by name."""
        return all(isinstance(base, ast.Name) and self._resolve(module, base.id)[0] for base in node.bases)

    def _look_up(self, module: str, table: str, key: str, keyword_only: bool) -> None:
        entries = self.project.modules[module].tables[table]
        chosen = self._chosen(key, set())
        if chosen is None and keyword_only:
            chosen = self._constants(key)
        for entry in sorted(entries if chosen is None else chosen & {*entries}):
            if (module, table, entry) not in self.found:
                self._take((module, table, entry), module, entries[entry])

    def _chosen(self, key: str, seen: set[str]) -> set[str] | None:
        """Values a key can take in this job; None when they cannot be known."""
        seen.add(key)
        values = {*_values(self.settings, key)}
        known = bool(values)
        for name, kind, value in self.keywords:
            passes = kind in ("from", "through")
            if name != key or (passes and value in seen):
                continue
            more = {value} if kind == "is" else self._chosen(value, seen) if passes else None
            if more is None:
                return None
            values, known = values | more, known or passes
        return values if known else None

    def _constants(self, key: str) -> set[str] | None:
        """Values of a keyword-only parameter that the code passes as constants alone; None where it may get others.

        A call f(**options) can pass it only from a dictionary whose keys are settings, or words of the code.
        """
        passed = [(kind, value) for name, kind, value in self.keywords if name == key]
        values = {value for kind, value in passed if kind == "is"}
        only = all(kind == "is" or (kind == "through" and value == key) for kind, value in passed)
        return values if values and only and key not in self.words else None
