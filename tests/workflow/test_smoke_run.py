"""The whole workflow at its smallest size: what comes out, and what a purifier with known answers looks like in it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflow.conftest import PURIFIER, Project

VALUES = np.concatenate([np.full(25, 1.5), np.linspace(0.05, 0.4, 231)])


def test_everything_promised_comes_out(finished: Project) -> None:
    tables = {path.stem for path in finished.path("tables").glob("*.csv")}
    assert "claims" in tables and len(tables) >= 15
    for name in tables:
        for suffix in ("md", "tex"):
            assert finished.path(f"tables/{name}.{suffix}").stat().st_size > 0
        assert r"\toprule" in finished.path(f"tables/{name}.tex").read_text()
    figures = {path.stem for path in finished.path("figures").glob("*.pdf")}
    assert figures == {path.stem for path in finished.path("figures").glob("*.png")} and len(figures) >= 8
    assert "</html>" in finished.path("report.html").read_text()
    assert finished.path("checks.txt").read_text() == "every check holds\n"


def test_a_second_call_has_nothing_to_do(finished: Project) -> None:
    done = finished.snakemake("--cores", "1", "--", "results/tables")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_every_job_logs_to_its_own_file(finished: Project) -> None:
    logs = list(finished.path("logs").rglob("*.log"))
    benchmarks = list(finished.path("benchmarks").rglob("*.tsv"))
    assert len(logs) == len(benchmarks) > 40
    assert all(log.read_text().rstrip().endswith("done") for log in logs)


def linear_row(finished: Project, table: str) -> pd.DataFrame:
    frame = pd.read_csv(finished.path(f"tables/{table}.csv"))
    return frame[frame.purifier == "linear"]


def test_the_spectrum_of_a_known_linear_purifier_comes_back(finished: Project) -> None:
    (row,) = linear_row(finished, "spectrum").to_dict("records")
    assert row["below_0.25"] == pytest.approx((VALUES < 0.25).mean(), abs=1e-3)
    assert row["above_1"] == pytest.approx((VALUES > 1).mean(), abs=1e-3)
    assert row["rms"] == pytest.approx(np.sqrt(np.mean(VALUES**2)), rel=1e-4)
    assert row["largest"] == pytest.approx(1.5, rel=1e-4)
    assert row["rms_matrix_free"] == pytest.approx(row["rms"], rel=0.15)
    assert row["rms_small_probes"] == pytest.approx(row["rms"], rel=0.15)


def test_the_compression_rate_of_a_known_linear_purifier_comes_back(finished: Project) -> None:
    for row in linear_row(finished, "compression").to_dict("records"):
        assert row["compression"] == pytest.approx(np.sqrt(np.mean(VALUES**2)), rel=0.1)


def test_the_correlations_of_a_known_linear_purifier_come_back(finished: Project) -> None:
    """Against the same quantities computed from the matrix itself with other probes."""
    namespace: dict[str, object] = {}
    exec(PURIFIER, namespace)
    frame = linear_row(finished, "randomness").set_index("quantity").value
    assert frame["radius_varied"] == pytest.approx(0.0, abs=1e-6)
    assert frame["correlation_varied"] == pytest.approx(1.0, abs=1e-6)
    images = finished.path("dataset/images.safetensors")
    from safetensors.torch import load_file

    rows = pd.read_parquet(finished.path("randomness/linear.parquet"))
    data = load_file(images)["images"]
    purify = namespace["make_purifier"](params={"seed": 1}, image_shape=(1, 16, 16), device="cpu")  # type: ignore[operator]
    expected = []
    for image in rows.image:
        probes = np.random.default_rng(int(image)).uniform(-0.08, 0.08, (300, 1, 16, 16)).astype("float32")
        inputs = data[int(image)] + data.new_tensor(probes)
        vectors = (purify(inputs, None) - inputs).flatten(1).numpy()
        matrix = np.corrcoef(vectors)
        expected.append((matrix.sum() - len(matrix)) / (len(matrix) * (len(matrix) - 1)))
    assert frame["correlation_fixed"] == pytest.approx(np.mean(expected), abs=0.02)


def test_no_diffusion_and_no_purifier_are_the_same_defence(finished: Project) -> None:
    frame = pd.read_csv(finished.path("tables/robustness.csv"))
    columns = ["attack", "fixed", "avg", "unpurified"]
    zero, identity = (frame[frame.purifier == name][columns].reset_index(drop=True) for name in ("ddpm_0", "identity"))
    pd.testing.assert_frame_equal(zero, identity)


def test_negative_controls_are_flagged(finished: Project) -> None:
    frame = pd.read_csv(finished.path("tables/controls.csv")).set_index("purifier")
    assert frame.loc[["identity", "constant", "blur", "wiener", "ddpm_0"], "flagged"].all()
