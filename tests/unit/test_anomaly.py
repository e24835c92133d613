"""AdvRAD against its known answers, and the faults of other code as regressions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from purification.anomaly import detectors
from purification.anomaly.maps import ErrorMap
from purification.attacks import PGD, Problem, pgd_attack
from purification.defence import Defence
from purification.models.denoisers import Denoiser, network_epsilon
from purification.noise import FORWARD, NoiseSource
from purification.purifiers import FunctionPurifier, purify
from purification.schedule import Schedule
from purification.threat import ThreatModel

SCHEDULE = Schedule(1e-4, 2e-2, 1000)
SHAPE = (1, 8, 8)
SOURCE = NoiseSource(3, "evaluation", SHAPE)
SETTINGS: dict[str, Any] = {
    "scales": [1, 2, 4], "window": 3, "summary": "max", "calibration": 2, "level": 50, "shots": 1,
    "purifier": {
        "kind": "diffusion", "sampler": "ddpm", "variance": "fixed_small", "t_star": 50, "steps": 2,
        "forward_noise": True, "clip": "none", "clamp_output": False,
    },
}  # fmt: skip


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def parts(denoiser: Denoiser, train: Tensor, components: int = 4) -> detectors.Parts:
    return detectors.Parts(denoiser, detectors.fit_projection(train, components), SHAPE, torch.device("cpu"))


def shrinking() -> Denoiser:
    """Optimal for standard normal data: eps = sqrt(1 - abar) u."""
    return Denoiser(lambda u, level: math.sqrt(1.0 - level.alpha_bar) * u, SCHEDULE)


def detector(arm: str, **changes: Any) -> Defence:
    train = pictures(12, 1)
    made = detectors.ARMS[arm](parts(shrinking(), train), {**SETTINGS, **changes})
    source = replace(SOURCE, role="calibration")
    return detectors.calibrated(
        made, train, range(12), source, {**SETTINGS, **changes}, batch_size=4, gradient_batch_size=4
    )


# --- error maps


def test_a_constant_error_stays_that_constant() -> None:
    """The filter is a mean whose weights sum to 1 at the border too: a sum would give 9 times the map."""
    seen = torch.zeros(2, 3, 8, 8)
    made = ErrorMap((1, 2, 4), 3)(seen, torch.full((2, 1, 3, 8, 8), 0.5))
    assert torch.allclose(made, torch.full((2, 8, 8), 0.25), atol=1e-7)


def test_the_map_by_hand() -> None:
    """One pixel off by 4: 16 at full size, (4 / 4)^2 = 1 in its block at half size; the filter takes ninths."""
    rebuilt = torch.zeros(1, 1, 1, 8, 8)
    rebuilt[0, 0, 0, 0, 0] = 4.0
    full = ErrorMap((1,), 1)(torch.zeros(1, 1, 8, 8), rebuilt)
    assert full[0, 0, 0] == 16.0 and full.sum() == 16.0
    both = ErrorMap((1, 2), 1)(torch.zeros(1, 1, 8, 8), rebuilt)
    assert float(both[0, 0, 0]) == pytest.approx(8.5)
    smooth = ErrorMap((1,), 3)(torch.zeros(1, 1, 8, 8), rebuilt)
    assert float(smooth[0, 0, 0]) == pytest.approx(16 * 4 / 9) and float(smooth[0, 1, 1]) == pytest.approx(16 / 9)


def test_several_reconstructions_are_averaged_as_maps() -> None:
    seen, rebuilt = pictures(2), torch.stack([pictures(2, 5), pictures(2, 6)], dim=1)
    error = ErrorMap((1, 2), 3)
    single = [error(seen, rebuilt[:, shot : shot + 1]) for shot in range(2)]
    assert torch.allclose(error(seen, rebuilt), (single[0] + single[1]) / 2, atol=1e-7)


@pytest.mark.parametrize(("factors", "window"), [((1,), 2), ((1,), 0), ((), 3), ((0,), 3)])
def test_a_map_that_cannot_be_is_refused(factors: tuple[int, ...], window: int) -> None:
    with pytest.raises(ValueError, match=r"expected .* got .* — "):
        ErrorMap(factors, window)


def test_scales_must_divide_the_image() -> None:
    with pytest.raises(ValueError, match="expected factors that divide 8 x 8"):
        ErrorMap((1, 3), 3)(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 1, 8, 8))


# --- scores


def test_the_reconstruction_is_of_the_data_and_not_of_the_noise() -> None:
    """With a network that knows the noise the reconstruction is the image, whatever the level."""
    images, noise = pictures(3), SOURCE([0, 1, 2])
    oracle = Denoiser(lambda u, level: noise.normal(FORWARD), SCHEDULE)
    for index in (0, 50, 400):
        made = purify(detectors.one_shot(oracle, SCHEDULE.level(index), 1), images, noise)
        seen, rebuilt = detectors.paired(1)(made)
        assert torch.equal(seen, 2 * images - 1)
        assert torch.allclose(rebuilt[:, 0], seen, atol=1e-5)


def test_the_score_of_a_perfect_reconstruction_is_the_largest_baseline() -> None:
    baseline = torch.arange(64.0).view(8, 8)
    head = detectors.Head(detectors.paired(1), ErrorMap((1, 2), 3), "max", baseline)
    u = 2 * pictures(2) - 1
    assert head(torch.cat([u, u], dim=1)).tolist() == [[0.0, 63.0], [0.0, 63.0]]
    mean = replace(head, summary="mean")
    assert mean(torch.cat([u, u], dim=1))[:, 1].tolist() == [31.5, 31.5]


def test_the_baseline_is_the_mean_map_of_the_training_images_over_the_draws() -> None:
    train, source = pictures(12, 1), replace(SOURCE, role="calibration")
    made = detector("advrad")
    assert isinstance(made.classifier, detectors.Head)
    bare = replace(made.classifier, baseline=torch.zeros(8, 8))
    maps = [bare.maps(purify(made.purifier, train, source(range(12), draw))) for draw in range(2)]
    assert torch.allclose(made.classifier.baseline, torch.cat(maps).mean(dim=0), atol=1e-6)


def test_shots_have_noise_of_their_own() -> None:
    images, noise = pictures(2), SOURCE([0, 1])
    made = detectors.one_shot(shrinking(), SCHEDULE.level(50), 2)
    _, rebuilt = detectors.paired(1)(purify(made, images, noise))
    assert rebuilt.shape == (2, 2, 1, 8, 8) and not torch.equal(rebuilt[:, 0], rebuilt[:, 1])


@pytest.mark.parametrize("arm", detectors.ARMS)
def test_a_score_depends_on_image_and_draw_alone(arm: str) -> None:
    found, images = detector(arm), pictures(6)
    together = detectors.scores(found, images, range(6), SOURCE, 0)
    alone = torch.cat([detectors.scores(found, images[k : k + 1], [k], SOURCE, 0) for k in range(6)])
    assert torch.equal(together, alone)
    again = detectors.scores(found, images, range(6), SOURCE, 1)
    assert torch.equal(together, again) == (arm == "plain")


def test_networks_are_in_evaluation_mode() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, u: Tensor, position: float) -> Tensor:
            return torch.as_tensor(self.drop(u))

    network = Dropping().train()
    made = detectors.one_shot(Denoiser(network_epsilon(network), SCHEDULE), SCHEDULE.level(50), 1)
    images, noise = pictures(2), SOURCE([0, 1])
    assert torch.equal(purify(made, images, noise), purify(made, images, noise))


def test_the_projection_keeps_what_the_axes_span() -> None:
    train = pictures(12, 1)
    exact = detectors.fit_projection(train, 11)
    seen, rebuilt = exact.split(train)
    assert torch.allclose(rebuilt[:, 0], seen, atol=1e-5)
    few = detectors.fit_projection(train, 2)
    assert torch.allclose(few.axes @ few.axes.T, torch.eye(2), atol=1e-6)
    once = few.split(train)[1][:, 0]
    assert torch.allclose(few.split((once + 1) / 2)[1][:, 0], once, atol=1e-5)
    assert (once - few.split(train)[0]).square().sum() > (rebuilt[:, 0] - seen).square().sum()


@pytest.mark.parametrize("components", [0, 12])
def test_more_axes_than_images_are_refused(components: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1 to 11 components"):
        detectors.fit_projection(pictures(12), components)


# --- attacks


LINEAR = torch.randn(64, generator=torch.Generator().manual_seed(8))
WEIGHTS = LINEAR / LINEAR.norm()


class Linear:
    """Score w.x with ||w|| = 1 on a random purifier that adds nothing: every optimum is known."""

    def __call__(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ WEIGHTS
        return torch.stack([torch.zeros_like(score), score], dim=1)


def attack(
    defence: Defence, images: Tensor, anomalous: Tensor, norm_name: str, epsilon: float, **changes: Any
) -> Tensor:
    settings = {
        "steps": 5, "step_size": 1.0, "random_start": False, "loss": "margin", "gradient": "replay", "draws": 1,
        "redraw": False, "select": "last", "stop_when_broken": False, "restarts": 1, **changes,
    }  # fmt: skip
    problem = Problem(
        defence, images, anomalous, range(len(images)), ThreatModel(norm_name, epsilon), replace(SOURCE, role="attack"),
        replace(SOURCE, role="start"), replace(SOURCE, role="judge"), 1, 1e9,
    )  # fmt: skip
    return pgd_attack(problem, PGD(**settings)).adversarial


@pytest.mark.parametrize(("norm_name", "gain"), [("l2", 1.0), ("linf", float(WEIGHTS.abs().sum()))])
def test_an_attack_raises_normal_scores_and_lowers_anomalous_ones(norm_name: str, gain: float) -> None:
    """Of a linear score by exactly epsilon times the dual norm, in images on [0, 1]."""
    defence = Defence(FunctionPurifier(lambda images, noise: images), Linear(), 4)
    images, anomalous = 0.25 + 0.5 * pictures(6), torch.tensor([0, 1, 0, 1, 1, 0])
    kept = images.clone()
    made = attack(defence, images, anomalous, norm_name, 0.02)
    change = Linear()(made)[:, 1] - Linear()(images)[:, 1]
    assert torch.allclose(change, 0.02 * gain * (1.0 - 2.0 * anomalous), atol=1e-5)
    assert torch.equal(images, kept), "the caller's images were changed"


def test_a_perturbation_inside_the_ball_stays_as_it_is() -> None:
    """One step of a tenth of the budget is not moved to the sphere, and no pixel is scaled by another's."""
    defence = Defence(FunctionPurifier(lambda images, noise: images), Linear(), 4)
    images = 0.25 + 0.5 * pictures(2)
    for norm_name, size in (("l2", 0.01), ("linf", 0.01)):
        made = attack(defence, images, torch.tensor([0, 1]), norm_name, 0.1, steps=1, step_size=0.1)
        assert torch.allclose(ThreatModel(norm_name, 1.0).size(made - images), torch.tensor(size), atol=1e-6)


def test_attacked_images_stay_in_the_box_and_the_ball() -> None:
    images, anomalous = pictures(4).round(), torch.tensor([0, 1, 0, 1])
    for arm in detectors.ARMS:
        made = attack(detector(arm), images, anomalous, "linf", 0.05)
        assert float(made.min()) >= 0.0 and float(made.max()) <= 1.0
        assert float((made - images).abs().max()) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("arm", detectors.ARMS)
def test_an_attack_moves_scores_its_way_and_without_a_budget_nowhere(arm: str) -> None:
    found, images, anomalous = detector(arm), pictures(6), torch.tensor([0, 1, 0, 1, 0, 1])
    source = replace(SOURCE, role="attack")
    before = detectors.scores(found, images, range(6), source, 0)
    gain = (1 - 2 * anomalous) * (
        detectors.scores(found, attack(found, images, anomalous, "linf", 0.05, steps=10, step_size=0.25, select="best"),
                         range(6), source, 0) - before
    )  # fmt: skip
    assert (gain > 0).all()
    assert torch.equal(attack(found, images, anomalous, "linf", 0.0), images)


@pytest.mark.parametrize("arm", detectors.ARMS)
def test_the_gradient_of_a_score_is_exact(arm: str) -> None:
    """Against differences in float64, through reconstruction, scales, filter, baseline and maximum."""
    found, images = detector(arm), pictures(1).double()
    source = replace(SOURCE, dtype=torch.float64)
    value, slope, _ = found.loss_gradient(
        images, torch.tensor([0]), [0], source, 0, loss="margin", mode="replay", kept_steps=0
    )
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ends = [
        detectors.scores(replace(found, batch_size=1), images + sign * 1e-6 * direction, [0], source, 0)
        for sign in (1, -1)
    ]
    assert float(value) == pytest.approx(float(detectors.scores(found, images, [0], source, 0)))
    assert float((ends[0] - ends[1]) / 2e-6) == pytest.approx(float((slope * direction).sum()), rel=1e-5)


# --- smoothed scores read the noisy image only


@pytest.mark.parametrize("arm", detectors.SMOOTHED)
def test_a_smoothed_score_is_a_function_of_the_noisy_image(arm: str) -> None:
    """Image and noise may be exchanged for each other as long as their sum stays: no error against the clean image."""
    purifier, split = detectors.SMOOTHED[arm](parts(shrinking(), pictures(12, 1)), 100)
    head = detectors.Head(split, ErrorMap((1, 2), 3), "max", torch.zeros(8, 8))
    sigma, images, noise = detectors.noise_scale(shrinking(), 100), pictures(3), SOURCE([0, 1, 2])
    shift = 0.3 * pictures(3, 9)

    class Shifted:
        def normal(self, stream: str, step: int = 0) -> Tensor:
            return noise.normal(stream, step) - shift / sigma

    moved: Any = Shifted()
    first, second = head(purify(purifier, images, noise)), head(purify(purifier, images + shift, moved))
    assert torch.allclose(first, second, atol=1e-5) and float(first[:, 1].min()) > 0


def test_the_noise_of_a_level_in_units_of_the_image() -> None:
    """sigma^2 = (1 - abar) / abar on [-1, 1] (.3423 at index 100), half of it on [0, 1]."""
    assert detectors.noise_scale(shrinking(), 100) == pytest.approx(0.3423 / 2, abs=5e-5)


def test_the_smoothed_map_is_the_predicted_noise() -> None:
    """u_n - u~ = sqrt((1 - abar) / abar) eps: for a constant eps the map is (1 - abar) / abar eps^2."""
    constant = Denoiser(lambda u, level: torch.full_like(u, 0.5), SCHEDULE)
    purifier, split = detectors.SMOOTHED["advrad"](parts(constant, pictures(12, 1)), 100)
    head = detectors.Head(split, ErrorMap((1, 2), 3), "max", torch.zeros(8, 8))
    assert head(purify(purifier, pictures(2), SOURCE([0, 1])))[:, 1].tolist() == pytest.approx(
        [0.25 * 0.3423**2] * 2, rel=1e-3
    )


# --- known answers of two Gaussians


def test_scores_of_two_gaussians_have_the_known_auroc() -> None:
    from purification.anomaly.auroc import wins

    rng = np.random.default_rng(0)
    normal, anomalous = rng.standard_normal((4000, 1)), 2.0 + rng.standard_normal((4000, 1))
    assert wins(anomalous, normal).mean() == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.005)
    assert wins(anomalous - 0.2, normal + 0.2).mean() == pytest.approx(0.8711, abs=0.006)
