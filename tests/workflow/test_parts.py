"""Jobs split by blocks of images, in the workflow: the bytes of a run that was not split, nothing finished is rerun."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

STAGES = {  # rule -> what it writes about one purifier, and of how many images
    "attack_images": (("adversarial/fixed/ddpm_150.safetensors",), 10),
    "purify_images": (("purified/ddpm_150.parquet", "purified/ddpm_150.safetensors"), 10),
    "measure_attack_strength": (("attack_strength/ddpm_150.parquet",), 10),
    "measure_attack_adequacy": (("attack_adequacy/ddpm_150.parquet", "gradient_noise/ddpm_150.parquet"), 4),
    "measure_distances": (("distances/ddpm_150.parquet",), 8),
    "measure_randomness": (("randomness/ddpm_150.parquet",), 3),
    "measure_compression": (("compression/ddpm_150.parquet",), 3),
    "compute_jacobian": (("jacobian/ddpm_150.parquet",), 1),
    "audit_gradients": (("audit/ddpm_150.parquet",), 4),
    "measure_anomalies": (("purified/detectors/zeros.parquet", "purified/detectors/zeros.safetensors"), 10),
    "certify_anomalies": (("purified/certificates/zeros.parquet",), 10),
}


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "project")
    return Project(tmp_path / "project", finished.config)


def started(text: str, rule: str) -> int:
    """Jobs of a rule in the table that Snakemake shows first."""
    return sum(int(line.split()[1]) for line in text.splitlines() if line.split()[:1] == [rule])


@pytest.mark.parametrize(
    ("shards", "rules"), [(2, tuple(STAGES)), (7, ("measure_distances", "measure_attack_adequacy"))]
)
def test_split_jobs_leave_the_bytes_of_a_run_that_was_not_split(
    copy: Project, shards: int, rules: tuple[str, ...]
) -> None:
    outputs = [output for rule in rules for output in STAGES[rule][0]]
    before = {output: copy.path(output).read_bytes() for output in outputs}
    for output in outputs:
        copy.path(output).unlink()
    targets = [f"results/smoke/{output}" for output in outputs]
    done = copy.snakemake("--cores", "2", "--", *targets, config={"shards": shards})
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in rules:
        count = min(shards, STAGES[rule][1])
        parts = count if count > 1 else 0
        assert started(done.stdout + done.stderr, f"{rule}_part") == parts, rule
    assert {output: copy.path(output).read_bytes() for output in outputs} == before
    assert [path.name for path in (copy.folder / "results/smoke/journal").rglob("*") if path.is_file()] == ["run.lock"]
    for path in [*copy.path("models").rglob("*.safetensors"), *copy.path("dataset").iterdir()]:
        path.touch()  # as after a pull: times mean nothing
    for other in (1, shards, 3):
        assert copy.planned({"shards": other}, targets) == set()


def test_a_part_of_other_settings_is_not_used(copy: Project) -> None:
    """A part that an interrupted run with other settings left is made again, and the rows are those of one job."""
    name, left = "randomness/ddpm_150.parquet", "results/smoke/journal/parts/1_of_2/randomness/ddpm_150.parquet"
    before = copy.path(name).read_bytes()
    other = {"shards": 2, "randomness": {"images": 3, "samples": 5}}
    assert copy.snakemake("--cores", "1", "--", left, config=other).returncode == 0
    assert (copy.folder / left).exists() and copy.path(name).read_bytes() == before
    copy.path(name).unlink()
    done = copy.snakemake("--cores", "2", "--", f"results/smoke/{name}", config={"shards": 2})
    assert done.returncode == 0 and started(done.stdout + done.stderr, "measure_randomness_part") == 2
    assert copy.path(name).read_bytes() == before and not (copy.folder / left).exists()
