"""Denoisers: the Gaussian predictor against brute-force conditioning, and models read from disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from purification.models.classifiers import ResidualNetwork
from purification.models.denoisers import GaussianEpsilon, fit_gaussian, network_epsilon
from purification.models.loading import CONFIG, WEIGHTS, load_classifier, load_denoiser, save_model
from purification.models.unet import UNet
from purification.schedule import Level, Schedule

CPU = torch.device("cpu")
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "train_steps": 1000}
SHAPE = (2, 3, 4)
SIZE = 24
Numbers = Callable[..., Tensor]


def covariance(rank: int = SIZE) -> np.ndarray:
    """A dense covariance of the given rank."""
    factor = np.random.default_rng(0).normal(size=(SIZE, rank))
    return factor @ factor.T / rank


def gaussian(mean: np.ndarray, matrix: np.ndarray, dtype: torch.dtype = torch.float64) -> GaussianEpsilon:
    values, vectors = np.linalg.eigh(matrix)
    parts = (mean.reshape(SHAPE), vectors, values.clip(0))
    return GaussianEpsilon(*(torch.from_numpy(part).to(dtype) for part in parts))


@pytest.mark.parametrize("rank", [SIZE, 5], ids=["full rank", "rank 5"])
@pytest.mark.parametrize("index", [0, 99, 500, 999])
def test_gaussian_predictor_is_the_conditional_expectation(
    schedule: Schedule, random_tensor: Numbers, index: int, rank: int
) -> None:
    """E[eps | u] = cov(eps, u) cov(u)^-1 (u - E u), from the joint law of u0, eps and u with dense matrices."""
    level = schedule.level(index)
    signal, rest = np.sqrt(level.alpha_bar), np.sqrt(1 - level.alpha_bar)
    mean, matrix = np.linspace(-1, 1, SIZE), covariance(rank)
    joint = np.block([[matrix, np.zeros((SIZE, SIZE))], [np.zeros((SIZE, SIZE)), np.eye(SIZE)]])  # of (u0, eps)
    mixing = np.hstack([signal * np.eye(SIZE), rest * np.eye(SIZE)])  # u = mixing (u0, eps)
    cross, total = (joint @ mixing.T)[SIZE:], mixing @ joint @ mixing.T
    u = random_tensor(4, *SHAPE, dtype=torch.float64, normal=True)
    expected = (u.numpy().reshape(4, SIZE) - signal * mean) @ np.linalg.solve(total, cross.T)
    out = gaussian(mean, matrix)(u, level)
    np.testing.assert_allclose(out.numpy().reshape(4, SIZE), expected, rtol=1e-8, atol=1e-10)


def test_gaussian_predictor_in_float32_is_close_to_float64(schedule: Schedule, random_tensor: Numbers) -> None:
    mean, matrix, u = np.linspace(-1, 1, SIZE), covariance(), random_tensor(4, *SHAPE, normal=True)
    single = gaussian(mean, matrix, torch.float32)(u, schedule.level(99))
    double = gaussian(mean, matrix)(u.double(), schedule.level(99))
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_gaussian_predictor_predicts_the_noise_of_a_point_distribution(
    schedule: Schedule, random_tensor: Numbers
) -> None:
    level, eps = schedule.level(99), random_tensor(4, *SHAPE, dtype=torch.float64, normal=True)
    epsilon = gaussian(np.full(SIZE, 0.3), np.zeros((SIZE, SIZE)))
    u = level.alpha_bar**0.5 * 0.3 + (1 - level.alpha_bar) ** 0.5 * eps
    torch.testing.assert_close(epsilon(u, level), eps, rtol=1e-10, atol=1e-10)


def test_fit_gaussian_recovers_a_known_mean_and_covariance() -> None:
    rng = np.random.default_rng(1)
    mean, matrix = rng.uniform(0.3, 0.7, SIZE), 0.01 * covariance()
    images = torch.from_numpy(rng.multivariate_normal(mean, matrix, 40_000).reshape(-1, *SHAPE))
    fitted = fit_gaussian(images)
    vectors, values = fitted["eigenvectors"].double(), fitted["eigenvalues"].double()
    recovered = (vectors * values) @ vectors.T
    error = 5 * 4 * np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)) * 2 / 40_000)
    assert (np.abs(recovered.numpy() - 4 * matrix) < error).all()  # u = 2 x - 1 has four times the covariance
    np.testing.assert_allclose(
        fitted["mean"].numpy().ravel(), 2 * mean - 1, atol=5 * 2 * np.sqrt(matrix.max() / 40_000)
    )
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(SIZE, dtype=torch.float64), rtol=0, atol=1e-5)
    assert {tensor.dtype for tensor in fitted.values()} == {torch.float32}


def test_fit_gaussian_is_the_sample_covariance_even_with_few_images(random_tensor: Numbers) -> None:
    images = random_tensor(7, *SHAPE)
    fitted = fit_gaussian(images)
    vectors, values = fitted["eigenvectors"], fitted["eigenvalues"]
    expected = np.cov((2 * images.double() - 1).numpy().reshape(7, SIZE), rowvar=False)
    np.testing.assert_allclose(((vectors * values) @ vectors.T).numpy(), expected, atol=1e-5)
    assert float(values.min()) >= 0 and int((values > 1e-4).sum()) == 6


def test_network_epsilon_freezes_the_network_and_reads_the_index(
    unet_config: dict[str, Any], random_tensor: Numbers
) -> None:
    network = UNet.from_config(unet_config).train()
    epsilon = network_epsilon(network)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    u = random_tensor(2, 1, 8, 8)
    assert torch.equal(epsilon(u, Level(12.0, 0.1)), network(u, 12.0))


# --- on disk


def saved_unet(folder: Path, config: dict[str, Any], randomised: Callable[..., nn.Module]) -> nn.Module:
    network = randomised(UNet.from_config(config)).eval()
    save_model(folder, config, network.state_dict())
    return network


def test_a_saved_denoiser_is_read_back_with_its_schedule(
    tmp_path: Path, unet_config: dict[str, Any], randomised: Callable[..., nn.Module], random_tensor: Numbers
) -> None:
    network = saved_unet(tmp_path, unet_config, randomised)
    denoiser = load_denoiser(tmp_path, LINEAR, CPU, torch.float32)
    u = random_tensor(2, 1, 8, 8)
    assert torch.equal(denoiser.epsilon(u, denoiser.schedule.level(99)), network(u, 99.0))
    assert denoiser.schedule == Schedule(1e-4, 0.02, 1000)
    double = load_denoiser(tmp_path, LINEAR, CPU, torch.float64)
    assert double.epsilon(u.double(), Level(99.0, 0.1)).dtype == torch.float64


def test_diffusers_reads_our_folder_and_we_read_theirs(
    tmp_path: Path, unet_config: dict[str, Any], randomised: Callable[..., nn.Module], random_tensor: Numbers
) -> None:
    network, u = saved_unet(tmp_path, unet_config, randomised), random_tensor(2, 1, 8, 8)
    theirs = UNet2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(u, 99).sample, network(u, 99.0), rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_denoiser(tmp_path / "theirs", LINEAR, CPU, torch.float32)
    assert torch.equal(again.epsilon(u, Level(99.0, 0.1)), network(u, 99.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_gaussian_is_read_back(tmp_path: Path, random_tensor: Numbers, dtype: torch.dtype) -> None:
    weights, level = fit_gaussian(random_tensor(30, *SHAPE)), Level(99.0, 0.9)
    save_model(tmp_path, {"kind": "gaussian"}, weights)
    u = random_tensor(2, *SHAPE, dtype=dtype)
    denoiser = load_denoiser(tmp_path, LINEAR, CPU, dtype)
    expected = GaussianEpsilon(**{name: tensor.to(dtype) for name, tensor in weights.items()})
    assert torch.equal(denoiser.epsilon(u, level), expected(u, level)) and denoiser.epsilon(u, level).dtype == dtype


def saved_classifier(folder: Path) -> ResidualNetwork:
    network = ResidualNetwork(1, 3, [4, 8]).eval()
    save_model(folder, {"kind": "residual", "channels": 1, "classes": 3, "widths": [4, 8]}, network.state_dict())
    return network


def test_a_saved_classifier_is_read_back_frozen(tmp_path: Path, random_tensor: Numbers) -> None:
    network, images = saved_classifier(tmp_path), random_tensor(2, 1, 8, 8)
    classifier = load_classifier(tmp_path, CPU, torch.float32)
    assert torch.equal(classifier(images), network(images)) and not classifier(images).requires_grad
    assert load_classifier(tmp_path, CPU, torch.float64)(images.double()).dtype == torch.float64


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    saved_classifier(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"expected a model with {name} in .* correct the path or train it"):
        load_classifier(tmp_path, CPU, torch.float32)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    saved_classifier(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    weights["head.bias"][0] = torch.nan
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"expected finite weights in .*, got NaN or infinity in 'head.bias'"):
        load_classifier(tmp_path, CPU, torch.float32)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    saved_classifier(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    del weights["head.bias"]
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(
        ValueError, match=rf"expected the weights of the network of {CONFIG} in .*{WEIGHTS}, got .*head\.bias"
    ):
        load_classifier(tmp_path, CPU, torch.float32)


def test_the_configuration_is_plain_sorted_json(tmp_path: Path) -> None:
    save_model(tmp_path, {"b": 1, "a": [2]}, {})
    assert json.loads((tmp_path / CONFIG).read_text()) == {"a": [2], "b": 1}
    assert (tmp_path / CONFIG).read_text().index('"a"') < (tmp_path / CONFIG).read_text().index('"b"')
