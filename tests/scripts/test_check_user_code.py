"""The command that checks a user's file: one line per check, a sum, and an exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow_scripts.check_user_code import main

GOOD = """
def make_purifier(params, image_shape, device):
    scale = params["scale"]
    return lambda images, noise: scale * images


def make_classifier(params, image_shape, num_classes, device):
    return lambda images: params["scale"] * images.flatten(1)[:, :num_classes]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_a_good_file_passes_with_both_of_its_factories(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--params", "{scale: 0.5}", "--shape", "3,5,7", "--classes", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}, make_purifier:"
    assert lines[1].split() == ["loads", "ok", "make_purifier:", "a", "purifier", "of", "images", "(3,", "5,", "7)"]
    assert "All 15 checks passed." in lines and "All 14 checks passed." in lines
    assert lines.count(f"{file}, make_classifier:") == 1


def test_a_bad_file_fails_with_a_line_for_what_is_wrong(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("scale * images\n", "scale * images.round()\n", 1))
    assert main([str(file), "--params", "{scale: 0.5}", "--factory", "make_purifier"]) == 1
    out = capsys.readouterr().out
    assert "differentiable  FAILED:  expected a gradient, got zero everywhere" in out
    assert out.splitlines()[-2:] == ["  not checked: gradient", "1 of 14 checks failed: differentiable."]


def test_missing_params_are_hinted_at(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--kind", "purifier"]) == 1
    assert "got KeyError in line 3: 'scale'" in (out := capsys.readouterr().out)
    assert "No params were given: add PARAMS=" in out


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        (["--kind", "classifier"], ["a classifier"]),
        (["--factory", "make_classifier"], ["a classifier"]),
        (["--factory", "make_purifier"], ["a purifier"]),
        ([], ["a purifier", "a classifier"]),
    ],
)
def test_the_kind_follows_from_the_name_of_the_factory(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], kinds: list[str]
) -> None:
    main([str(file), "--params", "{scale: 0.5}", *arguments])
    out = capsys.readouterr().out
    assert [kind for kind in ("a purifier", "a classifier") if f"{kind} of images" in out] == kinds


@pytest.mark.parametrize("arguments", [["--shape", "16,16"], ["--params", "sigma"], ["--shape", "0,1,1"]])
def test_arguments_that_cannot_be_read_are_refused(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        main([str(file), *arguments])
    assert status.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent.py")]) == 1
    assert "absent.py, found none" in capsys.readouterr().out
