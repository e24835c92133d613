"""What a job's code hash covers: everything its stage can reach with its settings, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workflow_scripts.code_digest import Project

STAGE = '''
"""A stage."""
from lib.tools import helper, unused
from lib import shapes
from lib.registry import make


def stage(settings):
    """What it does."""
    local = unused_name = 1  # a comment
    return helper(local) + shapes.area(make(settings))


if __name__ == "__main__":
    stage({})
'''
TOOLS = """
from lib.deep import CONSTANT as SCALE


class Base:
    field = 1

    def __init__(self):
        pass

    def method(self):
        return SCALE

    def other(self):
        return rarely()


class Foreign(dict):
    def called_by_others(self):
        return 1


def rarely():
    return 1


class Derived(Base):
    pass


def helper(x):
    return Derived().method() * x + len(Foreign())


def unused(x):
    return x
"""
SHAPES = """
def area(x, unused=None):
    return x


def perimeter(x):
    return x
"""
REGISTRY = """
from dataclasses import dataclass


def red(settings):
    return 1


def blue(settings):
    return paint(colour=settings["ink"])


def green(settings):
    return paint(colour="dark")


KINDS = {"red": red, "blue": blue, "green": green, "dyed": dyed}
COLOURS = {"dark": lambda: ink(), "light": lambda: wash()}


def ink():
    return 3


def wash():
    return 4


def paint(colour):
    if colour not in COLOURS:
        raise ValueError(f"expected one of {sorted(COLOURS)}, got {colour} — {perimeter}")
    return COLOURS[colour]()


def perimeter():
    return "only in an error"


def tint(*, shade):
    def inner(x, tone="pale"):
        return SHADES[shade](x)

    return inner


def through(*, shade):
    return tint(shade=shade)


SHADES = {"deep": lambda x: deepen(x), "pale": lambda x: fade(x)}


def deepen(x):
    return x


def fade(x):
    return x


def dyed(settings):
    return through(shade="deep")


def make(settings):
    return KINDS[settings["kind"]](settings)
"""
PASSES_ANOTHER = "return tint(shade=shade)", 'other = "pa" + "le"\n    return tint(shade=other)'
PASSES_BY_PLACE = "def through(*, shade)", "def through(shade)"
PASSES_A_DICTIONARY = 'through(shade="deep")', 'through(**{"shade": "pa" + "le"}) + tint(shade="deep")'
FILES = {
    "stages/__init__.py": "",
    "stages/one.py": STAGE,
    "lib/__init__.py": "",
    "lib/tools.py": TOOLS,
    "lib/shapes.py": SHAPES,
    "lib/registry.py": REGISTRY,
    "lib/deep.py": "CONSTANT = 2\nOTHER = 3\n",
    "lib/alone.py": "def alone():\n    return 1\n",
}
RED: dict[str, Any] = {"purifier": {"kind": "red"}}


def project(folder: Path, **changed: tuple[str, str]) -> Project:
    """The files above, with one replacement in each named file."""
    for name, source in FILES.items():
        old, new = changed.get(Path(name).stem, ("", ""))
        assert old in source
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.replace(old, new) if old else source)
    return Project(folder, ("lib", "stages"))


def reached(folder: Path, settings: Any) -> set[str]:
    return {".".join(item) for item in project(folder).reached("stages.one", settings)}


def test_names_are_followed_through_imports_aliases_classes_and_tables(tmp_path: Path) -> None:
    assert reached(tmp_path, RED) == {
        *("stages.one.__main__", "stages.one.stage", "lib.tools.helper", "lib.tools.Derived", "lib.tools.Base"),
        *("lib.tools.Base.method", "lib.tools.Foreign"),
        *("lib.deep.CONSTANT", "lib.shapes.area", "lib.registry.make", "lib.registry.KINDS.red", "lib.registry.red"),
    }


@pytest.mark.parametrize(
    ("settings", "functions"),
    [
        ({"kind": "red"}, {"red"}),
        ([{"deep": ({"kind": "red"},)}], {"red"}),
        ({"kind": "unheard of"}, set()),
        ({}, {"red", "blue", "green", "paint", "ink", "wash"}),
        ({"kind": "green"}, {"green", "paint", "ink", "wash"}),
        ({"kind": "green", "colour": "dark"}, {"green", "paint", "ink"}),
        ({"kind": "green", "colour": "light"}, {"green", "paint", "ink", "wash"}),
        ({"kind": "blue", "ink": "light"}, {"blue", "paint", "wash"}),
        ({"kind": "blue", "colour": "light", "ink": "dark"}, {"blue", "paint", "ink", "wash"}),
        ({"kind": "blue"}, {"blue", "paint", "ink", "wash"}),
        ([{"kind": "red"}, {"kind": "green"}], {"red", "green", "paint", "ink", "wash"}),
    ],
)
def test_a_table_reaches_the_entries_that_the_settings_choose(
    tmp_path: Path, settings: Any, functions: set[str]
) -> None:
    names = {"red", "blue", "green", "paint", "ink", "wash"}
    found = {item.removeprefix("lib.registry.") for item in reached(tmp_path, settings)}
    assert found & names == functions


def test_constants_passed_as_a_keyword_only_parameter_choose(tmp_path: Path) -> None:
    found = reached(tmp_path, {"kind": "dyed"})
    assert {"lib.registry.SHADES.deep", "lib.registry.deepen"} <= found
    assert not {"lib.registry.SHADES.pale", "lib.registry.fade"} & found


@pytest.mark.parametrize("change", [PASSES_ANOTHER, PASSES_BY_PLACE, PASSES_A_DICTIONARY])
def test_a_parameter_that_may_get_other_values_reaches_the_whole_table(tmp_path: Path, change: tuple[str, str]) -> None:
    found = project(tmp_path, registry=change).reached("stages.one", {"kind": "dyed"})
    assert {("lib.registry", "SHADES", "deep"), ("lib.registry", "SHADES", "pale")} <= {*found}


SAME = {
    "comment": {"one": ("# a comment", "# another")},
    "docstring": {"one": ('"""What it does."""', '"""Does it."""')},
    "layout": {"tools": ("Derived().method() * x", "(Derived()\n            .method() * x)")},
    "unused function": {"tools": ("def unused(x):\n    return x", "def unused(x):\n    return 2 * x")},
    "unused function of a module used as a whole": {"shapes": ("def perimeter(x):\n    return x", "")},
    "method that nothing names": {"tools": ("return rarely()", "return -rarely()")},
    "function of a method that nothing names": {"tools": ("rarely():\n    return 1", "rarely():\n    return 2")},
    "unused constant": {"deep": ("OTHER = 3", "OTHER = 4")},
    "unused entry": {"registry": ('"blue": blue', '"violet": blue')},
    "function of an unused entry": {"registry": ("return paint(colour=settings", "return -paint(colour=settings")},
    "statement of a module that is not imported": {"alone": ("def alone", "print()\n\n\ndef alone")},
    "unrelated module": {"alone": ("return 1", "return 2")},
    "order of functions": {"registry": ('KINDS = {"red": red, "blue": blue', 'KINDS = {"blue": blue, "red": red')},
}
DIFFERENT = {
    "stage": {"one": ("= 1", "= 2")},
    "main block": {"one": ("stage({})", "stage({1: 2})")},
    "function": {"tools": ("method() * x", "method() + x")},
    "method of a class with a base from elsewhere": {
        "tools": ("by_others(self):\n        return 1", "by_others(self):\n        return 2")
    },
    "dunder method": {"tools": ("        pass\n\n    def method", "        return None\n\n    def method")},
    "class attribute": {"tools": ("field = 1", "field = 2")},
    "method twice": {"tools": ("def other(self):", "def method(self):")},
    "base class": {"tools": ("return SCALE", "return -SCALE")},
    "default": {"shapes": ("unused=None", "unused=1")},
    "constant": {"deep": ("CONSTANT = 2", "CONSTANT = 5")},
    "alias": {"tools": ("CONSTANT as SCALE", "OTHER as SCALE")},
    "chosen entry": {"registry": ('"red": red', '"red": blue')},
    "statement of an imported module": {"deep": ("OTHER = 3", "OTHER = 3\nprint()")},
    "second binding": {"deep": ("OTHER = 3", "CONSTANT = 3")},
    "change in place": {"deep": ("OTHER = 3", "CONSTANT += 3")},
}


@pytest.mark.parametrize("change", SAME)
def test_what_a_job_cannot_reach_does_not_change_its_hash(tmp_path: Path, change: str) -> None:
    before = project(tmp_path / "a").digest("stages.one", RED)
    assert project(tmp_path / "b", **SAME[change]).digest("stages.one", RED) == before


@pytest.mark.parametrize("change", DIFFERENT)
def test_what_a_job_can_reach_changes_its_hash(tmp_path: Path, change: str) -> None:
    before = project(tmp_path / "a").digest("stages.one", RED)
    assert project(tmp_path / "b", **DIFFERENT[change]).digest("stages.one", RED) != before


def test_imports_that_cannot_be_followed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected absolute imports of names"):
        project(tmp_path, alone=("def alone", "from lib.tools import *\n\n\ndef alone"))
