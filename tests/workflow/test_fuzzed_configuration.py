"""Any edit of the default configuration is refused in sentences that name it, or plans; nothing else can happen."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.workflow.conftest import ROOT, SNAKEMAKE, copy_project
from workflow_scripts.configuration import problems
from workflow_scripts.configuration_schema import dotted

DEFAULT = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
SENTENCE = re.compile(r"(?P<key>\S.*?): expected .+, got .+ — .+", re.DOTALL)
Path = tuple[str | int, ...]
PLANS = 12
bounded = settings(derandomize=True, database=None, deadline=None)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place of a configuration but its root."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from paths(below, (*path, key))


def at(config: Any, path: Path) -> Any:
    for key in path:
        config = config[key]
    return config


PATHS = list(paths(DEFAULT))
ALIKE = {at(DEFAULT, p): {p[-1]} for p in PATHS if isinstance(at(DEFAULT, p), str) and isinstance(p[-1], str)}
NAMES = sorted(
    {str(key) for path in PATHS for key in path} | {at(DEFAULT, p) for p in PATHS if isinstance(at(DEFAULT, p), str)}
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2000),
    st.sampled_from([10**30, -(10**30), 2**63]),
    st.floats(),
    st.floats(0, 2),
    st.sampled_from(NAMES),
    st.text(max_size=5),
    st.lists(st.sampled_from(NAMES) | st.integers(-1, 40), max_size=8),
    st.dictionaries(
        st.sampled_from(NAMES) | st.integers(0, 2), st.integers(-1, 40) | st.sampled_from(NAMES), max_size=4
    ),
    st.sampled_from(PATHS).map(lambda path: copy.deepcopy(at(DEFAULT, path))),
    st.dates(),
)


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """The default configuration with one to three places deleted, replaced, scaled, added or reordered."""
    config = copy.deepcopy(DEFAULT)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PATHS))
        try:
            owner, key = at(config, path[:-1]), path[-1]
            value = owner[key]
        except (KeyError, IndexError, TypeError):
            continue
        edit = draw(st.sampled_from(["delete", "replace", "replace", "scale", "add", "shuffle"]))
        if edit == "delete":
            del owner[key]
        elif edit == "replace":
            owner[key] = draw(VALUES)
        elif edit == "scale" and isinstance(value, (int, float)):
            owner[key] = value * draw(st.sampled_from([-1, 0, 0.5, 2, 3, 1000]))
        elif edit == "shuffle" and isinstance(value, list):
            owner[key] = draw(st.permutations(value))[: draw(st.integers(0, len(value)))]
        elif isinstance(owner, dict):
            owner[draw(st.sampled_from(NAMES) | st.text(max_size=4))] = draw(VALUES)
        elif isinstance(owner, list):
            owner.append(draw(VALUES))
    return config


def near(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, most of them plausible."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        return st.sampled_from([0, 1, 2, 3, 5, 16, 17, 50, 200, 400, 1001, value - 1, value + 1, 2 * value])
    if isinstance(value, float):
        return st.sampled_from([0.0, 0.01, 0.5, 1.0, value / 2, 2 * value, -value])
    if isinstance(value, str):
        alike = sorted({at(DEFAULT, p) for p in PATHS if p[-1] in ALIKE.get(value, ())})
        return st.sampled_from(alike or NAMES)
    return st.permutations(value).flatmap(
        lambda all_: st.integers(0, len(all_)).map(lambda n: all_[: len(all_) - n // 4])
    )


@st.composite
def nearby(draw: st.DrawFn) -> dict[str, Any]:
    """The default configuration with one to three values replaced by plausible ones or entries removed."""
    config = copy.deepcopy(DEFAULT)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        try:
            owner = at(config, path[:-1])
            value = owner[path[-1]]
        except (KeyError, IndexError):
            continue
        if isinstance(value, dict):
            value.pop(draw(st.sampled_from(sorted(value))) if value else None, None)
        else:
            owner[path[-1]] = draw(near(value))
    return config


def check(config: dict[str, Any]) -> None:
    before = repr(config)
    found = problems(config)
    assert repr(config) == before
    places = {"", *(dotted(path) for tree in (DEFAULT, config) for path in paths(tree))}
    for sentence in found:
        match = SENTENCE.fullmatch(sentence)
        assert match, sentence
        assert match["key"] in places or match["key"].rpartition(".")[0] in places, sentence
    assert len(found) == len(set(found))


@given(changed())
@settings(bounded, max_examples=300)
def test_a_changed_configuration_is_refused_in_sentences_or_accepted(config: dict[str, Any]) -> None:
    check(config)


@given(nearby())
@settings(bounded, max_examples=500)
def test_a_plausible_configuration_is_refused_in_sentences_or_accepted(config: dict[str, Any]) -> None:
    check(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    return copy_project(tmp_path_factory.mktemp("fuzzed"))


@given(nearby())
@settings(bounded, max_examples=PLANS, suppress_health_check=list(HealthCheck))
def test_what_is_accepted_is_planned(folder: FilePath, config: dict[str, Any]) -> None:
    assume(config != DEFAULT and not problems(config))
    (folder / "config" / "default.yaml").write_text(yaml.safe_dump(config))
    command = [str(SNAKEMAKE), "-n", "--quiet", "--nolock", "--", "results/tables"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
