"""The audit of a defence's gradient: zero for an honest one, and loud for each kind of mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from purification.defence import LOSSES, Defence, cross_entropy
from purification.measure.audit import Followed, Sample, audit_attack, slope_of
from purification.measure.consistency import Options, linearity
from purification.measure.masks import masked_share
from purification.measure.whole_audit import Reasons, Twins, attack_columns, purifier_columns, reasons_of
from purification.models.denoisers import Denoiser
from purification.noise import Noise, NoiseSource
from purification.purifiers import FunctionPurifier, Purifier, ResizedPurifier, purify
from purification.threat import ThreatModel

SHAPE = (1, 6, 6)
IDS = [3, 1, 4, 1 + 4, 9]
LABELS = torch.tensor([0, 1, 2, 0, 1])
SOURCE = NoiseSource(seed=0, role="fixed", shape=SHAPE)
THREAT = ThreatModel("linf", 0.1)
OPTIONS = Options(THREAT, directions=3, changes=4)
EXACT = Followed("margin", "replay")
Numbers = Callable[..., Tensor]
Audit = Callable[..., dict[str, Tensor]]


def columns_of(twins: Twins, sample: Sample, followed: Followed = EXACT) -> dict[str, Tensor]:
    """All columns of the audit of one attack."""
    reasons = reasons_of(twins, sample)
    found = purifier_columns(twins, sample, OPTIONS, 2, reasons)
    return found | attack_columns(twins, sample, followed, THREAT, 1e9, reasons)


@pytest.fixture
def sample(random_tensor: Numbers) -> Sample:
    return Sample(0.2 + 0.6 * random_tensor(5, *SHAPE), LABELS, IDS, SOURCE)


@pytest.fixture
def classifier(random_tensor: Numbers) -> Callable[[Tensor], Tensor]:
    weights = random_tensor(36, 3, seed=2, normal=True, dtype=torch.float64)
    return lambda x: x.flatten(1) @ weights.to(x.dtype)


@pytest.fixture
def audited(sample: Sample, classifier: Callable[[Tensor], Tensor]) -> Audit:
    """Purifier, or a function of images -> its audit in front of a linear classifier that is right at first."""

    def run(purifier: Any, followed: Followed = EXACT) -> dict[str, Tensor]:
        made = purifier if hasattr(purifier, "num_steps") else FunctionPurifier(lambda x, noise: purifier(x))
        defence = Defence(made, classifier, batch_size=4, gradient_batch_size=3)
        labels = defence.predict(sample.images, sample.ids, sample.source, 0)
        return columns_of(Twins(defence, defence), replace(sample, labels=labels), followed)

    return run


def worst(row: dict[str, Tensor], name: str) -> float:
    return float(row[name].max())


@pytest.mark.parametrize("settings", [{}, {"sampler": "ddim", "eta": 0.0}, {"sampler": "pf_ode"}], ids=str)
def test_an_honest_defence_passes(
    audited: Audit, curved: Denoiser, diffusion: Callable[..., Purifier], settings: dict[str, Any]
) -> None:
    row = audited(diffusion(curved, **settings))
    assert all(values.shape == (5,) for values in row.values())
    for name in ("replay_difference", "repeat_difference", "gradient_repeat", "zero_gradient", "not_finite"):
        assert worst(row, name) == 0, name
    assert max(worst(row, "batch_difference"), worst(row, "recorded_difference")) < 1e-6
    assert worst(row, "finite_difference") < 1e-3 and worst(row, "sign_mass") < 1e-6
    assert float(row["linearity"].mean()) > 0.8
    assert worst(row, "bpda_cosine") < 0.999


@pytest.mark.parametrize("loss", ["ce", "scaled_ce", "dlr", "targeted_margin"])
def test_an_honest_defence_passes_under_every_loss(audited: Audit, loss: str) -> None:
    row = audited(lambda x: x.square(), Followed(loss, "replay"))
    assert worst(row, "zero_gradient") == worst(row, "gradient_repeat") == worst(row, "sign_mass") == 0
    assert worst(row, "finite_difference") < 1


def test_bpda_is_exact_on_the_identity(audited: Audit) -> None:
    row = audited(lambda x: x)
    torch.testing.assert_close(row["bpda_cosine"], torch.ones(5), rtol=0, atol=1e-5)


def test_every_approximation_is_compared_with_the_exact_gradient(
    curved: Denoiser, diffusion: Callable[..., Purifier], classifier: Callable[[Tensor], Tensor], sample: Sample
) -> None:
    plain = Defence(diffusion(curved), classifier, batch_size=2)
    found = {}
    for name, surrogate in {"none": None, "same": plain.purifier, "fewer": diffusion(curved, steps=2)}.items():
        found[name] = columns_of(Twins(replace(plain, surrogate=surrogate), plain), sample)
    assert torch.isnan(found["none"]["surrogate_cosine"]).all()
    torch.testing.assert_close(found["same"]["surrogate_cosine"], torch.ones(5), rtol=0, atol=1e-6)
    lowest, highest = float(found["fewer"]["surrogate_cosine"].min()), worst(found["fewer"], "surrogate_cosine")
    assert 0.3 < lowest < highest < 0.9999
    assert 0.9 < worst(found["none"], "adjoint_cosine") < 0.99999


# --- one mistake each


def test_a_masked_gradient_is_flagged(audited: Audit) -> None:
    row = audited(lambda x: (8.0 * x).round() / 8.0)
    assert row["zero_gradient"].tolist() == row["masked"].tolist() == row["zero_share"].tolist() == [1.0] * 5
    assert float(row["loss_change"].min()) > 0
    assert worst(row, "replay_difference") == 0


def test_a_constant_has_no_gradient_to_mask_and_nothing_to_foresee(audited: Audit) -> None:
    row = audited(lambda x: 0.0 * x + 0.5)
    assert row["zero_gradient"].tolist() == row["loss_change"].tolist() == [0.0] * 5
    assert torch.isnan(row["linearity"]).all()


def test_a_loss_that_saturates_is_flagged_at_the_loss_of_the_attack(
    sample: Sample, classifier: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-entropy itself, which is no loss of an attack any more, on logits times 100: the margin shows nothing."""
    monkeypatch.setitem(LOSSES, "saturating", cross_entropy)
    defence = Defence(FunctionPurifier(lambda x, noise: x), lambda x: 100.0 * classifier(x), batch_size=4)
    right = replace(sample, labels=defence.logits(sample.images).argmax(dim=1))
    found = {
        loss: columns_of(Twins(defence, defence), right, Followed(loss, "replay"))
        for loss in ("saturating", "ce", "margin")
    }
    assert float(found["saturating"]["sign_mass"].mean()) > 0.5
    assert worst(found["ce"], "sign_mass") == worst(found["margin"], "sign_mass") == 0


def test_a_gradient_that_is_not_finite_is_flagged(audited: Audit) -> None:
    row = audited(lambda x: x + (x - x.detach()).sqrt())
    assert row["not_finite"].tolist() == [1.0] * 5
    half = audited(lambda x: torch.cat([x[..., :3], x[..., 3:] + (x - x.detach())[..., 3:].sqrt()], -1))
    assert half["not_finite"].tolist() == [0.5] * 5


def single_only(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise ValueError("expected float32")
    return x.square()


def test_a_defence_without_double_precision_is_compared_in_float32(audited: Audit) -> None:
    row = audited(single_only)
    assert worst(row, "finite_difference") < 1
    assert torch.isnan(row["sign_mass"]).all() and torch.isnan(row["sign_disagreement"]).all()
    wrong = audited(lambda x: single_only(x) + x.detach().square())
    assert float(wrong["finite_difference"].min()) > 1


def reasons(function: Callable[[Tensor], Tensor], sample: Sample, classifier: Callable[[Tensor], Tensor]) -> Reasons:
    defence = Defence(FunctionPurifier(lambda x, noise: function(x)), classifier, batch_size=4)
    return reasons_of(Twins(defence, defence), sample)


def test_what_cannot_be_measured_is_said(sample: Sample, classifier: Callable[[Tensor], Tensor]) -> None:
    assert reasons(lambda x: x, sample, classifier) == Reasons("", "")
    assert reasons(single_only, sample, classifier) == Reasons("", "expected float32")
    other = reasons(lambda x: x if x.dtype == torch.float64 else (8 * x).round() / 8 + 0 * x, sample, classifier)
    assert other == Reasons("", "in float64 it is another function")
    detached = reasons(lambda x: x.detach(), sample, classifier)
    assert "without a derivative" in detached.no_derivative


def test_rounding_in_float32_only_does_not_hide_behind_float64(audited: Audit) -> None:
    """In float64 it is the identity, whose gradient is right; what is measured is what runs."""
    row = audited(lambda x: x if x.dtype == torch.float64 else (20 * x).round() / 20 - 0.05 * x)
    assert float(row["linearity"].mean()) < 0.3
    assert torch.isnan(row["sign_mass"]).all()


def test_without_a_derivative_the_rest_is_still_measured(audited: Audit) -> None:
    row = audited(lambda x: x.detach())
    assert worst(row, "repeat_difference") == worst(row, "batch_difference") == 0
    for name in ("finite_difference", "linearity", "zero_gradient", "masked", "bpda_cosine"):
        assert torch.isnan(row[name]).all(), name
    bpda = audited(lambda x: x.detach(), Followed("margin", "bpda"))
    assert worst(bpda, "zero_gradient") == worst(bpda, "not_finite") == worst(bpda, "sign_mass") == 0


def test_a_detached_part_shows_in_the_finite_difference(audited: Audit) -> None:
    row = audited(lambda x: x + x.detach().square())
    assert float(row["finite_difference"].min()) > 1


@pytest.mark.parametrize("inside", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_inside_are_no_wrong_gradient(audited: Audit, inside: torch.dtype) -> None:
    row = audited(lambda x: x.to(inside).to(x.dtype).square())
    assert worst(row, "finite_difference") < 1


def test_a_kink_of_the_classifier_spoils_no_finite_difference(sample: Sample, random_tensor: Numbers) -> None:
    """A hundred rectifiers per pixel: at every step some kink is crossed by some direction."""
    first, second = random_tensor(36, 3600, seed=3, normal=True), random_tensor(3600, 3, seed=4, normal=True)

    def rectified(x: Tensor) -> Tensor:
        return (x.flatten(1) @ first.to(x.dtype)).relu() @ second.to(x.dtype)

    defence = Defence(FunctionPurifier(lambda x, noise: single_only(x)), rectified, batch_size=4)
    row = columns_of(Twins(defence, defence), sample)
    assert worst(row, "finite_difference") < 1


def test_hidden_randomness_shows_in_the_repetition(audited: Audit) -> None:
    generator = torch.Generator().manual_seed(0)
    row = audited(lambda x: x + torch.randn(x.shape, generator=generator, dtype=x.dtype))
    assert float(row["repeat_difference"].min()) > 0.1


def test_what_is_remembered_shows_beside_a_defence_that_has_seen_nothing(sample: Sample, classifier: Any) -> None:
    """Of a purifier and of a classifier; nothing shows where neither keeps anything."""

    def remembering() -> Callable[[Tensor], Tensor]:
        seen: list[Tensor] = []

        def answer(x: Tensor) -> Tensor:
            seen.append(x.detach())
            return seen[0][: len(x)] + 0.05 * x

        return answer

    def forgetful(x: Tensor) -> Tensor:
        return 1.05 * x

    def made(purify: Callable[[Tensor], Tensor], judge: Callable[[Tensor], Tensor]) -> Defence:
        return Defence(FunctionPurifier(lambda x, noise: purify(x)), lambda x: classifier(judge(x)), batch_size=5)

    def difference(purify: Callable[[], Any], judge: Callable[[], Any]) -> float:
        used = made(purify(), judge())
        unused = made(purify(), judge())
        row = columns_of(Twins(used, used, unused), sample)
        return float(row["repeat_difference"].max())

    assert difference(lambda: forgetful, lambda: forgetful) == 0
    assert difference(remembering, lambda: forgetful) > 0.01
    assert difference(lambda: forgetful, remembering) > 0.01


def test_company_shows_in_the_batch_difference(audited: Audit) -> None:
    assert worst(audited(lambda x: x - x.mean(dim=0, keepdim=True)), "batch_difference") > 0.01
    assert worst(audited(lambda x: x + 0.1 * (len(x) > 1)), "batch_difference") == pytest.approx(0.1, abs=1e-6)
    assert worst(audited(lambda x: x + 0.1 * torch.arange(len(x)).view(-1, 1, 1, 1)), "batch_difference") > 0.05


def together(x: Tensor) -> Tensor:
    if len(x) == 1:
        raise ValueError("expected several images")
    return x.square()


def test_an_image_that_cannot_be_purified_alone_is_flagged(audited: Audit) -> None:
    row = audited(together)
    assert row["batch_difference"].tolist()[:2] == [torch.inf] * 2


def test_another_function_while_gradients_are_recorded_shows(audited: Audit) -> None:
    recorded = audited(lambda x: 0.9 * x if torch.is_grad_enabled() else x)
    asked = audited(lambda x: 0.9 * x if x.requires_grad else x)
    sized = audited(lambda x: 0.9 * x if len(x) == 3 else x)  # the size of gradients, not of evaluations
    for row in (recorded, asked, sized):
        assert float(row["recorded_difference"].min()) > 0.01
    assert worst(audited(lambda x: 0.9 * x), "recorded_difference") == 0


def test_a_gradient_that_differs_the_second_time_shows() -> None:
    pulled = []

    def hooked(x: Tensor) -> Tensor:
        result = 1.0 * x
        if result.requires_grad:
            pulled.append(1)
            sign = (-1.0) ** len(pulled)
            result.register_hook(lambda slope: sign * slope)
        return result

    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    defence = Defence(FunctionPurifier(lambda x, noise: hooked(x)), lambda x: x.flatten(1)[:, :3], batch_size=3)
    sample = Sample(images, LABELS[:3], IDS[:3], SOURCE)
    row = audit_attack(defence, None, sample, EXACT, THREAT, 1e9)
    assert float(row["gradient_repeat"].min()) >= 1


def shattered(x: Tensor) -> Tensor:
    """Smooth, exact in every precision, and of slopes that have nothing to do with the surroundings."""
    return x + 0.02 * torch.sin(2000.0 * x)


def test_a_gradient_that_foresees_nothing_shows_in_the_linearity(audited: Audit) -> None:
    row = audited(shattered)
    assert worst(row, "finite_difference") < 1
    assert float(row["linearity"].mean()) < 0.3
    honest = audited(lambda x: 0.5 + 0.5 * torch.tanh(4 * (x - 0.5)))
    assert float(honest["linearity"].mean()) > 0.8


def test_a_loss_that_jumps_between_answers_shows_along_the_gradient(audited: Audit) -> None:
    """The nearest of two images with a trace of the image itself: where it is crossed, the gradient foresees little."""

    def nearest(x: Tensor) -> Tensor:
        brighter = (x.detach().flatten(1).mean(dim=1) > 0.5).to(x).view(-1, 1, 1, 1)
        return 0.996 * brighter.expand_as(x) * torch.linspace(0, 1, 36).view(SHAPE).to(x) + 0.004 * x

    assert float(audited(lambda x: x)["foreseen"].median()) == pytest.approx(1.0, abs=0.3)
    assert float(audited(lambda x: 0.5 + 0.5 * torch.tanh(6 * (x - 0.5)))["foreseen"].median()) > 0.5
    assert torch.isnan(audited(lambda x: 0.0 * x)["foreseen"]).all()
    crossed = audited(lambda x: nearest(x + 0.45))
    jumps = audited(lambda x: nearest(5.0 * x - 2.0))
    assert float(jumps["foreseen"].min()) < 0.2
    assert float(crossed["foreseen"].median()) == pytest.approx(1.0, abs=0.3), "no image crosses"


def test_linearity_is_one_for_a_linear_loss_and_minus_one_for_the_opposite_gradient(
    sample: Sample, classifier: Callable[[Tensor], Tensor]
) -> None:
    """Two classes: the margin is linear in the image."""
    defence = Defence(FunctionPurifier(lambda x, noise: x), lambda x: classifier(x)[:, :2], batch_size=4)
    binary = replace(sample, labels=LABELS % 2)
    slope = columns_slope(defence, binary)
    for sign in (1.0, -1.0):
        found = linearity(defence, binary, sign * slope, OPTIONS, 0.25)
        torch.testing.assert_close(found, torch.full((5,), sign, dtype=torch.float64), rtol=0, atol=1e-5)
    nothing = linearity(defence, binary, 0.0 * slope, OPTIONS, 0.25)
    assert nothing.tolist() == [0.0] * 5


def columns_slope(defence: Defence, sample: Sample) -> Tensor:
    return slope_of(defence, sample, EXACT, 0).gradient


@dataclass(frozen=True)
class Forgetful:
    """A chain whose step forgets its noise when it is recomputed with a graph but no history."""

    num_steps: int = 1

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        return 2.0 * images

    def step(self, number: int, state: Tensor, images: Tensor, noise: Noise) -> Tensor:
        shift = noise.normal("reverse") if state.grad_fn is not None else 0.0 * state
        return (state + shift).square()

    def finish(self, state: Tensor) -> Tensor:
        return state


def test_a_replay_with_other_noise_shows_in_the_replay_difference(audited: Audit) -> None:
    assert float(audited(Forgetful())["replay_difference"].min()) > 1e-2


def test_the_double_precision_defence_is_the_one_differentiated(
    sample: Sample, classifier: Callable[[Tensor], Tensor]
) -> None:
    """A wrong derivative in the float64 twin alone is found, in the signs too."""
    single = Defence(FunctionPurifier(lambda x, noise: x.square()), classifier, batch_size=2)
    twin = replace(single, purifier=FunctionPurifier(lambda x, noise: 2 * x.detach().square() - x.square()))
    right, wrong = (columns_of(Twins(single, double), sample) for double in (single, twin))
    assert worst(right, "finite_difference") < 1e-3 < 1 < float(wrong["finite_difference"].min())
    assert worst(right, "sign_mass") == 0 and float(wrong["sign_mass"].min()) == 1


MASKS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "nothing": (lambda x: 2.0 * x, 0.0),
    "a clamp that never acts": (lambda x: x.clamp(-10.0, 10.0), 0.0),
    "a clamp of half the values": (lambda x: (x - x.flatten(1).median(1).values[:, None, None, None]).clamp(0.0), 0.5),
    "a clamp whose derivative is put back": (lambda x: x + (x.clamp(0.4, 0.5) - x).detach(), 0.0),
    "a clamp in place": (lambda x: (1.0 * x).clamp_(2.0, 3.0), 1.0),
    "a minimum with a constant": (lambda x: torch.minimum(x, torch.full_like(x, -1.0)), 1.0),
    "hard tanh": (lambda x: F.hardtanh(10.0 + x), 1.0),
    "rounding": (lambda x: x + (3.0 * x).round(), 1.0),
    "a sign": (lambda x: x * x.sign(), 1.0),
    "a clamp inside a network": (lambda x: x * x.flatten(1).mean(1).clamp(2.0, 3.0)[:, None, None, None], 0.0),
    "the worst of two": (lambda x: x.clamp(-10.0, 10.0).floor() + x, 1.0),
    "a rectifier": (lambda x: (x - 2.0).relu(), 1.0),
    "a threshold": (lambda x: F.threshold(x, 2.0, 0.0), 1.0),
    "where": (lambda x: torch.where(x > 2.0, x, torch.zeros_like(x)), 1.0),
    "where of two paths": (lambda x: torch.where(x > 0.5, x, 2.0 * x), 0.0),
    "a filled mask": (lambda x: x.masked_fill(x < 2.0, 0.0), 1.0),
    "a clamp at twice the size": (
        lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2.0).clamp(2.0, 3.0), 2),
        1.0,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_masked_share_is_what_the_clamps_stop(random_tensor: Numbers, name: str) -> None:
    function, share = MASKS[name]
    images = 0.2 + 0.6 * random_tensor(5, *SHAPE)
    found = masked_share(FunctionPurifier(lambda x, noise: function(x)), images, SOURCE(IDS))
    torch.testing.assert_close(found, torch.full((5,), share, dtype=torch.float64), rtol=0, atol=0.03)


def test_a_mask_at_the_inner_size_of_a_resized_purifier_is_seen(
    curved: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers
) -> None:
    images = 3.0 * random_tensor(5, *SHAPE) - 1.0
    found = {}
    for clip in ("none", "clamp"):
        inner = diffusion(curved, sampler="one_step", clip=clip)
        found[clip] = masked_share(ResizedPurifier(inner, 9, SHAPE[1:]), images, SOURCE(IDS))
    assert found["none"].tolist() == [0.0] * 5
    assert float(found["clamp"].min()) > 0.1


def test_the_masked_share_of_clipped_estimates_is_that_of_the_values_cut(
    curved: Denoiser, diffusion: Callable[..., Purifier], random_tensor: Numbers
) -> None:
    images = random_tensor(5, *SHAPE)
    found = {
        clip: masked_share(diffusion(curved, sampler="one_step", clip=clip), images, SOURCE(IDS))
        for clip in ("none", "clamp", "straight_through")
    }
    estimates = purify(diffusion(curved, sampler="one_step"), images, SOURCE(IDS))
    cut = ((estimates < 0.0) | (estimates > 1.0)).flatten(1).double().mean(dim=1)
    assert float(cut.min()) > 0
    torch.testing.assert_close(found["clamp"], cut, rtol=0, atol=1e-12)
    assert found["none"].tolist() == found["straight_through"].tolist() == [0.0] * 5
