"""Retrieval against a server on this machine: what is fetched, what is refused, and in which words."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflow_scripts.input_files import places_used
from workflow_scripts.retrieve_files import REGISTRY, accepted, read_registry, retrieve

CONTENT = b"weights" * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()
SENTENCE = re.compile(r"\S+: expected .+, got .+ — .+")


class Handler(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = b"\n<!DOCTYPE html><title>Sign in</title>" if "page" in self.path else CONTENT
        self.send_response(404 if "gone" in self.path else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:-7] if "cut" in self.path else content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(entries: dict[str, Any], *paths: str) -> list[str]:
    """Retrieve what a configuration with these files of weights names."""
    Path("registry.yaml").write_text(yaml.safe_dump(entries))
    config = accepted([])
    names = [f"theirs{number}" for number in range(len(paths))]
    for name, path in zip(names, paths, strict=True):
        config["denoisers"][name] = {"kind": "diffusers", "path": path, "schedule": {}}
        config["purifiers"][name] = {"kind": "diffusion", "denoiser": name}
    config["run"]["sweep"] = names
    return list(retrieve(config, Path("registry.yaml"), Path("lock.yaml")))


def test_a_file_is_fetched_whole_and_checked(server: str, folder: Path) -> None:
    said = run({"weights/a.pt": {"url": f"{server}/a", "sha256": SUM, "size": 7000}}, "weights/a.pt")
    assert (folder / "weights/a.pt").read_bytes() == CONTENT and said == [f"weights/a.pt: fetched, sha256 {SUM}"]
    assert run({"weights/a.pt": {"url": f"{server}/a", "sha256": SUM}}, "weights/a.pt")[0].startswith(
        "weights/a.pt: there"
    )
    assert Handler.asked == ["/a"] and not (folder / "lock.yaml").exists()
    assert [path.name for path in (folder / "weights").iterdir()] == ["a.pt"]


def test_all_files_of_a_folder_are_fetched(server: str, folder: Path) -> None:
    entries = {f"hub/{name}": {"url": f"{server}/{name}", "sha256": SUM[:8]} for name in ("config.json", "model.bin")}
    run({**entries, "hub2/other": {"url": f"{server}/other"}}, "hub")
    assert sorted(path.name for path in (folder / "hub").iterdir()) == ["config.json", "model.bin"]
    assert Handler.asked == ["/config.json", "/model.bin"]


def test_an_unknown_checksum_is_trusted_once_and_recorded(server: str, folder: Path) -> None:
    entries = {"a.pt": {"url": f"{server}/a", "sha256": None}}
    said = run(entries, "a.pt")
    assert "trusted now and recorded in lock.yaml" in said[1]
    assert yaml.safe_load((folder / "lock.yaml").read_text()) == {"a.pt": SUM}
    (folder / "a.pt").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"a.pt: expected sha256 {SUM}, got .* from the file that is there"):
        run(entries, "a.pt")


def test_the_archive_is_asked_when_the_first_source_fails(server: str, folder: Path) -> None:
    run({"a.pt": {"url": f"{server}/gone", "archive": f"{server}/a", "sha256": SUM}}, "a.pt")
    assert (folder / "a.pt").read_bytes() == CONTENT and Handler.asked == ["/gone", "/a"]


def test_a_file_of_ones_own_needs_no_registry(server: str, folder: Path) -> None:
    (folder / "mine.pt").write_bytes(b"anything")
    assert run({"a.pt": {"url": f"{server}/a"}}, "mine.pt") == [] and Handler.asked == []


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"url": "{server}/a", "sha256": "0" * 64}, "a.pt: expected sha256 0+, got [0-9a-f]{64} from http"),
        ({"url": "{server}/cut"}, "a.pt: expected the file, got (a truncated file|.* a truncated file,) from http"),
        ({"url": "{server}/a", "size": 7001}, "a.pt: expected the file, got 7000 bytes of 7001, a truncated file"),
        ({"url": "{server}/page"}, "a.pt: expected the file, got a web page instead of the file from http"),
        ({"url": "{server}/gone"}, r"a.pt: expected the file, got 404 \(Not Found\) from http"),
        ({"url": "http://127.0.0.1:9/a"}, "a.pt: expected the file, got no answer from http://127.0.0.1:9/a"),
        ({"url": "http://no.such.host.invalid/a"}, "a.pt: expected the file, got no answer from"),
        ({"manual": "ask its authors"}, "a.pt: expected the file or folder, got nothing there — ask its authors"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(server: str, folder: Path, entry: dict[str, Any], sentence: str) -> None:
    entry = {key: value.format(server=server) if key == "url" else value for key, value in entry.items()}
    with pytest.raises(ValueError) as error:
        run({"a.pt": entry}, "a.pt")
    assert re.match(sentence, str(error.value)) and SENTENCE.fullmatch(str(error.value)), error.value
    assert sorted(path.name for path in folder.iterdir()) == ["registry.yaml"]


def test_a_path_that_nobody_knows_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"denoisers.theirs0.path: expected .*, got nowhere.pt — correct the path"):
        run({}, "nowhere.pt")


def test_the_registry_is_well_formed() -> None:
    entries = yaml.safe_load(REGISTRY.read_text())
    for path, entry in entries.items():
        assert entry.keys() <= {"url", "archive", "licence", "size", "sha256", "manual"} and entry["licence"], path
        assert ("url" in entry) != ("manual" in entry) and entry.get("url", "https://").startswith("https://"), path
        assert "manual" in entry or "sha256" in entry, path  # unknown is written down as such
        assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", str(entry.get("sha256") or "")), path
    assert read_registry(REGISTRY, Path("nowhere")).keys() == entries.keys()


def test_the_default_configuration_needs_nothing() -> None:
    assert list(places_used(accepted([]))) == []
