"""Fetch the data and weights that a configuration names and the registry knows; nothing else uses the network.

`python -m workflow_scripts.retrieve_files [CONFIG...]` reads config/registry.yaml. What is there already is left alone,
and compared with its checksum; a file whose checksum nobody knows is trusted on first use and recorded.
"""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import yaml

from workflow_scripts.configuration import merged, schema
from workflow_scripts.configuration_files import file_problems
from workflow_scripts.configuration_schema import schema_problems
from workflow_scripts.input_files import places_used
from workflow_scripts.job import replacing

CONFIG = Path(__file__).parents[1] / "config"
REGISTRY, RECORD = CONFIG / "registry.yaml", CONFIG / "registry.lock.yaml"
HTML = (b"<!doctype", b"<html", b"<?xml")
SECONDS = 60  # without a byte, then a server counts as silent
CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a file comes from; `sha256` may be the beginning of it, as file names carry it, or nothing."""

    path: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None
    manual: str


class Unavailable(Exception):
    """What a source gave instead of the file."""


def read_registry(registry: Path, record: Path) -> dict[str, Source]:
    """Sources by path; checksums recorded at first use fill in for unknown ones."""
    recorded = yaml.safe_load(record.read_text()) if record.is_file() else {}
    sources = {}
    for path, entry in yaml.safe_load(registry.read_text()).items():
        urls = tuple(entry[key] for key in ("url", "archive") if entry.get(key))
        known = entry.get("sha256") or recorded.get(path, "")
        sources[path] = Source(path, urls, known, entry.get("size"), entry.get("manual", ""))
    return sources


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(found: str, source: Source, place: str) -> None:
    if source.sha256 and not found.startswith(source.sha256):
        raise ValueError(
            f"{source.path}: expected sha256 {source.sha256}, got {found} from {place} — do not use it: delete it, "
            "fetch it from another source, or correct the registry if you know why it changed"
        )


def _download(url: str, temporary: Path, source: Source) -> str:
    """Bytes of a URL into a file; returns their sha256. Raises Unavailable in words about what came instead."""
    total, digest = 0, hashlib.sha256()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "purification"})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer, temporary.open("wb") as file:
            promised = int(answer.headers.get("Content-Length") or source.size or 0)
            while chunk := answer.read(CHUNK):
                if not total and chunk.lstrip()[:16].lower().startswith(HTML):
                    raise Unavailable(f"a web page instead of the file from {url}")
                file.write(chunk)
                digest.update(chunk)
                total += len(chunk)
    except HTTPError as error:
        raise Unavailable(f"{error.code} ({error.reason}) from {url}") from error
    except http.client.IncompleteRead as error:
        raise Unavailable(f"a truncated file from {url}") from error
    except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise Unavailable(f"no answer from {url} ({getattr(error, 'reason', error)})") from error
    for wanted in (promised, source.size or total):
        if wanted and total != wanted:
            raise Unavailable(f"{total} bytes of {wanted}, a truncated file, from {url}")
    return digest.hexdigest()


def fetch(source: Source) -> str:
    """Put a file in its place, whole and checked, from the first source that gives it; returns its sha256."""
    if source.manual or not source.urls:
        raise ValueError(
            f"{source.path}: expected the file or folder, got nothing there — {source.manual or 'add a url'}"
        )
    failures = []
    for url in source.urls:
        try:
            with replacing(source.path) as temporary:
                found = _download(url, temporary, source)
                _checked(found, source, url)
        except Unavailable as failure:
            failures.append(str(failure))
        else:
            return found
    raise ValueError(
        f"{source.path}: expected the file, got {'; '.join(failures)} — try again later, or put the file there yourself"
    )


def needed(config: Mapping[str, Any], sources: Mapping[str, Source]) -> Iterator[Source]:
    """Sources of every file or folder that a configuration names; raises ValueError for one that is nowhere."""
    for key, path in places_used(config):
        inside = [source for name, source in sources.items() if name == path or name.startswith(f"{path}/")]
        yield from inside
        if not inside and not Path(path).exists():
            raise ValueError(
                f"{key}: expected a file that is there or that config/registry.yaml knows, got {path} — correct the "
                "path"
            )


def retrieve(config: Mapping[str, Any], registry: Path, record: Path) -> Iterator[str]:
    """Fetch what is not there and check what is; one line per file."""
    sources = read_registry(registry, record)
    for source in dict.fromkeys(needed(config, sources)):
        place = Path(source.path)
        if place.is_dir():
            yield f"{source.path}: there"
            continue
        there = place.is_file()
        found = _digest(place) if there else fetch(source)
        _checked(found, source, "the file that is there")
        yield f"{source.path}: {'there' if there else 'fetched'}, sha256 {found}"
        if not source.sha256:
            recorded = yaml.safe_load(record.read_text()) if record.is_file() else {}
            with replacing(record) as temporary:
                temporary.write_text(yaml.safe_dump({**recorded, source.path: found}))
            yield f"{source.path}: nobody had told its sha256; it is trusted now and recorded in {record.name}"


def accepted(paths: Sequence[str]) -> dict[str, Any]:
    """The default configuration with the files merged over it; raises ValueError for what the schema refuses."""
    if found := file_problems(paths):
        raise ValueError("\n".join(found))
    config = merged(paths)
    if found := schema_problems(config, schema()):
        raise ValueError("\n".join(found))
    return config


if __name__ == "__main__":
    try:
        for line in retrieve(accepted(sys.argv[1:]), REGISTRY, RECORD):
            sys.stdout.write(f"{line}\n")
    except ValueError as refusal:
        sys.exit(str(refusal))
    except OSError as refusal:
        sys.exit(f"expected a place to write to, got {refusal} — free some space or change its permissions")
