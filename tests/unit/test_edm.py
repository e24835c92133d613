"""EDM networks: the release's layout written out from its definition, the change of variables, what is refused."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purification.models.denoisers import GaussianEpsilon, preconditioned_epsilon
from purification.models.edm_unet import EdmUNet, released_layout
from purification.models.loading import load_denoiser, save_model
from purification.models.published_denoisers import convert_denoiser
from purification.schedule import Level, Schedule

CPU = torch.device("cpu")
SENTENCE = re.compile(r"expected .+, got .+ — .+")
SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "train_steps": 1000}
SETTINGS: dict[str, Any] = {
    **{"kind": "edm", "size": 16, "width": 16, "multipliers": [1, 2, 2], "layers": 2, "attention": [8]},
    **{"sigma_data": 0.5, "schedule": SCHEDULE},
}
State = dict[str, Tensor]


class Release:
    """Forward pass of D(y; sigma) in the names of the release; weights are drawn when a pass first asks for them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.state = settings, State()
        self.random = torch.Generator().manual_seed(0)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
            value = scale * torch.randn(shape, generator=self.random)
            self.state[name] = value + (1.0 if re.search(r"norm\d?\.weight$", name) else 0.0)
        return self.state[name]

    def convolved(self, x: Tensor, name: str, out: int, size: int, resample: str = "") -> Tensor:
        if resample:  # with a 2x2 filter of 1/4, which the release keeps among its weights
            box = self.state.setdefault(f"{name}.resample_filter", torch.full((1, 1, 2, 2), 0.25))
            filters, groups = box.repeat(x.shape[1], 1, 1, 1), x.shape[1]
            if resample == "down":
                x = F.conv2d(x, filters, stride=2, groups=groups)
            else:
                x = F.conv_transpose2d(x, 4 * filters, stride=2, groups=groups)
        weight, bias = self.weight(f"{name}.weight", out, x.shape[1], size, size), self.weight(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, padding=size // 2)

    def dense(self, x: Tensor, name: str, out: int) -> Tensor:
        return x @ self.weight(f"{name}.weight", out, x.shape[1]).T + self.weight(f"{name}.bias", out)

    def normed(self, x: Tensor, name: str) -> Tensor:
        groups = min(32, x.shape[1] // 4)
        parts = x.double().reshape(len(x), groups, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
        weight, bias = (self.weight(f"{name}.{part}", x.shape[1]).view(1, -1, 1, 1) for part in ("weight", "bias"))
        return parts.view_as(x).float() * weight + bias

    def block(self, x: Tensor, time: Tensor, name: str, out: int, resample: str = "", attend: bool = False) -> Tensor:
        h = self.convolved(F.silu(self.normed(x, f"{name}.norm0")), f"{name}.conv0", out, 3, resample)
        h = h + self.dense(time, f"{name}.affine", out)[:, :, None, None]
        h = self.convolved(F.silu(self.normed(h, f"{name}.norm1")), f"{name}.conv1", out, 3)
        if resample or x.shape[1] != out:
            x = self.convolved(x, f"{name}.skip", out, 1, resample)
        x = (h + x) * 0.5**0.5
        if not attend:
            return x
        qkv = self.convolved(self.normed(x, f"{name}.norm2"), f"{name}.qkv", 3 * out, 1)
        q, k, v = (qkv[:, j::3].flatten(2).double() for j in range(3))
        weights = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) / out**0.5, dim=2)
        h = torch.einsum("bqk,bck->bcq", weights, v).float().view_as(x)
        return (x + self.convolved(h, f"{name}.proj", out, 1)) * 0.5**0.5

    def raw(self, x: Tensor, label: float) -> Tensor:
        s = self.settings
        half, time = s["width"] // 2, 4 * s["width"]
        angles = [label / 10000 ** (k / (half - 1)) for k in range(half)]
        features = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]])
        emb = F.silu(self.dense(features, "map_layer0", time))
        emb = F.silu(self.dense(emb, "map_layer1", time))
        self.weight("map_augment.weight", s["width"], 9)
        widths = [s["width"] * m for m in s["multipliers"]]
        side, top = s["size"], len(widths) - 1
        skips = [self.convolved(x, f"enc.{side}x{side}_conv", s["width"], 3)]
        for level, out in enumerate(widths):
            side = s["size"] >> level
            if level:
                skips.append(self.block(skips[-1], emb, f"enc.{side}x{side}_down", skips[-1].shape[1], "down"))
            for i in range(s["layers"]):
                attend = side in s["attention"]
                skips.append(self.block(skips[-1], emb, f"enc.{side}x{side}_block{i}", out, attend=attend))
        x = skips[-1]
        for level in range(top, -1, -1):
            side, out = s["size"] >> level, widths[level]
            if level == top:
                x = self.block(x, emb, f"dec.{side}x{side}_in0", out, attend=True)
                x = self.block(x, emb, f"dec.{side}x{side}_in1", out)
            else:
                x = self.block(x, emb, f"dec.{side}x{side}_up", x.shape[1], "up")
            for i in range(s["layers"] + 1):
                attend = i == s["layers"] and side in s["attention"]
                x = self.block(torch.cat([x, skips.pop()], 1), emb, f"dec.{side}x{side}_block{i}", out, attend=attend)
        return self.convolved(
            F.silu(self.normed(x, f"dec.{side}x{side}_aux_norm")), f"dec.{side}x{side}_aux_conv", 3, 3
        )

    def denoised(self, y: Tensor, sigma: float) -> Tensor:
        data = self.settings["sigma_data"]
        total = sigma**2 + data**2
        raw = self.raw(y / total**0.5, math.log(sigma) / 4)
        return data**2 / total * y + sigma * data / total**0.5 * raw


@pytest.fixture
def states() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def made(folder: Path, **changes: Any) -> tuple[Release, dict[str, Any]]:
    """A release with random weights, which one pass has drawn, and the settings that name its file."""
    settings = {**SETTINGS, **changes, "path": str(folder / "edm.pt")}
    release = Release(settings)
    release.denoised(torch.zeros(1, 3, settings["size"], settings["size"]), 1.0)
    torch.save({f"model.{name}": value for name, value in release.state.items()}, folder / "edm.pt")
    return release, settings


@pytest.mark.parametrize("alpha_bar", [0.9999, 0.9, 0.3, 1e-4])
@pytest.mark.parametrize("changes", [{}, {"multipliers": [2, 2], "attention": [16], "layers": 1, "sigma_data": 0.7}])
def test_the_noise_is_that_of_the_released_denoiser(
    alpha_bar: float, changes: dict[str, Any], tmp_path: Path, states: Tensor
) -> None:
    """eps = (y - D(y; sigma)) / sigma at y = u / sqrt(abar), sigma = sqrt((1 - abar) / abar)."""
    release, settings = made(tmp_path, **changes)
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", *convert_denoiser(settings, 3))
    epsilon = load_denoiser(tmp_path / "ours", SCHEDULE, CPU, torch.float32).epsilon
    y, sigma = states.double() / alpha_bar**0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5
    data = settings["sigma_data"]
    raw = release.raw((y / (sigma**2 + data**2) ** 0.5).float(), math.log(sigma) / 4).double()
    total = sigma**2 + data**2
    expected = (y - data**2 / total * y - sigma * data / total**0.5 * raw) / sigma
    got = epsilon(states, Level(0.0, alpha_bar)).double()
    assert float(raw.std()) > 0.05 and float((got - expected).norm() / expected.norm()) < 1e-5
    if alpha_bar == 0.3:
        other = (y - release.denoised(y.float(), sigma).double()) / sigma
        assert float((got - other).norm() / other.norm()) < 1e-5


def test_every_state_has_its_own_level_where_levels_are_many(tmp_path: Path, states: Tensor) -> None:
    config, weights = convert_denoiser(made(tmp_path)[1], 3)
    network = EdmUNet(config)
    network.load_state_dict(weights)
    both = network(states, torch.tensor([0.1, 3.0]))
    alone = torch.cat([network(states[:1], 0.1), network(states[1:], 3.0)])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


class Ideal(nn.Module):
    """F of the optimal denoiser D(y; sigma) = m + C (C + sigma^2)^-1 (y - m) of data N(m, C), C diagonal."""

    def __init__(self, mean: Tensor, variances: Tensor, data: float) -> None:
        super().__init__()
        self.mean, self.variances, self.data = mean, variances, data

    def labelled(self, x: Tensor, labels: Tensor) -> Tensor:
        sigma = torch.exp(4 * labels.double()).view(-1, 1, 1, 1)
        total = sigma**2 + self.data**2
        y = x * total.sqrt()
        best = self.mean + self.variances / (self.variances + sigma**2) * (y - self.mean)
        out: Tensor = (best - self.data**2 / total * y) / (sigma * self.data / total.sqrt())
        return out


@pytest.mark.parametrize("index", [0, 26, 99, 500, 999])
def test_the_ideal_denoiser_of_gaussian_data_gives_the_noise_in_closed_form(index: int) -> None:
    random = torch.Generator().manual_seed(2)
    mean, states = torch.randn(2, 3, 2, 2, generator=random, dtype=torch.float64)
    variances = torch.rand(3, 2, 2, generator=random, dtype=torch.float64) + 0.01
    network = EdmUNet({**SETTINGS, "channels": 3})
    network.network = Ideal(mean, variances, 0.5)  # type: ignore[assignment]
    level = Schedule(**SCHEDULE).level(index)
    expected = GaussianEpsilon(mean, torch.eye(12, dtype=torch.float64), variances.flatten())(states[None], level)
    got = preconditioned_epsilon(network)(states[None], level)
    assert float((got - expected).abs().max()) < 2e-6 * float(expected.abs().max() + 1)  # the label is float32


def test_the_published_size_has_the_published_number_of_weights() -> None:
    """55.7 M, 223 MB; map_augment and the filters, which are not read, are not among them."""
    config = {**SETTINGS, "size": 32, "channels": 3, "width": 128, "multipliers": [2] * 3, "layers": 4}
    layout = released_layout({**config, "attention": [16]})
    assert sum(tensor.numel() for tensor in layout.values()) == 55_732_739
    assert layout["enc.16x16_block3.qkv.weight"].shape == (768, 256, 1, 1)
    assert layout["dec.8x8_in0.proj.bias"].shape == (256,) and "enc.8x8_down.skip.weight" in layout


def _changed(change: Callable[[State], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        torch.save(change(made(folder)[0].state), folder / "edm.pt")

    return make


def _pickled(folder: Path) -> None:
    (folder / "edm.pt").write_bytes(pickle.dumps({"ema": made(folder)[0].state}, protocol=2))


QKV = "enc.8x8_block0.qkv.weight"
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (
        _changed(lambda s: {k: v for k, v in s.items() if k != QKV}),
        f"expected weights '{QKV}' in .*, got a file without — ",
    ),
    "class-conditional": (
        _changed(lambda s: {**s, "map_label.weight": torch.zeros(16, 10)}),
        "expected no weights 'map_label.weight' in .*, got a file that has them — ",
    ),
    "other shape": (
        _changed(lambda s: {**s, QKV: s[QKV][:32]}),
        rf"expected weights '{QKV}' of shape \(96, 32, 1, 1\) in .*, got \(32, 32, 1, 1\) — ",
    ),
    "NaN": (_changed(lambda s: {**s, QKV: s[QKV] * math.nan}), f"expected finite weights in .* in '{QKV}' — "),
    "another filter": (
        _changed(lambda s: {**s, "enc.8x8_down.conv0.resample_filter": torch.full((1, 1, 4, 4), 1 / 16)}),
        "expected filters of 2x2 equal numbers in .*, got another in 'enc.8x8_down.conv0.resample_filter' — .*NCSN",
    ),
    "pickle": (
        _pickled,
        r"expected plain tensors in .*, got a file that needs more to be read .* state dict: python -c \"import pickle",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_network_of_the_release_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    make, sentence = BAD[case]
    make(tmp_path)
    with pytest.raises(ValueError) as error:
        convert_denoiser({**SETTINGS, "path": str(tmp_path / "edm.pt")}, 3)
    assert re.match(sentence, str(error.value)), error.value
    assert SENTENCE.fullmatch(str(error.value)), error.value


def test_the_command_of_the_refusal_makes_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pickle holds a network whose class is known where it is opened; here one of our own stands for it."""
    _, settings = made(tmp_path)
    _pickled(tmp_path)
    with pytest.raises(ValueError) as error:
        convert_denoiser(settings, 3)
    found = re.search(r'python -c "(.+)" in a checkout', str(error.value))
    assert found is not None
    monkeypatch.chdir(tmp_path)
    with Path("NETWORK.pkl").open("wb") as file:
        pickle.dump({"ema": Snapshot(made(tmp_path)[0].state)}, file)
    Path("edm.pt").unlink()
    exec(found[1], {})
    config, weights = convert_denoiser(settings, 3)
    EdmUNet(config).load_state_dict(weights)


class Snapshot:
    """A network of which a pickle keeps more than tensors."""

    def __init__(self, state: State) -> None:
        self.state = state

    def state_dict(self) -> State:
        return {f"model.{name}": value for name, value in self.state.items()}
