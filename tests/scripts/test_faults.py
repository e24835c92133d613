"""Faults of the machine and damaged files: one sentence, a failed job, no half-written output, nothing else lost."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from adversarial_files import write_images
from safetensors.torch import load_file, save_file

from purification.data import Dataset
from purification.defence import Defence
from purification.models.classifiers import ResidualNetwork
from purification.models.loading import CONFIG, WEIGHTS, load_classifier, load_denoiser, save_model
from purification.purifiers import FunctionPurifier
from purification.reporting.rows import Rows
from workflow_scripts.attack_images import attack_images
from workflow_scripts.datasets import read_dataset, write_dataset
from workflow_scripts.defences import count_adversarial
from workflow_scripts.faults import sentence
from workflow_scripts.job import job
from workflow_scripts.results_folder import estimated_bytes, place_problems
from workflow_scripts.train_classifier import run as train_classifier

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SENTENCE = re.compile(r"expected .+, got .+ — .+")
SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "train_steps": 1000}
EVALUATION = {"seed": 0, "device": "cpu", "batch_size": 4, "subset": "test", "norm": "linf", "epsilon": 0.1}
ATTACK = {
    **{
        "kind": "pgd",
        "knowledge": "both",
        "images": 2,
        "steps": 1,
        "step_size": 0.5,
        "random_start": False,
        "loss": "ce",
        "restarts": 1,
    },
    **{"gradient": "replay", "draws": 1, "select": "best", "stop_when_broken": True, "norm": "linf", "epsilon": 0.1},
}


@pytest.fixture
def dataset() -> Dataset:
    images = torch.linspace(0, 1, 12 * 64).view(12, 1, 8, 8)
    labels = torch.arange(12) % 3
    return Dataset(images, labels, {"train": [0, 1, 3, 4], "validation": [2, 5], "test": [6, 7, 8]})


def failed(folder: Path, error: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What a job that runs `error` says last in its log and on standard error."""
    snakemake = SimpleNamespace(log=[str(folder / "job.log")], threads=1, rule="some_rule", output=["x"])
    with pytest.raises(SystemExit) as status, job(snakemake):
        error()
    assert status.value.code == 1
    said = (folder / "job.log").read_text().rstrip().splitlines()[-1].partition("rule some_rule failed: ")[2]
    assert capsys.readouterr().err.endswith(f"rule some_rule failed: {said}\n")
    return said


# --- memory


def no_memory_in_torch() -> None:
    torch.empty(10**15)


def no_memory_in_numpy() -> None:
    np.ones(10**17)


def no_memory_in_python() -> None:
    bytearray(10**17)


@pytest.mark.parametrize("ask", [no_memory_in_torch, no_memory_in_numpy, no_memory_in_python])
def test_too_little_memory_says_what_to_lower(
    tmp_path: Path, ask: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(tmp_path, ask, capsys)
    assert said.startswith("expected enough memory, got ") and SENTENCE.fullmatch(said)
    assert "lower batch_size, gradient_batch_size, memory_bytes or" in said


def test_a_batch_that_does_not_fit_into_memory_fails_without_output(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "adversarial.safetensors"
    defence = Defence(FunctionPurifier(lambda x, noise: x), lambda x: x.flatten(1)[:, :3], 10**15)
    said = failed(tmp_path, lambda: attack_images(dataset, defence, ATTACK, EVALUATION, 1e9, output=output), capsys)
    assert said.startswith("expected enough memory, got ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".job.log.lock", "job.log"]


def test_memory_limited_by_the_system_is_the_same_sentence(tmp_path: Path) -> None:
    program = (
        "import resource, types, torch\n"
        "from workflow_scripts.job import job\n"
        "with job(types.SimpleNamespace(log=['job.log'], threads=1, rule='some_rule', output=['x'])):\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "    torch.ones(2**28)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "rule some_rule failed: expected enough memory, got " in done.stderr.splitlines()[-1]


# --- disk and permissions


def full(path: str) -> Callable[[], None]:
    def write() -> None:
        with Path(path).open("w") as file:
            file.write("x" * 10)

    return write


DISK = "expected space for the outputs, got a full disk or a limit on file size"


def test_a_full_disk_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(tmp_path, full("/dev/full"), capsys)
    assert said.startswith(DISK) and SENTENCE.fullmatch(said)


@pytest.mark.parametrize("text", ['I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'])
def test_a_full_disk_is_recognised_in_the_words_of_libraries(text: str) -> None:
    assert sentence(RuntimeError(text)).startswith(DISK)


def test_a_full_disk_leaves_old_outputs_and_no_new_ones(tmp_path: Path) -> None:
    """Every writer of the stages, with a limit on the size of files in place of a full disk."""
    program = """
import resource, types
from pathlib import Path
import pandas as pd, torch
from purification.models.loading import save_model
from workflow_scripts.defences import Proposals, write_adversarial
from workflow_scripts.job import job, write_rows, write_text
one = Proposals(torch.rand(1000, 1, 16, 16), torch.zeros(1), torch.zeros(1), "replay")
writers = {
    "text": lambda: write_text("x" * 10**6, "old.txt"),
    "rows": lambda: write_rows(pd.DataFrame({"x": torch.rand(10**6).numpy()}), "old.parquet"),
    "tensors": lambda: write_adversarial(one, [1], Path("old.safetensors")),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for name, write in writers.items():
    try:
        with job(types.SimpleNamespace(log=["job.log"], threads=1, rule=name, output=["x"])):
            write()
    except SystemExit as status:
        assert status.code == 1
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    old = [tmp_path / f"old.{suffix}" for suffix in ("txt", "parquet", "safetensors")]
    for path in old:
        path.write_text("old")
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if f" failed: {DISK}" in line]
    assert [re.search("rule ([a-z]+)", line)[1] for line in said] == ["text", "rows", "tensors"], done.stderr  # type: ignore[index]
    assert [path.read_text() for path in old] == ["old"] * 3
    left = {".job.log.lock", "job.log", *(path.name for path in old)}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snakemake = SimpleNamespace(log=[str(tmp_path / "nowhere" / "job.log")], threads=1, rule="some_rule", output=["x"])
    with pytest.raises(SystemExit), job(snakemake):
        pass
    assert re.search("rule some_rule failed: expected .*, got .* — ", capsys.readouterr().err)


def test_sentences_of_our_own_are_left_as_they_are() -> None:
    for said in (
        "expected steps <= 5, got 6 — lower steps",
        "mine.py, make_purifier: expected images, got None — mend",
    ):
        assert sentence(ValueError(said)) == said


def test_forbidden_files_are_named() -> None:
    said = sentence(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/results"))
    assert said.startswith("expected a file that can be written and read, got Permission denied at /data/results")
    assert SENTENCE.fullmatch(said)


def test_any_other_error_says_where_it_was_raised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    code = "import json\ndef factory(params):\n    return json.loads(params) or params['cutoff']\n"
    exec(compile(code, "/home/me/my_purifiers.py", "exec"), namespace)
    for params, error in (("x", "JSONDecodeError: "), (b"0", "TypeError: ")):
        said = failed(tmp_path, lambda params=params: namespace["factory"](params), capsys)  # type: ignore[misc]
        assert said.startswith(f"expected no error, got {error}") and " in my_purifiers.py, line 3 — " in said
        assert SENTENCE.fullmatch(said)


def settings(results: Path) -> dict[str, Any]:
    return {
        "results": str(results),
        "datasets": {"digits": {"size": 16, "splits": {"train": 1000, "validation": 300, "test": 400}}},
        "dataset": "digits",
        "attacks": {"fixed": {"images": 300}, "eot": {"images": 200}},
        "base_attack": "fixed",
        "evaluation": {"samples": 8},
        "run": {"sweep": [f"ddpm_{n}" for n in range(25)], "controls": ["identity"], "attacks": {"eot": ["ddpm_1"]}},
    }


def test_a_results_folder_is_made_and_may_already_be_there(tmp_path: Path) -> None:
    config = settings(tmp_path / "a" / "b")
    assert list(place_problems(config)) == list(place_problems(config)) == []
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/results", "/dev/null/results"])
def test_a_results_folder_that_cannot_be_made_is_named(place: str) -> None:
    (said,) = place_problems(settings(Path(place)))
    assert said.startswith(f"results: expected a folder that can be written, got {place} (")
    assert SENTENCE.fullmatch(said.removeprefix("results: "))


def test_too_little_free_space_is_named_unless_the_results_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path)
    needed = estimated_bytes(config)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=needed - 1e6))
    (said,) = place_problems(config)
    assert said.startswith(f"results: expected about {needed / 1e6:.0f} MB of free space in {tmp_path}, got ")
    (tmp_path / "images").write_bytes(bytes(2 * 10**6))
    assert list(place_problems(config)) == []


def test_the_estimate_grows_with_images_and_purifiers() -> None:
    small = settings(Path())
    larger, more = settings(Path()), settings(Path())
    larger["datasets"]["digits"]["size"] = 32
    more["attacks"]["fixed"]["images"] = 400
    assert estimated_bytes(small) < min(estimated_bytes(larger), estimated_bytes(more))
    assert 20e6 < estimated_bytes(small) < 50e6


# --- damaged and foreign files


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def no_text(path: Path) -> None:
    path.write_text("{")


def reshape(path: Path) -> None:
    tensors = load_file(path)
    save_file({name: torch.zeros(7) for name in tensors}, path)


def rename(path: Path) -> None:
    save_file({f"x{name}": value for name, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("spoil", "name"), [(shorten, WEIGHTS), (reshape, WEIGHTS), (rename, WEIGHTS), (no_text, CONFIG)]
)
def test_damaged_or_foreign_models_are_named(tmp_path: Path, spoil: Callable[[Path], None], name: str) -> None:
    config = {"kind": "residual", "channels": 1, "classes": 3, "widths": [4]}
    save_model(tmp_path, config, ResidualNetwork(1, 3, [4]).state_dict())
    spoil(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))) as error:
        load_classifier(tmp_path, CPU, torch.float32)
    assert SENTENCE.fullmatch(str(error.value))


@pytest.mark.parametrize("spoil", [shorten, rename])
def test_a_damaged_null_model_is_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    tensors = {"mean": torch.zeros(1, 4, 4), "eigenvectors": torch.eye(16), "eigenvalues": torch.ones(16)}
    save_model(tmp_path, {"kind": "gaussian"}, tensors)
    spoil(tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / WEIGHTS))) as error:
        load_denoiser(tmp_path, SCHEDULE, CPU, torch.float32)
    assert SENTENCE.fullmatch(str(error.value))


@pytest.mark.parametrize(
    ("spoil", "name"), [(shorten, "images"), (rename, "images"), (no_text, "subsets")], ids=["short", "names", "json"]
)
def test_a_damaged_dataset_is_named(tmp_path: Path, dataset: Dataset, spoil: Callable[[Path], None], name: str) -> None:
    paths = {"images": tmp_path / "images.safetensors", "subsets": tmp_path / "subsets.json"}
    write_dataset(dataset, paths["images"], paths["subsets"])
    spoil(paths[name])
    with pytest.raises(ValueError, match=re.escape(str(paths[name]))) as error:
        read_dataset(paths["images"], paths["subsets"])
    assert SENTENCE.fullmatch(str(error.value))


def test_an_edited_index_list_says_what_to_do(tmp_path: Path, dataset: Dataset) -> None:
    images, subsets = tmp_path / "images.safetensors", tmp_path / "subsets.json"
    write_dataset(dataset, images, subsets)
    lists = json.loads(subsets.read_text())
    lists["test"]["index"][0] = 1
    subsets.write_text(json.dumps(lists))
    with pytest.raises(ValueError, match=r"subset 'test' of .*, got .* — it was edited") as error:
        read_dataset(images, subsets)
    assert SENTENCE.fullmatch(str(error.value))


@pytest.mark.parametrize("spoil", [shorten, rename])
def test_damaged_adversarial_images_are_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "adversarial.safetensors"
    write_images(torch.zeros(3, 1, 8, 8), [5, 6, 7], path)
    spoil(path)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        count_adversarial(path)
    assert SENTENCE.fullmatch(str(error.value))


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ddpm_25.parquet"
    pd.DataFrame({"image": [1, 2]}).to_parquet(path)
    shorten(path)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        Rows.read({"purified": [str(path)]}, {})
    assert SENTENCE.fullmatch(str(error.value))


def test_a_training_split_without_a_class_is_refused_before_training(tmp_path: Path, dataset: Dataset) -> None:
    training = {
        **{"widths": [4], "steps": 10**9, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0},
        **{"warmup": 1, "shift": 1},
    }
    beside = {key: tmp_path / key for key in ("losses", "record", "card")}
    with pytest.raises(ValueError, match="expected training images of 3 classes, got labels up to 1 — raise") as error:
        train_classifier(dataset, training, 0, name="residual", folder=tmp_path, **beside)
    assert SENTENCE.fullmatch(str(error.value))


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, dataset: Dataset) -> None:
    training = {
        **{"widths": [4], "steps": 100, "batch_size": 8, "learning_rate": 1e30, "weight_decay": 0.0},
        **{"warmup": 1, "shift": 1},
    }
    whole = Dataset(dataset.images, dataset.labels, {**dataset.subsets, "train": list(range(12))})
    beside = {key: tmp_path / key for key in ("losses", "record", "card")}
    with pytest.raises(ValueError, match=r"expected a finite loss, got .* in step \d+ — lower learning_rate"):
        train_classifier(whole, training, 0, name="residual", folder=tmp_path, **beside)
    assert list(tmp_path.iterdir()) == []
