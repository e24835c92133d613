"""Results that travel: a clone that pulled plans exactly what a change affects, whatever the files' times."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.workflow.clones import Clone
from tests.workflow.test_reruns import (
    CODE,
    CONCLUDED,
    CONFIG,
    CONTROLS,
    EVALUATED,
    SWEEP,
    TABLED,
    append,
    listed,
    of,
)

ORDERS = ("same", "reversed", "future")
CLASSIFIED = {
    "train_classifier",
    "attack_images identity transfer",
    *(f"attack_images {purifier} strong" for purifier in SWEEP | CONTROLS),
    *(f"attack_images ddpm_150 {attack}" for attack in ("fixed", "eot", "bpda", "one_draw")),
    *(f"attack_images ddpm_150 {attack}" for attack in ("adjoint", "surrogate", "semi")),
    *(f"attack_images ddpm_150 {attack}" for attack in ("autoattack", "autoattack_rand", "pgd_l2")),
    *(f"attack_images ddpm_150 {attack}" for attack in ("deviated", "hammer", "own_draw")),
    *("finetune_denoiser", "attack_images agdm strong", "purify_images agdm", "measure_compression agdm"),
    *of("purify_images", SWEEP | CONTROLS),
    *of("measure_attack_strength", {"ddpm_150", "identity"}),
    *of("measure_distances", {"ddpm_150", "one_step_200"}),
    *of("audit_gradients", EVALUATED),
    *of("attack_images", {f"{purifier} challenge" for purifier in EVALUATED}),
    *(f"attack_images ddpm_150 {attack}" for attack in ("stronger", "margin", "sequence")),
    "measure_attack_adequacy ddpm_150",
    *CONCLUDED,
}


def planned_in_every_order(clone: Clone) -> dict[str, set[str]]:
    """The plan of copies whose files have the same time, times against the order of making, times in the future."""

    def plan(order: str) -> set[str]:
        copy = clone.copy(clone.folder.with_name(order))
        copy.date(order)
        return copy.planned()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(ORDERS, pool.map(plan, ORDERS), strict=True))


def code(name: str) -> tuple[Callable[[Clone], None], set[str]]:
    """A change of code in a folder, as a change of a clone."""
    edit, expected = CODE[name]
    return lambda clone: edit(clone.folder), expected


def config(name: str) -> tuple[Callable[[Clone], None], set[str]]:
    """A change of configuration, written into the clone's own."""
    changes, expected = CONFIG[name]
    return lambda clone: clone.configure(changes), expected


def rewrite(clone: Clone) -> None:
    """What a git checkout does to files that did not change: new inodes, new times."""
    for folder in ("purification", "workflow_scripts", "rules", "tests"):
        for path in (clone.folder / folder).rglob("*.py"):
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


def replace_in_place(clone: Clone) -> None:
    """An edit that keeps inode and size of an input file."""
    path = clone.folder / "linear.py"
    text = path.read_text()
    with path.open("r+") as file:
        file.write(text.replace("0.05, 0.4", "0.05, 0.5"))


CHANGES: dict[str, tuple[Callable[[Clone], None], set[str]]] = {
    "S0 nothing": (lambda clone: None, set()),
    "S1 parameter near the start": (
        lambda clone: clone.configure({"classifiers": {"residual": {"steps": 61}}}),
        CLASSIFIED,
    ),
    "S2 parameter in the middle": config("one purifier"),
    "S3 parameter at the end": config("subsets of votes"),
    "S3 one more grid value": config("one more purifier"),
    "S4 stage script": code("stage of one measurement"),
    "S5 library module": code("library module of one measurement"),
    "S6 input file": code("own purifier"),
    "S6 input file, same size": (replace_in_place, CODE["own purifier"][1]),
    "S7 input file in git": code("test of the results"),
    "S8 scripts rewritten": (rewrite, set()),
    "S15 final output deleted": (lambda clone: clone.results("tables/claims.csv").unlink(), TABLED),
    "S16 comment in the configuration": code("comment in the configuration"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_pull_plans_exactly_what_it_affects(reader: Clone, tmp_path: Path, change: str) -> None:
    edit, expected = CHANGES[change]
    clone = reader.copy(tmp_path / "project")
    edit(clone)
    assert planned_in_every_order(clone) == dict.fromkeys(ORDERS, listed(expected))


COMMITTED = {
    "S9 stage script": "S4 stage script",
    "S10 parameter": "S3 parameter at the end",
    "S11 library module": "S5 library module",
    "S12 input file": "S6 input file",
}


@pytest.mark.parametrize("change", COMMITTED)
def test_a_change_committed_without_rerunning_is_planned_by_who_pulls(
    author: Clone, tmp_path: Path, change: str
) -> None:
    edit, expected = CHANGES[COMMITTED[change]]
    careless = author.copy(tmp_path / "careless")
    edit(careless)
    careless.commit()
    clone = careless.clone(tmp_path / "project")
    clone.run("dvc", "pull")
    assert planned_in_every_order(clone) == dict.fromkeys(ORDERS, listed(expected))


def test_s13_a_partial_rerun_leaves_the_rest_to_who_pulls(author: Clone, tmp_path: Path) -> None:
    edit, expected = config("one purifier")
    partial = author.copy(tmp_path / "partial")
    edit(partial)
    partial.run("snakemake", "--cores", "1", "results/smoke/compression/ddpm_25.parquet")
    partial.run("dvc", "commit", "--force")
    partial.run("dvc", "push")
    partial.commit()
    clone = partial.clone(tmp_path / "project")
    clone.run("dvc", "pull")
    assert planned_in_every_order(clone) == dict.fromkeys(ORDERS, listed(expected) - {"measure_compression ddpm_25"})


def test_s14_pulling_git_alone_plans_what_the_author_reran_and_every_version_is_whole(
    author: Clone, reader: Clone, tmp_path: Path
) -> None:
    """The author edits, reruns and pushes; a reader takes the code, then the results, then goes back."""
    first = author.run("git", "rev-parse", "HEAD").strip()
    other, clone = author.copy(tmp_path / "author"), reader.copy(tmp_path / "project")
    append("docs/captions/distances.rst", "\nMore.\n")(other.folder)
    other.run("dvc", "repro")
    other.run("dvc", "push")
    other.commit()
    clone.run("git", "pull", "--quiet", str(other.folder), "main")
    assert clone.planned() == {"render_report", "list_checksums"}
    clone.run("dvc", "pull")
    assert clone.up_to_date()
    clone.run("git", "checkout", "--quiet", first)
    clone.run("dvc", "checkout")
    assert clone.up_to_date()


def test_the_reasons_are_told(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    CODE["own purifier"][0](clone.folder)
    said = clone.run("snakemake", "-n", "results/tables")
    assert re.search(r"linear\.py is not what \d+ results were made from", said)
    assert "Updated input files: linear.py" in said
    said = clone.run("make", "--old-file", "setup", f"BIN={Path(sys.executable).parent}", "status")
    assert "measure_compression: results/smoke/compression/linear.parquet: updated input files" in said
    assert "list_checksums: results/smoke/checksums.txt: follows from the others" in said


def test_everything_is_said_to_be_done_after_the_three_commands(reader: Clone) -> None:
    assert reader.up_to_date()
    assert "up to date" in reader.run("dvc", "status")


def test_results_of_other_configurations_are_left_alone(reader: Clone, tmp_path: Path) -> None:
    clone = reader.copy(tmp_path / "project")
    for name in ("compression/ddpm_999.parquet", "mine/compression/ddpm_25.parquet"):
        clone.results(name).parent.mkdir(parents=True, exist_ok=True)
        clone.results(name).write_text("without a record")
    assert clone.up_to_date()
