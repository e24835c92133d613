"""Readers of data sets: the same pictures from every format, splits, and one sentence for whatever is wrong."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from purification.data import Selection, load_dataset, select
from purification.readers.cifar import unpickled
from workflow_scripts.datasets import read_dataset, write_dataset
from workflow_scripts.job import job
from workflow_scripts.prepare_dataset import prepare_dataset

SENTENCE = re.compile(r"expected .+, got .+ — .+")
SPLITS = {"train": 2, "validation": 1, "test": 3}
COMMON: dict[str, Any] = {"channels": 3, "size": 32, "classes": 10, "order": "first", "splits": SPLITS}
PICTURES = {**COMMON, "resize": 0, "convert": False}
COLUMNS = {"image_column": "img", "label_column": "label"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Five training and five test images (10, 3, 32, 32); image k has label (3 k + 1) % 10."""
    return np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)


def labels() -> list[int]:
    return [(3 * k + 1) % 10 for k in range(10)]


def png(image: np.ndarray, mode: str = "RGB", kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def parquet(path: Path, pictures: list[bytes | None], values: Any, **options: Any) -> str:
    column = [{"bytes": content, "path": f"{k}.png"} for k, content in enumerate(pictures)]
    table = pa.table({"img": column, "label": values})
    pq.write_table(table.replace_schema_metadata(options.get("metadata")), path, row_group_size=2)
    return str(path)


def python_2(data: np.ndarray, values: list[int]) -> bytes:
    """The bytes that Python 2 wrote for {"data": array, "labels": list}: opcode by opcode."""
    raw = data.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"K"
        + bytes([len(data)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + b"K\x00tb\x89T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([value]) for value in values) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def write_parquet(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    files = {}
    for name, chosen in {"train": range(5), "test": range(5, 10)}.items():
        pictures = [png(pixels[k]) for k in chosen]
        half = [labels()[k] for k in chosen]
        paths = folder / f"{name}0.parquet", folder / f"{name}1.parquet"
        files[name] = [parquet(paths[0], pictures[:3], half[:3]), parquet(paths[1], pictures[3:], half[3:])]
    return {"kind": "parquet", "files": files, **COLUMNS, **PICTURES}


def batches(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """One training image per batch of CIFAR-10, all test images in one."""
    return {**{f"data_batch_{k + 1}": np.array([k]) for k in range(5)}, "test_batch": np.arange(5, 10)}


def write_python(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    for name, chosen in batches(pixels).items():
        data = pixels[chosen].reshape(len(chosen), 3072)
        (folder / name).write_bytes(python_2(data, [labels()[k] for k in chosen]))
    return {"kind": "cifar_python", "path": str(folder), **COMMON}


def write_protocol_4(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    for name, chosen in batches(pixels).items():
        data = {"data": pixels[chosen].reshape(len(chosen), 3072), "labels": [labels()[k] for k in chosen]}
        (folder / name).write_bytes(pickle.dumps(data, protocol=4))
    return {"kind": "cifar_python", "path": str(folder), **COMMON}


def write_hundred(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    for name, chosen in {"train": range(5), "test": range(5, 10)}.items():
        data = {"data": pixels[chosen].reshape(5, 3072), "fine_labels": [labels()[k] for k in chosen]}
        (folder / name).write_bytes(pickle.dumps(data, protocol=2))
    return {"kind": "cifar_python", "path": str(folder), **COMMON, "classes": 100}


def write_binary(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name, chosen in batches(pixels).items():
            content = b"".join(bytes([labels()[k]]) + pixels[k].tobytes() for k in chosen)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return {"kind": "cifar_binary", "path": str(archive), **COMMON}


def write_binary_100(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    for name, chosen in {"train": range(5), "test": range(5, 10)}.items():
        records = (bytes([7, labels()[k]]) + pixels[k].tobytes() for k in chosen)  # coarse, fine
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return {"kind": "cifar_binary", "path": str(folder), **COMMON, "classes": 100}


def write_folders(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    names = [f"n{9 - label}" for label in range(10)]  # the list is not sorted
    (folder / "synsets.txt").write_text("\n".join(f"{name} a kind of {name}" for name in names))
    for part, chosen in {"train": range(5), "test": range(5, 10)}.items():
        for k in chosen:
            place = folder / part / names[labels()[k]]
            place.mkdir(parents=True)
            (place / f"val_{k}.PNG").write_bytes(png(pixels[k]))
    places = {"train": str(folder / "train"), "test": str(folder / "test")}
    return {"kind": "folders", "folders": places, "synsets": str(folder / "synsets.txt"), **PICTURES}


def write_npz(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    for name, chosen in {"train": slice(5), "test": slice(5, 10)}.items():
        np.savez_compressed(
            folder / f"{name}.npz", x=pixels[chosen].transpose(0, 2, 3, 1), y=np.array(labels()[chosen])
        )
    files = {name: [str(folder / f"{name}.npz")] for name in ("train", "test")}
    return {"kind": "arrays", "files": files, "image_key": "x", "label_key": "y", "layout": "NHWC", **COMMON}


def write_safetensors(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    for name, chosen in {"train": slice(5), "test": slice(5, 10)}.items():
        floats = pixels[chosen].astype(np.float32) / np.float32(255)
        save_file({"x": floats, "y": np.array(labels()[chosen], np.int32)}, folder / f"{name}.safetensors")
    files = {name: [str(folder / f"{name}.safetensors")] for name in ("train", "test")}
    return {"kind": "arrays", "files": files, "image_key": "x", "label_key": "y", "layout": "NCHW", **COMMON}


WRITERS: dict[str, Callable[[Path, np.ndarray], dict[str, Any]]] = {
    "parquet": write_parquet,
    "cifar-10, Python 2": write_python,
    "cifar-10, protocol 4": write_protocol_4,
    "cifar-100, Python": write_hundred,
    "cifar-10, binary archive": write_binary,
    "cifar-100, binary": write_binary_100,
    "folders": write_folders,
    "npz": write_npz,
    "safetensors": write_safetensors,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_images_and_labels(kind: str, tmp_path: Path, pixels: np.ndarray) -> None:
    settings = WRITERS[kind](tmp_path, pixels)
    prepare_dataset(settings, 3, images=tmp_path / "images", subsets=tmp_path / "subsets")
    dataset = read_dataset(tmp_path / "images", tmp_path / "subsets")
    assert dataset.subsets["test"] == [5, 6, 7] and set(dataset.subsets["train"]) <= set(range(5))
    assert dataset.shape == (3, 32, 32) and dataset.num_classes == settings["classes"]
    for subset, count in (("train", 2), ("test", 3)):
        images, truth, ids = dataset.take(subset)
        assert len(ids) == count and images.dtype == torch.float32
        np.testing.assert_array_equal(images.numpy(), pixels[ids].astype(np.float32) / np.float32(255))
        assert truth.tolist() == [labels()[k] for k in ids]


def test_training_and_validation_images_never_meet_and_sizes_move_no_index(tmp_path: Path, pixels: np.ndarray) -> None:
    settings = write_parquet(tmp_path, pixels)
    chosen = select({**settings, "splits": {"train": 3, "validation": 2, "test": 5}}, 3).subsets
    assert sorted(chosen["train"] + chosen["validation"]) == list(range(5)) and chosen["test"] == list(range(5, 10))
    fewer = select({**settings, "splits": {"train": 2, "validation": 1, "test": 1}}, 3).subsets
    assert fewer["train"] == chosen["train"][:2] and fewer["test"] == [5]
    mixed = select({**settings, "order": "permuted"}, 3).subsets
    assert set(mixed["test"]) < set(range(5, 10)) and mixed["test"] != [5, 6, 7]


@pytest.mark.parametrize("order", ["first", "permuted"])
def test_one_part_is_divided_among_all_subsets(order: str, tmp_path: Path, pixels: np.ndarray) -> None:
    settings = write_npz(tmp_path, pixels)
    files = {"test": settings["files"]["test"]}
    small = {"train": 2, "validation": 1, "test": 2}
    chosen = select({**settings, "files": files, "order": order, "splits": small}, 0).subsets
    union = [index for subset in chosen.values() for index in subset]
    assert sorted(union) == list(range(5))
    assert (chosen["test"] == [0, 1]) == (order == "first")
    with pytest.raises(ValueError, match="expected splits of at most"):
        select({**settings, "files": files, "order": order, "splits": {**small, "train": 3}}, 0)


def test_pictures_are_resized_and_cropped_like_classifiers_expect(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (3, 300, 401), dtype=np.uint8)
    place = tmp_path / "val" / "n1"
    (tmp_path / "val" / "n0").mkdir(parents=True)
    place.mkdir()
    for k in range(3):
        (place / f"{k}.png").write_bytes(png(picture))
    settings = {"kind": "folders", "folders": {"test": str(tmp_path / "val")}, **PICTURES, "size": 224, "resize": 256}
    one = {"train": 1, "validation": 1, "test": 1}
    images, truth, _ = load_dataset({**settings, "classes": 2, "splits": one}, 0).take("test")
    # 300 x 401 -> 256 x int(256 * 401 / 300) = 342; margins (256 - 224) / 2 = 16 and (342 - 224) / 2 = 59
    scaled = np.asarray(Image.fromarray(picture.transpose(1, 2, 0)).resize((342, 256), Image.Resampling.BILINEAR))
    expected = scaled[16:240, 59:283].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(images[0].numpy(), expected)
    assert truth.tolist() == [1]


def test_gray_pictures_become_colour_when_asked(tmp_path: Path, pixels: np.ndarray) -> None:
    pictures = [png(pixels[k], "L") for k in range(3)]
    files = {"test": [parquet(tmp_path / "gray.parquet", pictures, [0, 1, 2])]}
    one = {"train": 1, "validation": 1, "test": 1}
    settings = {"kind": "parquet", "files": files, **COLUMNS, **PICTURES, "convert": True, "splits": one}
    images, _, _ = load_dataset(settings, 0).take("test")
    assert torch.equal(images[0, 0], images[0, 1]) and torch.equal(images[0, 0], images[0, 2])


def test_images_pass_one_by_one(tmp_path: Path) -> None:
    count, shape = 300, (3, 128, 128)

    def rows() -> Any:
        return (np.full(shape, k % 256, np.uint8) for k in range(count))

    chosen = Selection({"test": list(range(count))}, np.arange(count), np.zeros(count, np.int64), 2, rows)
    tracemalloc.start()
    write_dataset(chosen, tmp_path / "images", tmp_path / "subsets")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "images").stat().st_size > count * 49152 and peak < 10 * 49152
    images, _, _ = read_dataset(tmp_path / "images", tmp_path / "subsets").take("test")
    assert images[:, 1, 5, 7].mul(255).round().tolist() == [k % 256 for k in range(count)]


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"data": Evil(), "labels": []}),
        b"cos\nsystem\n(S'touch executed'\ntR.",
        pickle.dumps({"data": np.array([Evil()], object)}),
        pickle.dumps([1, 2]),
        b"",
    ],
)
def test_pickles_execute_nothing(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected a pickle of CIFAR in here, got other content") as error:
        unpickled(content, "here")
    assert SENTENCE.fullmatch(str(error.value)) and not list(tmp_path.iterdir())


def _replace(key: str, value: Any) -> Callable[[dict[str, Any], Path], None]:
    return lambda settings, folder: settings.update({key: value})


def _cut(name: str) -> Callable[[dict[str, Any], Path], None]:
    def cut(settings: dict[str, Any], folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-40])

    return cut


def _remove(name: str) -> Callable[[dict[str, Any], Path], None]:
    return lambda settings, folder: (folder / name).unlink()


def _pictures(*pictures: bytes | None) -> Callable[[dict[str, Any], Path], None]:
    def put(settings: dict[str, Any], folder: Path) -> None:
        settings["files"]["test"] = [parquet(folder / "bad.parquet", [*pictures] * 3, [0] * 3 * len(pictures))]

    return put


def _table(values: Any, **options: Any) -> Callable[[dict[str, Any], Path], None]:
    def put(settings: dict[str, Any], folder: Path) -> None:
        content = png(np.zeros((3, 32, 32), np.uint8))
        settings["files"]["test"] = [parquet(folder / "bad.parquet", [content] * len(values), values, **options)]

    return put


def _arrays(**arrays: Any) -> Callable[[dict[str, Any], Path], None]:
    def put(settings: dict[str, Any], folder: Path) -> None:
        np.savez(folder / "test.npz", **{"x": np.zeros((5, 32, 32, 3), np.uint8), "y": np.zeros(5, int), **arrays})

    return put


def _damaged(settings: dict[str, Any], folder: Path) -> None:
    """A byte flipped inside the pages of the pictures."""
    path = Path(settings["files"]["test"][0])
    content = bytearray(path.read_bytes())
    content[30:90] = bytes(60)
    path.write_bytes(content)


def _jpeg() -> bytes:
    noise = np.random.default_rng(2).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    return png(noise, kind="jpeg")[:-300]


def _more_folders(settings: dict[str, Any], folder: Path) -> None:
    (folder / "test" / "n99").mkdir()


def _no_synsets(settings: dict[str, Any], folder: Path) -> None:
    del settings["synsets"]


def _names(*names: str) -> dict[bytes, str]:
    return {b"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}


# format -> what is done to it, and the sentence
BAD: dict[str, tuple[str, Callable[[dict[str, Any], Path], None], str]] = {
    "truncated Parquet": (
        "parquet",
        _cut("test0.parquet"),
        r"expected a Parquet file at .*test0.parquet, got an error",
    ),
    "damaged pages": ("parquet", _damaged, r"expected (pictures|a picture|labels) in .*test0.parquet"),
    "missing column": (
        "parquet",
        _replace("label_column", "fine_label"),
        r"expected a column 'fine_label' in .*parquet, got img, label — correct `label_column`",
    ),
    "label out of range": ("parquet", _table([0, 12, 3]), r"expected labels in 0..9 in .*, got 12 in record 1"),
    "negative label": ("parquet", _table([0, 1, -1]), r"expected labels in 0..9 in .*, got -1 in record 2"),
    "no label": ("parquet", _table([0, None, 3]), r"expected a label in every record of .*, got 1 without"),
    "labels that are texts": ("parquet", _table(["a", "b", "c"]), r"expected one whole number per image as label"),
    "other classes": (
        "parquet",
        _table([0, 1, 2], metadata=_names("cat", "dog")),
        r"expected 10 classes in the metadata of .*, got 2 — correct `classes`",
    ),
    "gray picture": (
        "parquet",
        _pictures(png(np.zeros((3, 32, 32), np.uint8), "L")),
        r"expected a picture of mode RGB in .*bad.parquet, record 0, got L — convert it",
    ),
    "corrupt JPEG": ("parquet", _pictures(_jpeg()), r"expected a picture in .*record 0, got a damaged one"),
    "no picture": ("parquet", _pictures(b"<html>"), r"expected a picture in .*record 0, got a damaged one"),
    "picture by path only": ("parquet", _pictures(None), r"expected the bytes of a picture in .*got NoneType"),
    "picture of another size": (
        "parquet",
        _pictures(png(np.zeros((3, 32, 33), np.uint8))),
        r"expected images of shape \(3, 32, 32\) .* got \(3, 32, 33\) — correct",
    ),
    "too few images": ("parquet", _replace("splits", {**SPLITS, "test": 6}), r"expected splits of at most 5 images"),
    "truncated pickle": ("cifar-10, Python 2", _cut("test_batch"), r"expected a pickle of CIFAR in .*test_batch, got"),
    "missing batch": ("cifar-10, Python 2", _remove("data_batch_3"), r"expected data_batch_3 in .*, got an error"),
    "pickle of other classes": (
        "cifar-100, Python",
        lambda settings, folder: (folder / "test").write_bytes(pickle.dumps({"data": 1, "coarse_labels": [1]})),
        r"expected 'fine_labels' in .*, got data, coarse_labels — correct `classes`",
    ),
    "pickle of another shape": (
        "cifar-10, protocol 4",
        lambda settings, folder: (folder / "test_batch").write_bytes(
            pickle.dumps({"data": np.zeros((5, 3071), np.uint8), "labels": [0] * 5})
        ),
        r"expected uint8 images of 3072 bytes in .*, got uint8 of shape \(5, 3071\)",
    ),
    "truncated binary": (
        "cifar-100, binary",
        _cut("test.bin"),
        r"expected records of 3074 bytes in .*, got 15330 bytes",
    ),
    "truncated archive": (
        "cifar-10, binary archive",
        _cut("cifar-10-binary.tar.gz"),
        r"expected test_batch.bin in .*, got an error",
    ),
    "other archive": (
        "cifar-10, binary archive",
        lambda settings, folder: settings.update(kind="cifar_python"),
        r"expected data_batch_1 in .*, got other files — correct `path`",
    ),
    "unknown folder": ("folders", _more_folders, r"expected folders of the known classes in .*, got 'n99' — correct"),
    "wrong number of folders": ("folders", _no_synsets, r"expected 10 classes in the folders of .*, got 5 — correct"),
    "wrong number of synsets": ("folders", _replace("classes", 7), r"expected 7 classes in .*synsets.txt, got 10"),
    "truncated npz": ("npz", _cut("test.npz"), r"expected plain arrays in .*test.npz, got a damaged file"),
    "objects in npz": (
        "npz",
        _arrays(y=np.array([Evil()] * 5, object)),
        r"expected plain arrays in .*, got .* objects",
    ),
    "missing key": ("npz", _replace("image_key", "images"), r"expected an array 'images' in .*, got x, y — correct"),
    "other shape": ("npz", _arrays(x=np.zeros((5, 32, 32, 1), np.uint8)), r"expected images of shape \(3, 32, 32\)"),
    "fewer labels": ("npz", _arrays(y=np.zeros(4, int)), r"expected a label per image in .*, got 4 for 5"),
    "floats above one": (
        "npz",
        _arrays(x=np.full((5, 32, 32, 3), 200.0)),
        r"expected images in \[0, 1\] in .*, got 200",
    ),
    "not a number": ("npz", _arrays(x=np.full((5, 32, 32, 3), np.nan)), r"expected images in \[0, 1\] in .*, got nan"),
    "integers": (
        "npz",
        _arrays(x=np.zeros((5, 32, 32, 3), int)),
        r"expected uint8 or floats as images in .*, got int64",
    ),
    "truncated safetensors": (
        "safetensors",
        _cut("test.safetensors"),
        r"expected plain arrays in .*, got a damaged file",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case: str, tmp_path: Path, pixels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, spoil, sentence = BAD[case]
    source, results = tmp_path / "source", tmp_path / "results"
    source.mkdir()
    settings = WRITERS[kind](source, pixels)
    spoil(settings, source)
    snakemake = SimpleNamespace(log=[str(tmp_path / "job.log")], threads=1, rule="prepare_dataset", output=["x"])
    with pytest.raises(SystemExit) as exit_status, job(snakemake):
        prepare_dataset(settings, 0, images=results / "images", subsets=results / "subsets")
    assert exit_status.value.code == 1
    last = (tmp_path / "job.log").read_text().splitlines()[-1].partition("prepare_dataset failed: ")[2]
    assert re.match(sentence, last) and SENTENCE.fullmatch(last), last
    assert not results.exists() or list(results.iterdir()) == []
