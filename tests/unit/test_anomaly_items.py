"""What detectors are tried on: classes and synthetic defects of a dataset, and folders in MVTec AD's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from purification.anomaly.defects import DEFECTS, LEAST, with_defect
from purification.anomaly.items import MADE, gather
from purification.data import Dataset

CLASSES: dict[str, Any] = {
    "kind": "classes", "normal": [0, 2], "images": {"normal": 3, "other": 2, "defective": 4},
    "defects": ["scratch", "patch", "paste"], "share": 0.4,
}  # fmt: skip


def dataset() -> Dataset:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    return Dataset(images, torch.arange(40) % 4, {"train": list(range(20)), "test": list(range(39, 19, -1))})


def test_normal_classes_train_and_others_and_defects_are_anomalies() -> None:
    data = dataset()
    found = gather(data, CLASSES, subset="test", seed=1)
    assert {k % 4 for k in found.train_ids} == {0, 2} and len(found.train) == 10
    assert found.kinds[:3] == ["normal"] * 3 and found.kinds[3:5] == ["class_3", "class_1"]
    assert found.kinds[5:] == ["scratch", "patch", "paste", "scratch"]
    assert found.anomalous.tolist() == [0] * 3 + [1] * 6
    assert found.ids[:3] == found.sources[:3] == [38, 36, 34] and found.ids[3:5] == [39, 37]
    assert found.ids[5:] == [MADE + 38, MADE + 36, MADE + 34, MADE + 32] and len(set(found.ids)) == 9
    assert found.sources[5:] == [38, 36, 34, 32]
    assert torch.equal(found.test[0], data.images[38]) and not set(found.train_ids) & set(found.sources)
    for place in range(5, 9):
        changed = (found.test[place] != data.images[found.sources[place]]).any(dim=0)
        assert torch.equal(changed, found.masks[place]) and changed.any()
    assert not found.masks[:5].any()


def test_defects_repeat_and_follow_seed_image_and_kind() -> None:
    one, again, other = (gather(dataset(), CLASSES, subset="test", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.test, again.test) and not torch.equal(one.test, other.test)
    more = gather(dataset(), {**CLASSES, "images": {"normal": 5, "other": 1, "defective": 4}}, subset="test", seed=1)
    assert torch.equal(more.test[-4:], one.test[-4:])


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_visible_local_and_in_the_box(kind: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        image = rng.random((3, 16, 16), dtype=np.float32)
        kept = image.copy()
        made, mask = with_defect(image, kind, 0.4, seed=0, number=number)
        assert np.array_equal(image, kept) and made.dtype == np.float32
        assert np.array_equal(mask, (made != image).any(axis=0))
        assert np.abs(made - image).mean(axis=0)[mask].mean() >= LEAST
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) < 8 and np.ptp(columns) < 8 and 3 <= mask.sum() <= 49
        assert made.min() >= 0 and made.max() <= 1


def test_an_image_without_a_place_for_a_defect_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a place for defect 'paste' on image 7"):
        with_defect(np.full((1, 8, 8), 0.5, dtype=np.float32), "paste", 0.4, seed=0, number=7)


@pytest.mark.parametrize("key", ["normal", "other", "defective"])
def test_more_images_than_there_are_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"expected at least 30 .*, got 10 — lower"):
        gather(dataset(), {**CLASSES, "images": {**CLASSES["images"], key: 30}}, subset="test", seed=1)


# --- folders


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Three training pictures, two good ones and two defects with one mask between them, as MVTec AD has them."""
    rng = np.random.default_rng(0)
    for name in ("train/good/000", "train/good/001", "train/good/002", "test/good/000", "test/good/001",
                 "test/bent/000", "test/thread/000"):  # fmt: skip
        path = tmp_path / "grid" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[2:5, 6:10] = 255
    (tmp_path / "grid/ground_truth/bent").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "grid/ground_truth/bent/000_mask.png")
    return tmp_path / "grid"


def settings(grid: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "mvtec", "path": str(grid), "channels": 3, "size": 12, "resize": 12, "convert": False, **changes}


def test_a_folder_in_mvtecs_layout(grid: Path) -> None:
    found = gather(dataset(), settings(grid), subset="test", seed=1)
    assert found.train.shape == (3, 3, 12, 12) and found.test.shape == (4, 3, 12, 12)
    assert found.kinds == ["normal", "normal", "bent", "thread"] and found.ids == [3, 4, 5, 6] == found.sources
    assert found.train_ids == [0, 1, 2] and found.anomalous.tolist() == [0, 0, 1, 1]
    pixels = np.asarray(Image.open(grid / "test/bent/000.png"))[:, 2:14].transpose(2, 0, 1) / 255
    assert np.allclose(found.test[2].numpy(), pixels, atol=1e-6)
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[2:5, 4:8] = True
    assert torch.equal(found.masks[2], expected) and not found.masks[[0, 1, 3]].any()


def test_gray_pictures_and_sizes(grid: Path) -> None:
    found = gather(dataset(), settings(grid, channels=1, convert=True, size=8, resize=8), subset="test", seed=1)
    assert found.test.shape == (4, 1, 8, 8) and 0 < int(found.masks[2].sum()) < 64


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("train/bad", "expected only 'good' in"),
        ("nothing", "expected a folder per defect"),
        ("empty", "expected pictures .* in .*good, got none"),
    ],
)
def test_another_layout_is_refused(grid: Path, broken: str, sentence: str) -> None:
    if broken == "train/bad":
        (grid / broken).mkdir()
    elif broken == "nothing":
        for kind in ("bent", "thread"):
            (grid / "test" / kind / "000.png").unlink()
            (grid / "test" / kind).rmdir()
    else:
        for path in (grid / "train/good").iterdir():
            path.unlink()
    with pytest.raises(ValueError, match=sentence):
        gather(dataset(), settings(grid), subset="test", seed=1)
