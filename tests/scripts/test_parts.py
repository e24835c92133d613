"""Jobs split by blocks of images: the stages, run as Snakemake runs them, end with the bytes of one job."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from adversarial_files import write_images
from hypothesis import given
from hypothesis import strategies as st
from snakemake.iocontainers import Namedlist, Wildcards

from purification.blocks import WHOLE, Block
from purification.data import load_dataset
from purification.index_lists import index_hash
from purification.models.classifiers import ResidualNetwork
from purification.models.loading import save_model
from purification.models.unet import UNet
from workflow_scripts.datasets import write_dataset
from workflow_scripts.parts import block_of

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
UNET: dict[str, Any] = {
    **{"in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 1},
    **{"norm_num_groups": 4, "down_block_types": ["DownBlock2D", "DownBlock2D"]},
    **{"up_block_types": ["UpBlock2D", "UpBlock2D"], "add_attention": False, "sample_size": 8},
}
PURIFIER = {**CONFIG["purifiers"]["ddpm_100"], "steps": 2, "architecture": "unet"}
PURIFIER |= {"schedule": {"beta_start": 1e-4, "beta_end": 2e-2, "train_steps": 1000}}
EVALUATION: dict[str, Any] = {
    **{"seed": 1, "device": "cpu", "precision": "fp32", "batch_size": 4, "gradient_batch_size": 3, "subset": "test"},
    **{"norm": "linf", "epsilon": 0.1, "classifier": {"kind": "residual"}},
}
SHORT = {"images": 9, "steps": 2, "queries": 4, "targets": 2, "fab_targets": 2, "draws": 2, "judges": 2, "pool": 2}


def attack(name: str) -> dict[str, Any]:
    """An attack of the default configuration, shortened."""
    entry = {**CONFIG["attacks"][name]}
    threat = entry.pop("threat", CONFIG["threat"])
    if "stages" in entry:
        entry["stages"] = [attack(stage) for stage in entry["stages"]]
    return {**entry, **{key: min(value, entry[key]) for key, value in SHORT.items() if key in entry}, **threat}


def named(values: dict[str, Any]) -> Namedlist[Any]:
    """Values as Snakemake hands them to a script: one list, and by name."""
    made: Namedlist[Any] = Namedlist()
    for name, value in values.items():
        start, several = len(made), isinstance(value, list)
        made.extend(value if several else [value])
        made._set_name(name, start, end=len(made) if several else None)
    return made


class Lab:
    """A folder with a data set and networks, in which stages run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        splits = {"train": 10, "validation": 10, "test": 12}
        dataset = load_dataset({"kind": "digits", "size": 8, "splits": splits}, 0)
        classifier, denoiser = ResidualNetwork(1, 10, [4]), UNet.from_config(UNET)
        with torch.no_grad():  # what it says at first is right, so that attacks have something to do
            dataset = replace(dataset, labels=classifier.eval()(dataset.images).argmax(dim=1))
        write_dataset(dataset, folder / "images.safetensors", folder / "subsets.json")
        self.classifier = self.save(
            "classifier", {"kind": "residual", "channels": 1, "classes": 10, "widths": [4]}, classifier
        )
        self.denoiser = self.save("denoisers/unet", UNET, denoiser)
        images, _, self.ids = dataset.take("test", 9)
        write_images((images + 0.1).clamp(0, 1), self.ids, folder / "fixed.safetensors")
        write_images((images[:6] - 0.05).clamp(0, 1), self.ids[:6], folder / "few.safetensors")

    def save(self, name: str, config: dict[str, Any], network: torch.nn.Module) -> list[str]:
        folder = self.folder / name
        folder.mkdir(parents=True)
        save_model(folder, config, network.state_dict())
        return [str(folder / file) for file in ("config.json", "diffusion_pytorch_model.safetensors")]

    def run(self, stage: str, place: str, parts: Sequence[str] = (), part: str = "", **changes: Any) -> dict[str, Path]:
        """Run the script of a stage as a job into a folder: for all images, for a part, or to join `parts`.

        changes  settings that evaluations share
        """
        (outputs, params), stage = STAGES[stage], stage.split()[0]
        params = {"purifier": PURIFIER, "evaluation": EVALUATION, **params}
        params = {key: {**value, **changes} if "device" in value else value for key, value in params.items()}
        inputs: dict[str, Any] = {"images": str(self.folder / "images.safetensors")}
        inputs |= {
            "subsets": str(self.folder / "subsets.json"),
            "classifier": self.classifier,
            "denoiser": self.denoiser,
        }
        inputs |= {"null": self.denoiser, "user_code": [], "parts": list(parts)}
        inputs["after"] = [str(self.folder / "fixed.safetensors")] if "after" in params.get("settings", {}) else []
        both = [str(self.folder / f"{name}.safetensors") for name in ("fixed", "few")]
        inputs["adversarial"] = both[0] if stage == "measure_distances" else both
        made = {name: self.folder / place / f"{name}.out" for name in outputs}
        job = SimpleNamespace(
            config={"results": str(self.folder / place), "memory_bytes": 1e9}, rule=stage, threads=1,
            wildcards=named({"part": part} if part else {}), params=named(params),
            input=named(inputs), output=named({name: str(made[name]) for name in outputs}),
            log=[str(self.folder / place / "job.log")],
        )  # fmt: skip
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        runpy.run_path(str(ROOT / "workflow_scripts" / f"{stage}.py"), {"snakemake": job}, "__main__")
        return made


VARIATIONS = [{"attack": "fixed", "steps": 1}, {"attack": "fixed", "restarts": 2}, {"attack": "eot", "draws": 1}]
JUDGED = {"draws": 3, "samples": 2, "known_images": 4, "known_draws": 2, "pool": 2, "pools": {"few": 3}, "threats": {}}
STAGES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "purify_images": (
        ["rows", "samples"],
        {"attacks": ["fixed", "few"], "evaluation": {**EVALUATION, **JUDGED, "images": 8}},
    ),
    "measure_attack_strength": (
        ["rows"],
        {"settings": attack("fixed"), "variations": [{"scale": 1.0, "steps": 2}, {"scale": 0.5, "steps": 1}]},
    ),
    "measure_attack_adequacy": (
        ["adequacy", "noise"],
        {
            "attacks": {name: attack(name) for name in ("fixed", "eot")},
            "options": {"images": 9, "draws": 2, "variations": VARIATIONS},
            "noise": {"images": 4, "draws": [2, 1], "reference": 2, "loss": "ce"},
        },
    ),
    "measure_distances": (["rows"], {"settings": {**EVALUATION, "images": 9}}),
    "measure_randomness": (["rows"], {"settings": {**EVALUATION, "images": 9, "samples": 3}}),
    "measure_compression": (
        ["rows"],
        {"settings": {**EVALUATION, "images": 9, "samples": 3, "probe_scales": [1.0, 0.5]}},
    ),
    "compute_jacobian": (
        ["rows"],
        {
            "settings": {
                **EVALUATION,
                "images": 8,
                "gradient_batch_size": 16,
                "probes": 3,
                "iterations": 2,
                "spectrum": "full",
                "directions": 2,
                "small_scale": 0.1,
            }
        },
    ),
    "audit_gradients": (
        ["rows"],
        {
            "attacks": {name: attack(name) for name in ("fixed", "eot", "surrogate", "bpda")},
            "settings": {**EVALUATION, "images": 9, "surrogate_steps": 1, "directions": 2, "changes": 2},
        },
    ),
    **{f"attack_images {name}": (["images"], {"settings": attack(name)}) for name in CONFIG["attacks"]},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("name", STAGES)
def test_two_and_seven_parts_make_the_bytes_of_one_job(lab: Lab, name: str) -> None:
    whole = lab.run(name, f"{name} whole")
    for count in (2, 7):
        labels = [f"{number}_of_{count}" for number in range(1, count + 1)]
        parts = [path for label in labels for path in lab.run(name, f"{name} {label}", part=label).values()]
        joined = lab.run(name, f"{name} joined {count}", parts=[str(path) for path in parts])
        for output, path in joined.items():
            assert path.read_bytes() == whole[output].read_bytes(), (count, output)


@pytest.mark.parametrize("name", ["attack_images adjoint", *list(STAGES)[:8]])
def test_precision_and_device_reach_every_stage(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 networks run under autocast; where there is no CUDA device, the job's log says so in a sentence."""
    entered, autocast = [], torch.autocast
    monkeypatch.setattr("torch.autocast", lambda *given, **more: entered.append(given) or autocast(*given, **more))
    lab.run(name, f"{name} bf16", precision="bf16")
    assert set(entered) == {("cpu",)}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        lab.run(name, f"{name} cuda", device="cuda:0")
    log = (lab.folder / f"{name} cuda" / "job.log").read_text()
    assert "expected device 'cuda:0', got 0 CUDA devices" in log.splitlines()[-1]


PEAK = """
import sys, torch
from pathlib import Path
from purification.blocks import Block
from workflow_scripts.datasets import read_dataset
from workflow_scripts.defences import join_adversarial, read_adversarial, write_adversarial
folder, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.zeros(1, dtype=torch.uint8).float()
status = Path("/proc/self/status")  # the peak of getrusage begins with that of the parent
peak = lambda: int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
data, block = read_dataset(folder / "images.safetensors", folder / "subsets.json"), Block(number, count)
images, _, ids = data.take("test", None, block)
start = block.start(len(data.subsets["test"]))
adversarial = read_adversarial(folder / "adversarial.safetensors", ids, start).adversarial
assert float((adversarial + images).sum()) == 0.0
print(peak() - before)
"""


def sparse(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """A safetensors file whose last tensor is zeros that take no space on the disk."""
    header: dict[str, Any] = {"__metadata__": {"gradient": "replay"}}
    end = 0
    for name, (kind, shape, content) in tensors.items():
        size = len(content) or int(np.prod(shape)) * {"U8": 1, "F32": 4}[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(content for _, _, content in tensors.values()))
        file.truncate(8 + len(text) + end)


def test_a_part_reads_its_own_images_only(tmp_path: Path) -> None:
    """4000 images of 48 kB and as many adversarial ones, four times as large: a part of ten needs no others."""
    count, shape, index = 4000, [3, 128, 128], np.arange(4000)
    labels, ids = ("I64", [count], index.tobytes()), ("I64", [count], index.tobytes())
    classes = ("I64", [1], np.array([count]).tobytes())
    rows = {"labels": labels, "ids": ids, "classes": classes, "images": ("U8", [count, *shape], b"")}
    sparse(tmp_path / "images.safetensors", rows)
    accuracy, stage = ("F32", [count], np.zeros(count, dtype=np.float32).tobytes()), ids
    numbers = {"ids": ids, "accuracy": accuracy, "stage": stage}
    sparse(tmp_path / "adversarial.safetensors", {**numbers, "adversarial": ("F32", [count, *shape], b"")})
    listed = {"sha256": index_hash(index.tolist()), "index": index.tolist()}
    (tmp_path / "subsets.json").write_text(json.dumps({"test": listed}))
    peaks = {}
    for part in ((3, 400), (1, 8)):
        command = [sys.executable, "-c", PEAK, str(tmp_path), *map(str, part)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks[part] = int(done.stdout)
    assert peaks[3, 400] < 30 < 200 < peaks[1, 8]  # MB; 500 images are 24 MB, 98 MB as float32 and 98 MB adversarial


def test_blocks_are_consecutive_and_nearly_equal() -> None:
    assert [(Block(k, 3).start(7), Block(k, 3).stop(7)) for k in (1, 2, 3)] == [(0, 2), (2, 4), (4, 7)]
    assert (WHOLE.start(7), WHOLE.stop(7)) == (0, 7)
    assert [Block(k, 3).within(7, 3) for k in (1, 2, 3)] == [2, 1, 0]
    assert block_of(Wildcards(fromdict={"part": "2_of_3"})) == Block(2, 3) and block_of(Wildcards()) == WHOLE
    for part in ("0_of_1", "3_of_2"):
        with pytest.raises(ValueError, match="expected a block from 1 to"):
            block_of(Wildcards(fromdict={"part": part}))


@given(total=st.integers(0, 50), count=st.integers(1, 60), first=st.integers(0, 60))
def test_blocks_hold_every_image_once(total: int, count: int, first: int) -> None:
    blocks = [Block(number, count) for number in range(1, count + 1)]
    assert [k for block in blocks for k in range(block.start(total), block.stop(total))] == list(range(total))
    assert {block.stop(total) - block.start(total) for block in blocks} <= {total // count, -(-total // count)}
    assert sum(block.within(total, first) for block in blocks) == min(first, total)
