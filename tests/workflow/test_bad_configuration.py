"""A configuration that cannot run is refused before anything runs, in sentences that name key or file."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from purification.data import READERS
from purification.models.unet import _BLOCKS, UNet
from tests.workflow.conftest import ROOT, Project
from workflow_scripts.configuration import problems, schema
from workflow_scripts.configuration_entries import DIGITS
from workflow_scripts.configuration_files import file_problems

DEFAULT = yaml.safe_load((ROOT / "config" / "default.yaml").read_text())
SENTENCE = re.compile(r"[^:]+: expected .+, got .+ — .+")
PAIR = "4cbbd8ca5215b8d161aec181a74b694f4e24b001d5b081dc0030ed797a8973e0"  # sha256 of the list 1, 0
NETWORK = "denoisers.unet.network"
SURROGATE = {**DEFAULT["attacks"]["bpda"], "gradient": "surrogate"}


def entry(key: str, **changes: Any) -> dict[str, Any]:
    """{a: {b: changes}} of a dotted key."""
    for part in reversed(key.split(".")):
        changes = {part: changes}
    return changes


def own(path: str, factory: str = "make_purifier") -> dict[str, Any]:
    return entry("purifiers.mine", kind="python", path=path, factory=factory, params={})


def parquet(**changes: Any) -> dict[str, Any]:
    """A dataset of another kind; its file is not there."""
    settings: dict[str, Any] = {
        **{"kind": "parquet", "files": {"test": ["nowhere.parquet"]}, "image_column": "img", "label_column": "label"},
        **{"channels": 3, "size": 32, "resize": 0, "convert": False, "classes": 10, "order": "first"},
    }
    splits = {"train": 900, "validation": 300, "test": 400}
    return entry("datasets.mine", **{**settings, "splits": splits, **changes})


def published(**changes: Any) -> dict[str, Any]:
    """A classifier with published weights; its file is not there."""
    settings = {"kind": "cifar_resnet", "path": "nowhere.th", "depth": 20, "classes": 10}
    return entry("classifiers.theirs", **{**settings, "mean": [0.5] * 3, "std": [0.2] * 3, **changes})


# Changes of config/default.yaml, and the sentence (its beginning) each is refused with.
SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"epsilons": 0.1}, "epsilons: expected a known key, got 'epsilons' — remove it"),
    "misspelt key": ({"bach_size": 4}, "bach_size: expected a known key, got 'bach_size' — did you mean 'batch_size'?"),
    "misspelt inner key": (
        entry("threat", epsilom=0.1),
        "threat.epsilom: expected a known key, got 'epsilom' — did you",
    ),
    "key of another measurement": (entry("distances", probes=3), "distances.probes: expected a known key"),
    "negative budget": (
        entry("threat", epsilon=-0.1),
        "threat.epsilon: expected a number > 0 and <= 1, got -0.1 — raise",
    ),
    "no budget": (entry("threat", epsilon=0), "threat.epsilon: expected a number > 0 and <= 1, got 0 — raise it"),
    "budget beyond the box": (
        entry("threat", epsilon=1.1),
        "threat.epsilon: expected a number > 0 and <= 1, got 1.1 — low",
    ),
    "l1 without a share": (
        {"threat": {"norm": "l1", "epsilon": 12.0}},
        "threat.share: expected a value, got none — add the key",
    ),
    "share without l1": (
        entry("attacks.eot.threat", norm="l2", epsilon=1.5, share=0.1),
        "attacks.eot.threat.share: expected a known key, got 'share'",
    ),
    "budget not a number": (entry("threat", epsilon=float("nan")), "threat.epsilon: expected a finite number, got nan"),
    "infinite memory": ({"memory_bytes": float("inf")}, "memory_bytes: expected a finite number, got inf"),
    "number YAML 1.1 reads as text": (
        entry("classifiers.residual", learning_rate="1e-4"),
        "classifiers.residual.learning_rate: expected a number > 0 and <= 1, got '1e-4' — "
        "YAML reads it as text: write 1.0e-4",
    ),
    "number in quotes": ({"seed": "1"}, "seed: expected a whole number >= 0"),
    "word for a number": ({"seed": "zero"}, "seed: expected a whole number >= 0"),
    "fraction for a count": ({"batch_size": 5.5}, "batch_size: expected a whole number >= 2, got 5.5 — write a whole"),
    "5.0 for a count": ({"batch_size": 5.0}, "batch_size: expected a whole number >= 2, got 5.0 — write 5"),
    "true for a count": (entry("evaluation", images=True), "evaluation.images: expected a whole number >= 1, got true"),
    "nothing for a section": ({"threat": None}, "threat: expected keys with values, got nothing — give it a value"),
    "nothing for a value": ({"device": None}, "device: expected one of cpu, cuda, cuda:0, "),
    "number for a section": ({"fit": 3}, "fit: expected keys with values, got 3 — write `key: value` pairs"),
    "name for a list": (entry("run", varied="ddpm_200"), "run.varied: expected a list, got 'ddpm_200' — write a list"),
    "no for a text": (
        {"results": False},
        "results: expected a text, got false — YAML reads yes, no, on and off as true",
    ),
    "yes in a list of names": (entry("run", varied=[True]), "run.varied[0]: expected a name of at most 100"),
    "number as a key": ({"purifiers": {1: {"kind": "identity"}}}, "purifiers.1: expected a text as key, got 1"),
    "date": ({"seed": yaml.safe_load("2020-01-01")}, "seed: expected a text or a number, got the date 2020-01-01"),
    "zero images": (entry("evaluation", images=0), "evaluation.images: expected a whole number >= 1, got 0 — raise it"),
    "unknown sampler": (
        entry("purifiers.ddpm_25", sampler="dpm"),
        "purifiers.ddpm_25.sampler: expected one of ddpm, ddim, vp_sde, pf_ode, one_step, got 'dpm' — did",
    ),
    "unknown kind": (entry("purifiers.blur", kind="blurr"), "purifiers.blur.kind: expected one of diffusion"),
    "eta of a ddpm": (
        entry("purifiers.ddpm_25", eta=0.5),
        "purifiers.ddpm_25.eta: expected no such key with sampler 'ddpm', got 0.5 — remove it",
    ),
    "key of another dataset": (
        parquet(synsets="x"),
        "datasets.mine.synsets: expected a known key with kind 'parquet', got 'synsets' — remove it",
    ),
    "channels of no picture": (parquet(channels=2), "datasets.mine.channels: expected one of 1, 3, got 2 — choose one"),
    "key of another kind": (
        entry("purifiers.blur", t_star=3),
        "purifiers.blur.t_star: expected a known key with kind 'blur', got 't_star' — remove it, or use",
    ),
    "misspelt key of another sampler": (
        entry("purifiers.ddim_25", varianc="fixed_small"),
        "purifiers.ddim_25.varianc: expected a known key with sampler 'ddim', got 'varianc' — remove it, or use",
    ),
    "sampler without its key": (
        entry("purifiers.ode_25", sampler="ddim"),
        "purifiers.ode_25.eta: expected a value with sampler 'ddim', got none — add the key",
    ),
    "clip with an ode": (
        entry("purifiers.ode_25", clip="clamp"),
        "purifiers.ode_25.clip: expected 'none' with sampler 'pf_ode', got 'clamp' — write none",
    ),
    "eta above 1": (
        entry("purifiers.ddim_25", eta=1.5),
        "purifiers.ddim_25.eta: expected a number >= 0 and <= 1, got 1.5",
    ),
    "misspelt entry": (
        {"purifiers": {"ddpm_2OO": {"steps": 3}}},
        "purifiers.ddpm_2OO: expected a name of at most 100 lower-case letters",
    ),
    "incomplete entry": (
        {"purifiers": {"ddpm_20": {"steps": 3}}},
        "purifiers.ddpm_20.kind: expected a value, got none — did you mean 'ddpm_200'?",
    ),
    "name with a slash": (entry("purifiers.a/b", kind="identity"), "purifiers.a/b: expected a name of at most"),
    "name with braces": (entry("attacks.{x}", images=3), "attacks.{x}: expected a name of at most 100"),
    "name too long for a file": (
        {"purifiers": {"a" * 101: {"kind": "identity"}}},
        f"purifiers.{'a' * 101}: expected a",
    ),
    "duplicate purifier": (
        entry("run", controls=["identity", "identity"]),
        "run.controls: expected every entry once, got 'identity' twice — remove one",
    ),
    "duplicate budget": (
        entry("attack_strength", undefended=[{"scale": 1, "steps": 20}, {"scale": 1.0, "steps": 20}]),
        "attack_strength.undefended: expected every entry once",
    ),
    "empty sweep": (entry("run", sweep=[]), "run.sweep: expected at least 6 entries, got [] — add some"),
    "no probe as large as the budget": (
        entry("compression", probe_scales=[0.5]),
        "compression.probe_scales: expected 1.0 among the entries, got [0.5] — add it",
    ),
    "network option without a forward pass": (
        entry(NETWORK, time_embedding_type="fourier"),
        f"{NETWORK}.time_embedding_type: expected a known key",
    ),
    "unknown block": (
        entry(NETWORK, down_block_types=["DownBlok2D"] * 3),
        f"{NETWORK}.down_block_types[0]: expected one",
    ),
}
NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "namesake of an unknown purifier": (
        {"ledger": {"purifiers": {"ddpm_15": "DiffPure"}}},
        "ledger.purifiers: expected a known name, got 'ddpm_15' — did you mean",
    ),
    "unknown purifier": (
        entry("run", headline="ddpm_201"),
        "run.headline: expected a known name, got 'ddpm_201' — did you mean 'ddpm_200'?",
    ),
    "unknown point": (
        entry("run", sweep=[*DEFAULT["run"]["sweep"], "ddpn_25"]),
        "run.sweep: expected a known name, got",
    ),
    "unknown attack": (
        {"base_attack": "fixedd"},
        "base_attack: expected a known name, got 'fixedd' — did you mean 'fixed'?",
    ),
    "unknown attack that runs": (
        entry("run.attacks", eott=["ddpm_200"]),
        "run.attacks: expected a known name, got 'eott'",
    ),
    "unknown dataset": ({"dataset": "digit"}, "dataset: expected a known name, got 'digit' — did you mean 'digits'?"),
    "unknown classifier": (
        {"classifier": "resnet"},
        "classifier: expected a known name, got 'resnet' — choose one of resid",
    ),
    "unknown denoiser": (
        entry("purifiers.wiener", denoiser="gaussan"),
        "purifiers.wiener.denoiser: expected a known name, got 'gaussan' — did you mean 'gaussian'?",
    ),
    "unknown purifier of a budget curve": (
        entry("run", attack_strength=["nobody"]),
        "run.attack_strength: expected a known name, got 'nobody'",
    ),
}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown subset": (
        entry("evaluation", subset="tset"),
        "evaluation.subset: expected a subset or a list, got 'tset' — did you mean 'test'?",
    ),
    "list beyond the subset": (
        entry("evaluation", subset="addt_cifar10"),
        "index_lists.addt_cifar10: expected indices below 400, the images of test, got 1023 — enlarge the subset",
    ),
    "list with the name of a subset": (
        {"index_lists": {"test": {"within": "test", "indices": [0], "sha256": "0" * 64}}},
        "index_lists.test: expected a name beside train, validation, test, got 'test' — rename it",
    ),
    "list with an image twice": (
        {"index_lists": {"mine": {"within": "test", "indices": [4, 2, 4], "sha256": "0" * 64}}},
        "index_lists.mine: expected every index once, got 4 2 times — remove it",
    ),
    "list with another hash": (
        {"index_lists": {"mine": {"within": "test", "indices": [4, 2], "sha256": "0" * 64}}},
        "index_lists.mine: expected indices with sha256 0000",
    ),
    "list in a file that is not there": (
        {"index_lists": {"mine": {"within": "test", "path": "nowhere.json", "sha256": "0" * 64}}},
        "index_lists.mine: expected a list of indices in nowhere.json, got something else",
    ),
    "more drawn than there are": (
        entry("index_lists.lee_kim_svhn", count=30000),
        "index_lists.lee_kim_svhn.count: expected at most of = 26032, got 30000 — lower it",
    ),
    "more images than the list has": (
        {
            "index_lists": {"mine": {"within": "test", "indices": [1, 0], "sha256": PAIR}},
            "evaluation": {"subset": "mine"},
        },
        "evaluation.images: expected at most 2 (images of mine), got 300 — lower it",
    ),
    "method that nobody published": (
        {"ledger": {"purifiers": {"ddpm_150": "DiffPur"}}},
        "ledger.purifiers.ddpm_150: expected the method of an entry of ledger.yaml, got 'DiffPur' — did you mean",
    ),
    "attack that nobody published": (
        {"ledger": {"attacks": {"fixed": "PGD200"}}},
        "ledger.attacks.fixed: expected the attack of an entry of ledger.yaml, got 'PGD200' — ",
    ),
    "too large t_star": (entry("purifiers.ddpm_25", t_star=1001), "purifiers.ddpm_25.t_star: expected at most 1000"),
    "more steps than t_star": (
        entry("purifiers.ddpm_25", steps=26),
        "purifiers.ddpm_25.steps: expected at most t_star = 25, got 26 — lower steps",
    ),
    "noise that cannot be undone": (
        entry("denoisers.unet.schedule", beta_end=0.999),
        "purifiers.ddpm_300.t_star: expected a level that ddpm can undo, got 300 on the schedule of 'unet'",
    ),
    "schedule backwards": (
        entry("denoisers.gaussian.schedule", beta_start=0.03),
        "denoisers.gaussian.schedule.beta_start: expected at most beta_end = 0.02, got 0.03 — exchange them",
    ),
    "levels beyond the schedule": (
        entry("denoisers.unet.training", low_below=1001),
        "denoisers.unet.training.low_below: expected at most train_steps = 1000, got 1001 — lower it",
    ),
    "warm-up longer than training": (
        entry("classifiers.residual", warmup=401),
        "classifiers.residual.warmup: expected at most steps = 400, got 401 — lower it",
    ),
    "shift out of the image": (
        entry("classifiers.residual", shift=16),
        "classifiers.residual.shift: expected less than",
    ),
    "blur wider than the image": (
        entry("purifiers.blur", sigma=17),
        "purifiers.blur.sigma: expected at most the image",
    ),
    "groups that do not divide": (
        entry(NETWORK, norm_num_groups=5),
        f"{NETWORK}.norm_num_groups: expected a divisor of 8 channels, got 5 — choose another",
    ),
    "heads that do not divide": (
        entry(NETWORK, add_attention=True, attention_head_dim=5),
        f"{NETWORK}.attention_head_dim: expected a divisor of 32 channels, got 5 — choose another",
    ),
    "odd first width": (
        entry(NETWORK, block_out_channels=[9, 9, 9], norm_num_groups=9),
        f"{NETWORK}.block_out_channels[0]: expected an even number >= 4, got 9",
    ),
    "fewer blocks than widths": (
        entry(NETWORK, up_block_types=["UpBlock2D"]),
        f"{NETWORK}.up_block_types: expected 3 entries, one per entry of block_out_channels, got 1",
    ),
    "size that cannot be halved": (
        entry("datasets.digits", size=18),
        f"{NETWORK}.block_out_channels: expected resolutions that halve the image size 18",
    ),
    "splits beyond the dataset": (
        entry("datasets.digits.splits", train=1098),
        "datasets.digits.splits: expected at most 1797 images in total, got 1798 — lower one",
    ),
    "picture smaller than the crop": (
        parquet(resize=16),
        "datasets.mine.resize: expected 0 or at least size = 32, got 16 — raise it",
    ),
    "one training image": (
        entry("datasets.digits.splits", train=1),
        "datasets.digits.splits.train: expected at least 2",
    ),
    "null model that is a network": ({"null_denoiser": "unet"}, "null_denoiser: expected a denoiser of kind gaussian"),
    "headline without a null model": (entry("run", headline="wiener"), "run.headline: expected a diffusion purifier"),
    "headline that purifies nothing": (
        entry("run", headline="ddpm_0"),
        "run.headline: expected a purifier with t_star",
    ),
    "identity that is none": (
        {"purifiers": {"identity": {"kind": "constant", "value": 0.5}}},
        "purifiers.identity.kind: expected identity",
    ),
    "point that is a control": (
        entry("run", controls=["identity", "ddpm_25"]),
        "run.controls: expected no purifier of run.sweep, got 'ddpm_25'",
    ),
    "no undefended classifier": (entry("run", controls=["blur"]), "run.controls: expected 'identity' among them"),
    "measured but not evaluated": (
        entry("run", controls=["identity"]),
        "run.randomness: expected purifiers of run.sweep or run.controls, got 'blur'",
    ),
    "lucky stop": (entry("attacks.eot", stop_when_broken=True), "attacks.eot.stop_when_broken: expected false unless"),
    "restarts without random starts": (
        entry("attacks.fixed", restarts=3),
        "attacks.fixed.restarts: expected 1 without",
    ),
    "lucky restart": (
        entry("attacks.eot", restarts=3, random_start=True),
        "attacks.eot.judges: expected the number of draws on which several runs are compared, got none",
    ),
    "judges without a choice": (entry("attacks.eot", judges=9), "attacks.eot.judges: expected none, got 9 — remove it"),
    "targeted loss without targets": (
        entry("attacks.fixed", loss="targeted_dlr"),
        "attacks.fixed.targets: expected a number with loss 'targeted_dlr', got none",
    ),
    "targets without a targeted loss": (entry("attacks.fixed", targets=2), "attacks.fixed.targets: expected none with"),
    "base attack with a budget of its own": (
        entry("attacks.strong.threat", norm="l2", epsilon=1.5),
        "attacks.strong.threat: expected none, got one",
    ),
    "base attack without knowledge": ({"base_attack": "eot"}, "attacks.eot.knowledge: expected both"),
    "base attack without its gradient": ({"base_attack": "bpda"}, "attacks.bpda.gradient: expected replay or autograd"),
    "base attack with an approximation": (
        entry("attacks.strong_aim", gradient="adjoint"),
        "attacks.strong_aim.gradient: expected replay or autograd, got 'adjoint'",
    ),
    "surrogate without its steps": (
        entry("attacks.bpda", gradient="surrogate"),
        "attacks.bpda.surrogate_steps: expected a number of steps with gradient surrogate and none without it, got",
    ),
    "steps of no surrogate": (
        entry("attacks.eot", surrogate_steps=2),
        "attacks.eot.surrogate_steps: expected a number of steps with gradient surrogate and none without it, got 2",
    ),
    "surrogate that is not cheaper": (
        {"attacks": {"cheap": {**SURROGATE, "surrogate_steps": 9}}, **entry("run.attacks", cheap=["ddpm_150"])},
        "attacks.cheap.surrogate_steps: expected at most the 5 steps of ddpm_150, got 9",
    ),
    "guidance of no surrogate": (
        entry("attacks.eot", surrogate_guidance={"label": "expected"}),
        "attacks.eot.surrogate_guidance: expected none without gradient surrogate, got one with replay",
    ),
    "surrogate guidance of a purifier without": (
        {"attacks": {"other": {**SURROGATE, "surrogate_steps": 5, "surrogate_guidance": {"label": "expected"}}}}
        | entry("run.attacks", other=["ddpm_150"]),
        "attacks.other.surrogate_guidance: expected purifiers guided by a network only, got ['ddpm_150']",
    ),
    "surrogate guidance of the transfer attack": (
        entry("attacks.transfer", gradient="surrogate", surrogate_steps=5, surrogate_guidance={"label": "expected"}),
        "attacks.transfer.surrogate_guidance: expected purifiers guided by a network only, got ['identity']",
    ),
    "pool without a use": (
        entry("attacks.eot", pool=3),
        "attacks.eot.pool: expected a number of draws with knowledge semi and none without it, got 3",
    ),
    "knowledge without its pool": (
        entry("attacks.eot", knowledge="semi"),
        "attacks.eot.pool: expected a number of draws with knowledge semi and none without it, got none",
    ),
    "more known than judged so": (
        entry("attacks.semi", images=61),
        "attacks.semi.images: expected at most evaluation.known_images = 60, got 61",
    ),
    "knowledge that is not judged": (
        entry("run.attacks", semi=["ddpm_150", "ddpm_25"]),
        "run.varied: expected 'ddpm_25' of run.attacks.semi among them",
    ),
    "unknown knowledge": (entry("attacks.eot", knowledge="all"), "attacks.eot.knowledge: expected one of"),
    "rung that does not run": (
        entry("run.attacks", adjoint=["ddpm_25"]),
        "run.ladder: expected attacks that run on the headline 'ddpm_150', got 'adjoint'",
    ),
    "unknown purifier compared": (
        entry("run", comparison={"ddim_20": "ddpm_150"}),
        "run.comparison: expected a known name, got 'ddim_20'",
    ),
    "compared with what is not evaluated": (
        entry("run", comparison={"blur": "ddpm_150"}, controls=["identity", "constant", "wiener", "ddpm_0"]),
        "run.comparison: expected purifiers of run.sweep or run.controls, got 'blur'",
    ),
    "unknown rung": (entry("run", ladder=["eott"]), "run.ladder: expected a known name, got 'eott'"),
    "attack with the name of a row": (
        entry("run.attacks", transfer=["ddpm_25"]),
        "run.attacks.transfer: expected an attack beside clean, random, transfer",
    ),
    "eot that knows the noise": (
        entry("attacks.eot", knowledge="both"),
        "attacks.eot.knowledge: expected none, got 'both'",
    ),
    "bpda that is exact": (
        entry("attacks.bpda", gradient="replay"),
        "attacks.bpda.gradient: expected bpda, got 'replay'",
    ),
    "claims without their attack": (entry("run.attacks", eot=[]), "run.attacks.eot: expected the headline 'ddpm_150'"),
    "fewer attacked than evaluated": (
        entry("attacks.strong", images=299),
        "attacks.strong.images: expected at least evaluation.images = 300, got 299",
    ),
    "more images than there are": (entry("evaluation", images=5000), "evaluation.images: expected at most 400"),
    "more votes than draws": (entry("evaluation", votes=99), "evaluation.votes: expected at most draws = 20, got 99"),
    "worst of more than draws": (entry("evaluation", worst_of=21), "evaluation.worst_of: expected at most draws = 20"),
    "more samples than images": (entry("evaluation", samples=301), "evaluation.samples: expected at most images = 300"),
    "no subset to fit": (
        entry("fit", subsets={"all": 0, "t* <= 100": 0}),
        "fit.subsets: expected one with at least 6 purifiers of run.sweep",
    ),
    "budget curve at other steps": (
        entry("attack_strength", undefended=[{"scale": 0.0, "steps": 19}]),
        "attack_strength.undefended: expected an entry with steps = 20",
    ),
    "budget curve without its start": (
        entry("attack_strength", defended=[{"scale": 1.0, "steps": 20}]),
        "attack_strength.defended: expected an entry with scale = 0",
    ),
}
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": (
        own("nowhere.py"),
        "purifiers.mine.path: expected a Python file, got none at nowhere.py — correct",
    ),
    "missing weights": (
        {**published(), "classifier": "theirs"},
        "classifiers.theirs.path: expected published weights, got none at nowhere.th — correct the path",
    ),
    "classifier of other classes": (
        {**published(path=".", classes=100), "classifier": "theirs"},
        "classifiers.theirs.classes: expected 10, those of the dataset, got 100 — use one made for it",
    ),
    "colour classifier of gray images": (
        {**published(path="."), "classifier": "theirs"},
        "classifiers.theirs.kind: expected a classifier of gray images, got cifar_resnet — it takes three channels",
    ),
    "missing data": (
        {**parquet(), "dataset": "mine"},
        "datasets.mine.files.test: expected a file, got none at nowhere.parquet — correct the path",
    ),
    "folder for a file": (own("."), "purifiers.mine.path: expected a Python file"),
    "syntax error": (
        own("broken.py"),
        "purifiers.mine.path: expected Python code in broken.py, line 2, got an error (",
    ),
    "no text": (own("binary.py"), "purifiers.mine.path: expected Python code in binary.py"),
    "missing factory": (
        own("good.py", "make_purifer"),
        "purifiers.mine.factory: expected a function of good.py, got 'make_purifer' — did you mean 'make_purifier'?",
    ),
    "factory inside another function": (
        own("good.py", "inner"),
        "purifiers.mine.factory: expected a function of good.py",
    ),
    "results are a file": ({"results": "good.py"}, "results: expected a folder, got 'good.py' where"),
    "results below a file": ({"results": "good.py/here"}, "results: expected a folder, got 'good.py/here' where"),
    "results among the sources": ({"results": f"{ROOT}/config/mine"}, "results: expected a folder of its own, got"),
    "results are the project": ({"results": str(ROOT)}, "results: expected a folder of its own, got"),
    "results with a wildcard": (
        {"results": "results/{run}"},
        "results: expected a plain folder name, got 'results/{run}'",
    ),
    "results at home": ({"results": "~/results"}, "results: expected a plain folder name, got '~/results'"),
    "results without a name": ({"results": ""}, "results: expected at least 1 characters, got ''"),
}
CASES = SCHEMA | NAMES | CONTRADICTIONS | PLACES


def merged(changes: dict[str, Any]) -> dict[str, Any]:
    """The default configuration with changes, as Snakemake merges them."""
    config = copy.deepcopy(DEFAULT)
    update_config(config, changes)
    return config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with Python files of several kinds."""
    (tmp_path / "good.py").write_text("raise SystemExit\ndef make_purifier(**_):\n    def inner(): ...\n")
    (tmp_path / "broken.py").write_text("x = 1\ndef make_purifier(:\n")
    (tmp_path / "binary.py").write_bytes(b"\0\1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_that_cannot_run_is_refused_in_sentences(folder: Path, case: str) -> None:
    changes, sentence = CASES[case]
    found = problems(merged(changes))
    assert any(line.startswith(sentence) for line in found), found
    assert all(SENTENCE.fullmatch(line) for line in found), found


def test_good_configurations_are_accepted(folder: Path) -> None:
    (folder / "mine.py").write_text("from elsewhere import *\n")
    changes = own("good.py"), own("mine.py", "anything"), {"results": "results/mine"}, {"results": str(folder / "new")}
    for change in ({}, *changes, entry("denoisers.unet.network", attention_head_dim=4)):
        assert problems(merged(change)) == []
    for name in ("smoke", "validation"):
        assert problems(merged(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()))) == []


def test_everything_wrong_is_listed_at_once() -> None:
    found = problems(merged({"seed": -1, "bach_size": 4, "threat": {"norm": "l0"}, "purifiers": {"blur": {"eta": 1}}}))
    assert [line.partition(":")[0] for line in sorted(found)] == [
        "bach_size",
        "purifiers.blur.eta",
        "seed",
        "threat.norm",
    ]


def test_what_the_workflow_assumes_of_dataset_and_network_is_theirs() -> None:
    assert len(READERS["digits"]({"size": 8})["test"].labels) == DIGITS
    unet = schema()["$defs"]["unet"]["properties"]
    blocks = {*unet["down_block_types"]["items"]["enum"], *unet["up_block_types"]["items"]["enum"]}
    assert blocks == set(_BLOCKS)
    UNet.from_config({**DEFAULT["denoisers"]["unet"]["network"], "in_channels": 1, "out_channels": 1})


# Texts of a configuration file, and the sentence (after the file's name) each is refused with.
FILES: dict[str, tuple[str | bytes | None, str]] = {
    "syntax": ("run: [a, b\nseed: 1\n", ", line 2: expected valid YAML, got an error ("),
    "tab": ("threat:\n\tepsilon: 1\n", ", line 2: expected valid YAML, got an error (found character"),
    "duplicate key": (
        "seed: 1\nthreat: {epsilon: .1}\nseed: 2\n",
        ", line 3: expected every key once, got 'seed' again (f",
    ),
    "duplicate inner key": (
        "run:\n  varied: []\n  varied: [a]\n",
        ", line 3: expected every key once, got 'varied' again",
    ),
    "duplicate key of JSON": ('{"seed": 1,\n"seed": 2}', ", line 2: expected every key once, got 'seed' again"),
    "tabs of JSON": ('{"run":\n\t{"seed": 1, "seed": 2}}', ", line 2: expected every key once, got 'seed' again"),
    "list": ("- seed: 1\n", ": expected `key: value` pairs, got a list"),
    "word": ("seed\n", ": expected `key: value` pairs, got a single value"),
    "empty": ("# nothing yet\n", ": expected `key: value` pairs, got an empty file"),
    "two documents": (
        "seed: 1\n---\nseed: 2\n",
        ", line 2: expected valid YAML, got an error (but found another document",
    ),
    "unknown tag": (
        "seed: !number 1\n",
        ", line 1: expected valid YAML, got an error (could not determine a constructor",
    ),
    "unknown anchor": ("seed: *one\n", ", line 1: expected valid YAML, got an error (found undefined alias"),
    "not text": (b"seed: \xff\n", ": expected UTF-8 text, got byte 0xff"),
    "impossible date": ("seed: 2020-99-01\n", ": expected values YAML can hold, got an error (month must be in 1..12)"),
    "missing": (None, ": expected a configuration file, got no such file — correct the path"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read_is_named_with_the_line(folder: Path, case: str) -> None:
    text, sentence = FILES[case]
    if text is not None:
        (folder / "my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (found,) = file_problems(["my.yaml"])
    assert found.startswith(f"my.yaml{sentence}"), found
    assert SENTENCE.fullmatch(found), found


def test_make_checks_the_file_before_snakemake_reads_it(folder: Path) -> None:
    command = [sys.executable, "-m", "workflow_scripts.configuration_files"]
    refused = subprocess.run([*command, str(folder / "no.yaml")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert subprocess.run([*command, "config/smoke.yaml"], cwd=ROOT, check=False).returncode == 0
    assert "workflow_scripts.configuration_files $(CONFIG)" in (ROOT / "Makefile").read_text()


# Cases that also go through Snakemake: one per step of the check.
THROUGH_SNAKEMAKE = ("misspelt key", "eta of a ddpm", "unknown purifier", "lucky stop", "missing file")


@pytest.mark.parametrize("case", THROUGH_SNAKEMAKE)
def test_snakemake_refuses_it_too(project: Project, case: str) -> None:
    changes, sentence = CASES[case]
    done = project.snakemake("-n", "--", "results/tables", config=changes)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert sentence in said and "Traceback" not in said and "Failed validating" not in said, said[-2000:]


def test_snakemake_refuses_a_file_with_a_duplicate_key(project: Project) -> None:
    (project.folder / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    done = Project(project.folder, Path("twice.yaml")).snakemake("-n", "--", "results/tables")
    assert done.returncode != 0
    assert "twice.yaml, line 2: expected every key once, got 'seed' again" in done.stdout + done.stderr
