"""Every kind of storage a reader may be given: a folder, S3 (a local server), HTTP; whole or in part."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests.workflow.clones import SETTINGS, Clone
from tests.workflow.conftest import ROOT

KEY = {"access_key_id": "someone", "secret_access_key": secrets.token_hex()}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an S3 server with the bucket `results`."""
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    keys = {f"aws_{name}": value for name, value in KEY.items()}
    boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys).create_bucket(Bucket="results")
    yield address
    server.stop()


def use_s3(clone: Clone, address: str, **keys: str) -> None:
    """What a user does: `make remote URL=...` and credentials, both outside git."""
    clone.run("dvc", "remote", "add", "--local", "--force", "--default", "storage", "s3://results/here")
    for name, value in {"endpointurl": address, "verify": "true", **keys}.items():
        clone.run("dvc", "remote", "modify", "--local", "storage", name, value)


def test_what_is_pushed_to_s3_comes_back_with_nothing_to_do(author: Clone, tmp_path: Path, s3: str) -> None:
    writer = author.copy(tmp_path / "writer")
    use_s3(writer, s3, **KEY)
    writer.run("dvc", "push")
    clone = writer.clone(tmp_path / "project")
    use_s3(clone, s3, **KEY)
    clone.run("dvc", "pull")
    assert clone.up_to_date()
    assert clone.run("git", "status", "--porcelain") == ""
    clone.refused("git", "grep", "--untracked", "--text", KEY["secret_access_key"])


def test_make_remote_writes_where_git_does_not_look(author: Clone, tmp_path: Path) -> None:
    clone = author.clone(tmp_path / "project")
    make = ("make", "--old-file", "setup", f"BIN={Path(sys.executable).parent}", "remote")
    assert "expected a place to store results, got none" in clone.refused(*make)
    clone.run(*make, f"URL={tmp_path / 'elsewhere'}")
    assert clone.remote() == str(tmp_path / "elsewhere")
    assert clone.run("git", "status", "--porcelain") == ""


def test_s3_without_credentials_is_refused_in_a_sentence(author: Clone, tmp_path: Path, s3: str) -> None:
    clone = author.clone(tmp_path / "project")
    use_s3(clone, s3)
    assert "Unable to locate credentials" in clone.refused("dvc", "pull")
    assert "train_classifier" in clone.planned()


class Files(SimpleHTTPRequestHandler):
    """A folder over HTTP, without a line per request."""

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_reader_over_http_has_nothing_to_do(author: Clone, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=author.remote()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clone = author.clone(tmp_path / "project", f"http://127.0.0.1:{server.server_port}")
    clone.run("dvc", "pull")
    server.shutdown()
    assert clone.up_to_date()


def test_models_can_be_pulled_alone_and_are_not_trained_again(author: Clone, tmp_path: Path) -> None:
    clone = author.clone(tmp_path / "project")
    clone.run("dvc", "pull", "results/smoke/models", "results/smoke/dataset", ".snakemake/metadata")
    assert clone.results("models/denoisers/unet/config.json").exists()
    jobs = {job.split()[0] for job in clone.planned()}
    assert {"attack_images", "measure_compression"} < jobs
    assert not {"prepare_dataset", "train_classifier", "train_denoiser", "fit_null_model"} & jobs


def test_tables_can_be_pulled_alone_and_are_not_taken_for_a_finished_run(author: Clone, tmp_path: Path) -> None:
    clone = author.clone(tmp_path / "project")
    clone.run("dvc", "pull", "results/smoke/tables")
    assert clone.results("tables/claims.csv").exists()
    said = clone.refused("snakemake", "-n", "results/tables")
    assert re.search(r"expected a record of how results/smoke/tables/\w+\.csv", said)
    assert "run `dvc pull`" in said
    clone.run("dvc", "pull")
    assert clone.up_to_date()


def test_dvc_holds_everything_the_rules_write_and_nothing_is_unread(author: Clone) -> None:
    """dvc.yaml against the jobs' records: every output is tracked and recorded by a job that read it."""
    settings = yaml.safe_load((author.folder / SETTINGS).read_text())
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["tables"]
    outs = {next(iter(out)).replace("${results}", settings["results"]) for out in stage["outs"]}
    assert all(next(iter(out.values())) == {"persist": True} for out in stage["outs"])
    files = {p.relative_to(author.folder).as_posix() for p in author.results("").rglob("*") if p.is_file()}
    own = tuple(f"{settings['results']}/{folder}/" for folder in ("logs", "journal"))
    written = {name for name in files if not name.startswith(own)}
    tracked = {name for name in written if any(name == out or name.startswith(f"{out}/") for out in outs)}
    assert written == tracked
    assert {out for out in outs if not (author.folder / out).exists()} == set()
    read: set[str] = set()
    for path in (author.folder / ".snakemake" / "metadata").rglob("*"):
        if path.is_file():
            read |= json.loads(path.read_text())["input_checksums"].keys()
    results = {name for name in written if "/benchmarks/" not in name}
    cards = ("README.md", "training.json", "losses.parquet")  # of trained networks, for people
    unread = {name for name in results - read if not ("/models/" in name and name.endswith(cards))}
    assert unread == {f"{settings['results']}/checksums.txt"}
    sources = {name for name in read - results if name != "linear.py"}
    assert all(any(name == dep or name.startswith(f"{dep}/") for dep in stage["deps"]) for name in sources), sources
