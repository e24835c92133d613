"""Made-up rows of a run with random and degenerate results, for whatever reads rows: tables, claims, figures."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from hypothesis import strategies as st

from purification.philox import generator
from purification.reporting.reliability import CHECKS
from purification.reporting.rows import KINDS, Rows

ROOT = Path(__file__).parents[2]
HEADLINE = "ddpm_150"
SWEEP = (
    HEADLINE,
    "ddpm_10",
    "ddim_50",
    "ode_100",
    "one_step_200",
    "reverse_only_100",
    "ddpm_25",
    "sde_200",
)
CONTROLS = ("identity", "constant", "blur", "ddpm_0")
ATTACKS = ("fixed", "eot", "bpda", "adjoint", "surrogate", "one_draw", "semi")
DETECTOR = "zeros"
OUTCOMES = ("mixed", "right", "wrong", "constant", "same")
MEASURED = ("random", "equal", "zero")
Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """How the rows of a run came out.

    images, draws, classes  as counts; draws may be 0
    purifiers   points of the sweep, the headline first
    outcome     predictions: mixed, all right, all wrong, one class for every image, or the same
    for every purifier measured    measurements: random, equal on all images, or zero undefined
    share of the correlations and directional compressions that are NaN null        whether the
    null model was measured
    missing     kinds without rows of the headline;  absent  kinds without any rows
    """

    seed: int = 0
    images: int = 5
    draws: int = 3
    classes: int = 10
    purifiers: int = 7
    outcome: str = "mixed"
    measured: str = "random"
    undefined: float = 0.0
    null: bool = True
    missing: frozenset[str] = field(default_factory=frozenset)
    absent: frozenset[str] = field(default_factory=frozenset)


NAMED = {
    "all right": Case(outcome="right"),
    "all wrong": Case(outcome="wrong"),
    "one class predicted": Case(outcome="constant"),
    "one class in the data": Case(classes=1),
    "every purifier the same": Case(outcome="same", measured="equal"),
    "no draws": Case(draws=0),
    "one draw": Case(draws=1),
    "one image": Case(images=1),
    "two images": Case(images=2),
    "one purifier": Case(purifiers=1),
    "equal measurements": Case(measured="equal"),
    "zero measurements": Case(measured="zero"),
    "undefined correlations": Case(undefined=1.0),
    "some undefined correlations": Case(undefined=0.5),
    "no null model": Case(null=False),
    "nothing of the headline": Case(missing=frozenset(KINDS)),
    "only accuracies": Case(absent=frozenset(KINDS) - {"purified"}),
    "all at once": Case(images=1, draws=0, classes=1, purifiers=1, outcome="wrong", measured="zero", undefined=1.0),
}


def cases() -> st.SearchStrategy[Case]:
    """Any run, the ordinary one first."""
    kinds = st.frozensets(st.sampled_from(sorted(KINDS)))
    return st.builds(
        Case,
        seed=st.integers(0, 5),
        images=st.integers(1, 6),
        draws=st.integers(0, 4),
        classes=st.integers(1, 10),
        purifiers=st.integers(1, len(SWEEP)),
        outcome=st.sampled_from(OUTCOMES),
        measured=st.sampled_from(MEASURED),
        undefined=st.sampled_from([0.0, 0.5, 1.0]),
        null=st.booleans(),
        missing=kinds,
        absent=kinds.map(lambda chosen: chosen - {"purified"}),
    )


AUDITED = (*CHECKS, "linearity_budget", "zero_share", "sign_disagreement", "bpda_cosine", "loss_change")


@cache
def default_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((ROOT / "config/default.yaml").read_text())
    return settings


def settings_of(case: Case) -> dict[str, Any]:
    """The default configuration with short lists, as the stages give it to the reporting."""
    settings = copy.deepcopy(default_settings())
    sweep = list(SWEEP[: case.purifiers])
    names = [*sweep, *CONTROLS]
    settings["purifiers"] = {name: settings["purifiers"][name] for name in names}
    settings["evaluation"].update(images=case.images, worst_of=2, votes=3, vote_subsets=2)
    settings["run"].update(
        sweep=sweep,
        controls=list(CONTROLS),
        attacks={name: [HEADLINE] for name in ATTACKS},
        comparison={sweep[-1]: HEADLINE} if case.purifiers > 1 else {},
        distances=sweep[:3],
        randomness=[HEADLINE, "identity", "constant"],
        jacobian=[HEADLINE, "identity", "constant"],
        anomaly=[DETECTOR],
    )
    settings["published"] = copy.deepcopy(PUBLISHED)
    settings["ledger"] = {
        **settings["ledger"],
        "purifiers": {HEADLINE: "DiffPure"},
        "attacks": {"fixed": "PGD"},
    }
    settings["subsets"] = {"test": {"index": list(range(case.images)), "sha256": "00"}}
    return settings


PUBLISHED: list[dict[str, Any]] = [
    {
        "method": "DiffPure",
        "dataset": "handwritten digits",
        "classifier": "small residual network",
        "attack": attack,
        "norm": "linf",
        "epsilon": "1/10",
        "values": {"avg": 50.0, "fixed": 20.0, "wor_2": 10.0, "mv_3": 60.0},
        "source": "made up",
        "n": n,
    }
    for attack, n in (("PGD", 64), ("none", 64), ("elsewhere", 64))
]


def rows_of(case: Case) -> Rows:
    """Rows of every kind, like those of a run (docs/rows.md)."""
    settings = settings_of(case)
    run = settings["run"]
    made = {
        "purified": purified_frame(case, settings),
        "compression": compression_frame(case, [*run["sweep"], *run["controls"]]),
        "distances": distances_frame(case, run["distances"]),
        "randomness": randomness_frame(case, run["randomness"]),
        "jacobian": jacobian_frame(case, run["jacobian"]),
        "audit": audit_frame(case, [*run["sweep"], *run["controls"]], settings),
        "attack_strength": strength_frame(case, settings),
        "attack_adequacy": adequacy_frame(case, settings),
        "gradient_noise": noise_frame(case),
        "anomaly": anomaly_frame(case),
        "certificates": certificates_frame(case),
    }
    frames = {}
    for kind, frame in made.items():
        if kind in case.absent:
            continue
        frames[kind] = frame[frame.purifier != HEADLINE] if kind in case.missing else frame
    return Rows(frames, settings)


def values(case: Case, rng: Rng, count: int, *, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Measurements within a range."""
    if case.measured == "random":
        return rng.uniform(low, high, count)
    return np.full(count, (low + high) / 2.0 if case.measured == "equal" else max(low, 0.0))


def undefined(case: Case, rng: Rng, numbers: np.ndarray) -> np.ndarray:
    return np.where(rng.random(len(numbers)) < case.undefined, np.nan, numbers)


# --- predictions


def predictions(case: Case, rng: Rng, labels: np.ndarray, draws: int) -> np.ndarray:
    """(n, draws) predicted classes."""
    shape = (len(labels), draws)
    if case.outcome == "right":
        return np.broadcast_to(labels[:, None], shape)
    if case.outcome == "wrong":
        return np.broadcast_to(labels[:, None] + 1, shape)
    if case.outcome == "constant":
        return np.zeros(shape, dtype=int)
    return np.where(rng.random(shape) < rng.random(), labels[:, None], (labels[:, None] + 1) % 10)


def lists(array: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(row) for row in array]


def purified_frame(case: Case, settings: dict[str, Any]) -> pd.DataFrame:
    parts = []
    run = settings["run"]
    labels = np.arange(case.images) % case.classes
    for number, purifier in enumerate([*run["sweep"], *run["controls"]]):
        rng = generator(case.seed, "bootstrap", "purified", draw=0 if case.outcome == "same" else number)
        attacks = ["clean", "random", "transfer", settings["base_attack"], settings["challenge_attack"]]
        if purifier == HEADLINE:
            attacks.append(settings["adequacy_attack"])
        for attack in [*attacks, *(name for name, on in run["attacks"].items() if purifier in on)]:
            seen = predictions(case, rng, labels, 2 * case.draws + 3)
            once, varied, matched = (
                seen[:, :3],
                seen[:, 3 : 3 + case.draws],
                seen[:, 3 + case.draws :],
            )
            known = purifier == HEADLINE
            columns = {
                "image": range(case.images),
                "label": labels,
                "unpurified": once[:, 0],
                "fixed": once[:, 1],
            }
            columns |= {
                "varied": lists(varied),
                "matched_fixed": once[:, 2],
                "matched_varied": lists(matched),
            }
            columns |= {name: lists(varied if known else varied[:, :0]) for name in ("fixed_forward", "fixed_reverse")}
            rates = undefined(case, rng, values(case, rng, case.images))
            moved = np.full(case.images, np.nan) if attack == "clean" else rates
            columns |= {"semi": lists(varied if known else varied[:, :0]), "compression": moved}
            size = 0.0 if attack == "clean" or case.measured == "zero" else settings["threat"]["epsilon"]
            own = np.nan if attack in ("clean", "random") else (once[:, 1] == labels).astype(float)
            columns |= {"own_accuracy": own, "size_linf": size, "response": values(case, rng, case.images)}
            parts.append(pd.DataFrame({"purifier": purifier, "attack": attack, **columns}))
    return pd.concat(parts, ignore_index=True)


# --- measurements


def models(case: Case) -> tuple[str, ...]:
    return ("trained", "null") if case.null else ("trained",)


def per_image(case: Case, kind: str, names: list[str]) -> Iterator[tuple[dict[str, Any], Rng]]:
    """(the first columns of one block of rows, its generator) for every purifier and model."""
    for number, (name, model) in enumerate(itertools.product(names, models(case))):
        yield (
            {"purifier": name, "model": model, "image": range(case.images)},
            generator(case.seed, "bootstrap", kind, draw=number),
        )


def compression_frame(case: Case, names: list[str]) -> pd.DataFrame:
    parts = []
    for head, rng in per_image(case, "compression", names):
        for scale in (0.5, 1.0):
            rates = {column: values(case, rng, case.images) for column in ("compression", "compression_anchor")}
            parts.append(pd.DataFrame({**head, "probe_scale": scale, **rates}))
    return pd.concat(parts, ignore_index=True)


def distances_frame(case: Case, names: list[str]) -> pd.DataFrame:
    parts = []
    for head, rng in per_image(case, "distances", names):
        for start, position in itertools.product(("adversarial", "uniform", "clean"), (0.0, 1.0, 2.0)):
            columns = {metric: values(case, rng, case.images) for metric in ("l2", "linf", "ssim")}
            parts.append(pd.DataFrame({**head, "start": start, "half": "reverse", "position": position, **columns}))
    return pd.concat(parts, ignore_index=True)


def randomness_frame(case: Case, names: list[str]) -> pd.DataFrame:
    parts = []
    for head, rng in per_image(case, "randomness", names):
        columns = {"radius_before": values(case, rng, case.images)}
        for condition in ("varied", "fixed", "both"):
            for name in ("correlation", "correlation_from_clean"):
                correlations = values(case, rng, case.images, low=-1.0)
                columns[f"{name}_{condition}"] = undefined(case, rng, correlations)
            columns[f"radius_{condition}"] = values(case, rng, case.images)
        parts.append(pd.DataFrame({**head, **columns}))
    return pd.concat(parts, ignore_index=True)


def jacobian_frame(case: Case, names: list[str]) -> pd.DataFrame:
    parts = []
    pixels = 4
    for head, rng in per_image(case, "jacobian", names):
        singular = values(case, rng, case.images * pixels, high=1.5).reshape(case.images, pixels)
        columns = {"singular_values": lists(singular), "directions": 1, "pixels": pixels}
        columns |= {"weights": lists(np.full(singular.shape, 1.0 / pixels))}
        for name in ("trace", "hutchinson"):
            found = values(case, rng, case.images)
            columns |= {name: found, f"{name}_low": 0.9 * found, f"{name}_high": 1.1 * found}
        columns |= {name: values(case, rng, case.images) for name in ("largest_matrix_free", "compression_small")}
        parts.append(pd.DataFrame({**head, **columns}))
    return pd.concat(parts, ignore_index=True)


# --- the attack's own examination


def audit_frame(case: Case, names: list[str], settings: dict[str, Any]) -> pd.DataFrame:
    parts = []
    for number, name in enumerate(names):
        rng = generator(case.seed, "bootstrap", "audit", draw=number)
        for attack in (settings["base_attack"], settings["challenge_attack"]):
            columns = {check: undefined(case, rng, values(case, rng, case.images)) for check in AUDITED}
            head = {"purifier": name, "attack": attack, "stage": 0, "loss": "ce", "gradient": "replay"}
            reason = "it rounds" if case.undefined == 1.0 else ""
            head |= {"no_derivative": reason, "no_double": "expected float32" if case.undefined else ""}
            parts.append(pd.DataFrame({**head, "image": range(case.images), **columns}))
    return pd.concat(parts, ignore_index=True)


def right(case: Case, rng: Rng) -> np.ndarray:
    labels = np.arange(case.images) % case.classes
    return np.asarray(predictions(case, rng, labels, 1)[:, 0] == labels)


def strength_frame(case: Case, settings: dict[str, Any]) -> pd.DataFrame:
    parts = []
    rng = generator(case.seed, "bootstrap", "strength")
    for purifier, points in (("identity", "undefended"), (HEADLINE, "defended")):
        for point in settings["attack_strength"][points]:
            correct = {name: right(case, rng) for name in ("correct", "correct_clean", "correct_matched")}
            head = {
                "purifier": purifier,
                **point,
                "epsilon": point["scale"] * settings["threat"]["epsilon"],
            }
            parts.append(pd.DataFrame({**head, "image": range(case.images), **correct}))
    return pd.concat(parts, ignore_index=True)


def adequacy_frame(case: Case, settings: dict[str, Any]) -> pd.DataFrame:
    parts = []
    rng = generator(case.seed, "bootstrap", "adequacy")
    for variation in settings["attack_adequacy"]["variations"]:
        entry = settings["attacks"][variation["attack"]]
        stages = [settings["attacks"][name] for name in entry.get("stages", [])] or [entry]
        head = {"purifier": HEADLINE, "scale": 1.0}
        head |= {key: stages[0][key] for key in ("steps", "draws")}
        head |= {"random_start": "restarts" in variation, "restarts": 1, "judged": 4}
        columns = {"image": range(case.images), "correct": right(case, rng).astype(float)}
        columns["loss"] = values(case, rng, case.images, high=5.0)
        parts.append(pd.DataFrame({**head, **variation, **columns}))
    return pd.concat(parts, ignore_index=True)


def noise_frame(case: Case) -> pd.DataFrame:
    rng = generator(case.seed, "bootstrap", "noise")
    parts = []
    for draws in (1, 2, 4):
        columns = {name: values(case, rng, case.images) for name in ("cosine", "relative_variance", "same_sign")}
        parts.append(pd.DataFrame({"purifier": HEADLINE, "draws": draws, "image": range(case.images), **columns}))
    return pd.concat(parts, ignore_index=True)


# --- anomaly detection


def items(case: Case) -> pd.DataFrame:
    """Two normal images, one of another class, and two with a defect."""
    kinds = ["normal", "normal", "class_3", "scratch", "patch"]
    head = {"image": range(5), "source": [0, 1, 2, 0, 1], "kind": kinds}
    return pd.DataFrame({**head, "anomalous": [kind != "normal" for kind in kinds]})


def anomaly_frame(case: Case) -> pd.DataFrame:
    rng = generator(case.seed, "bootstrap", "anomaly")
    parts = []
    draws = max(case.draws, 1)
    for arm, attack in itertools.product(("advrad", "purified", "plain"), ("clean", "linf_known")):
        scores = {name: lists(values(case, rng, 5 * draws).reshape(5, draws)) for name in ("varied", "matched")}
        columns = {
            "fixed": values(case, rng, 5),
            "pixel_auroc": undefined(case, rng, values(case, rng, 5)),
        }
        parts.append(items(case).assign(purifier=DETECTOR, arm=arm, attack=attack, **scores, **columns))
    return pd.concat(parts, ignore_index=True)


def certificates_frame(case: Case) -> pd.DataFrame:
    rng = generator(case.seed, "bootstrap", "certificates")
    parts = []
    for arm, radius in itertools.product(("advrad", "plain"), (0.0, 0.1)):
        bounds = {"lower": values(case, rng, 5), "upper": values(case, rng, 5, low=1.0, high=2.0)}
        if case.undefined:
            bounds = {"lower": np.full(5, -np.inf), "upper": np.full(5, np.inf)}
        parts.append(items(case).assign(purifier=DETECTOR, arm=arm, radius=radius, sigma=0.1, **bounds))
    return pd.concat(parts, ignore_index=True)
