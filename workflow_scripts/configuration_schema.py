"""What a schema finds wrong with a configuration, in sentences `key: expected ..., got ... — do ...`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.protocols import Validator

Path = tuple[str | int, ...]
NOUNS = {
    "integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false",
    "array": "a list", "object": "keys with values",
}  # fmt: skip
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
NAME = "a name of at most 100 lower-case letters, digits and underscores, a letter first"
FACTS = {"minItems": "entries", "minProperties": "entries", "minLength": "characters"}


def _is_whole(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_types = Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", _is_whole
)  # JSON's 5.0 is whole, Python's range(5.0) not
Strict = validators.extend(Draft202012Validator, type_checker=_types)  # type: ignore[no-untyped-call]


def dotted(path: Iterable[str | int]) -> str:
    """("run", "sweep", 2) -> run.sweep[2]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part or repr(part)}" for part in path).removeprefix(
        "."
    )


def nearest(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """What to write instead of an unknown name: the nearest one, else `otherwise`, else all of them."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise or f"choose one of {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as a person wrote it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {inner}' for key, inner in value.items())}}}"[:80]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _expected(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "pattern" in schema:
        return NAME
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema)
    return f"{NOUNS[schema['type']]} {bounds}".rstrip()


def _retype(value: Any, wanted: str) -> str:
    """How to write a value of the wrong type."""
    if value is None:
        return "give it a value, or remove the line to keep the default"
    if wanted in ("string", "array") and isinstance(value, bool):
        return "YAML reads yes, no, on and off as true and false: put the word in quotes"
    if wanted in ("integer", "number") and isinstance(value, str):
        if re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", value):
            mantissa, _, exponent = value.lower().partition("e")
            return f"YAML reads it as text: write {mantissa}.0e{int(exponent):+d}"
        return "write a number, without quotes"
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    advice = {
        "array": "write a list, as in [a, b]",
        "object": "write `key: value` pairs",
        "boolean": "write true or false",
    }
    return advice.get(wanted, f"write {NOUNS[wanted]}")


def _unusual(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """What YAML can say and a schema does not look at: keys that are no text, dates, NaN and infinity."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield (
                    (*path, str(key)),
                    f"expected a text as key, got {shown(key)} — put the key in quotes or rename it",
                )
            yield from _unusual(inner, (*path, str(key)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unusual(inner, (*path, number))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"expected a finite number, got {value} — write the number itself"
    elif not isinstance(value, (str, int, float, bool, type(None))):
        yield path, f"expected a text or a number, got the {type(value).__name__} {value} — put it in quotes"


def _allowed(validator: Validator, schema: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """Keys of an entry without those that its kind or sampler forbids."""
    forbidden = {
        key
        for branch in schema.get("allOf", [])
        if validator.evolve(schema=branch["if"]).is_valid(entry)
        for key, rule in branch["then"].get("properties", {}).items()
        if rule == {"not": {}}
    }
    return [key for key in schema["properties"] if key not in forbidden]


def _variant(error: Any, owner: Any) -> str:
    """ "with sampler 'ddpm'" where what is allowed depends on it."""
    if "then" in error.absolute_schema_path and isinstance(owner, Mapping):
        for key in ("sampler", "kind"):
            if key in owner:
                return f" with {key} {owner[key]!r}"
    return ""


def _of_keys(error: Any, validator: Validator, path: Path, owner: Any) -> Iterator[tuple[Path, str]]:
    """Keys that are missing, unknown or badly named; `owner` holds the mapping that has them."""
    entry, variant = error.instance, _variant(error, error.instance)
    if error.validator == "required":
        others = {str(name) for name in owner} - {str(path[-1])} if path and isinstance(owner, Mapping) else set()
        meant = nearest(path[-1], others, "add the key") if "kind" in error.validator_value else "add the key"
        for key in error.validator_value:
            if key not in entry:
                yield (*path, key), f"expected a value{variant}, got none — {meant}"
    elif error.validator == "additionalProperties":
        allowed = _allowed(validator, error.schema, entry)
        for key in entry:
            if key not in error.schema["properties"]:
                some = f"one of {', '.join(allowed)}" if len(allowed) < 12 else "one that config/schema.yaml describes"
                advice = nearest(key, allowed, f"remove it, or use {some}")
                yield (*path, str(key)), f"expected a known key{variant}, got {shown(key)} — {advice}"
    elif error.validator == "enum":
        yield (*path, entry), f"expected a known key, got {entry!r} — {nearest(entry, error.validator_value)}"
    else:
        yield (*path, str(entry)), f"expected {NAME}, got {shown(entry)} — rename it"


def _of_value(error: Any, owner: Any) -> str:
    kind, value, limit = str(error.validator), error.instance, error.validator_value
    variant = _variant(error, owner)
    if kind == "type":
        return f"expected {_expected(error.schema)}, got {shown(value)} — {_retype(value, limit)}"
    if kind in BOUNDS:
        advice = "lower it" if "max" in kind.lower() else "raise it"
        return f"expected {_expected(error.schema)}, got {shown(value)} — {advice}"
    if kind == "enum":
        return (
            f"expected {_expected(error.schema)}, got {shown(value)} — {nearest(value, map(str, limit), 'choose one')}"
        )
    if kind == "const":
        return f"expected {limit!r}{variant}, got {shown(value)} — write {limit}"
    if kind == "not":
        return f"expected no such key{variant}, got {shown(value)} — remove it"
    if kind == "uniqueItems":
        repeated = next(item for number, item in enumerate(value) if item in value[:number])
        return f"expected every entry once, got {shown(repeated)} twice — remove one"
    if kind == "contains":
        return f"expected {limit['const']} among the entries, got {shown(value)} — add it"
    if kind in FACTS:
        return f"expected at least {limit} {FACTS[kind]}, got {shown(value)} — add some"
    return f"expected {_expected(error.schema)}, got {shown(value)} — rename it"


def _at(config: Any, path: Path) -> Any:
    for part in path:
        config = config[part]
    return config


def schema_problems(config: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """One sentence per key that the schema refuses; empty when it accepts the configuration."""
    validator, found = Strict(schema), dict[str, str]()
    pairs: list[tuple[Path, str]]
    for path, sentence in _unusual(config, ()):
        found.setdefault(dotted(path), sentence)
    for error in validator.iter_errors(config):
        path = tuple(error.absolute_path)
        if error.validator in ("required", "additionalProperties") or "propertyNames" in error.absolute_schema_path:
            pairs = list(_of_keys(error, validator, path, _at(config, path[:-1])))
        else:
            pairs = [(path, _of_value(error, _at(config, path[:-1])))]
        for key, sentence in pairs:
            found.setdefault(dotted(key), sentence)
    return [f"{key}: {sentence}" for key, sentence in found.items()]
