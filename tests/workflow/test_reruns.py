"""What a change reruns: exactly what depends on it. Every row edits a finished project and reads the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import Project

FIGURES = (
    "compression_robustness",
    "prediction",
    "robustness",
    "ladder",
    "distances",
    "randomness",
    "spectrum",
    "budget",
    "adequacy",
    "fuzziness",
    "images",
)
ALL_FIGURES = {f"render_figures_{name}" for name in (*FIGURES, "training", "anomaly", "error_maps")}
RELATION = {"render_figures_compression_robustness", "render_figures_prediction"}
TABLED = {"render_tables", "render_report", "check_results"}
CONCLUDED = {"fit_compression_robustness", *TABLED, *ALL_FIGURES}
EXAMINED = {f"render_figures_{name}" for name in FIGURES if name != "randomness"}  # figures that say what counts
JUDGED = {"fit_compression_robustness", *EXAMINED, *TABLED}
SWEEP = {"ddpm_25", "ddpm_100", "ddpm_150", "ddim_50", "one_step_200", "sde_200"}
CONTROLS = {"identity", "constant", "blur", "wiener", "ddpm_0", "linear"}
RANDOMNESS = {"ddpm_150", "identity", "constant", "blur", "wiener", "linear"}

EVALUATED = SWEEP | CONTROLS | {"agdm"}


def of(rule: str, purifiers: set[str]) -> set[str]:
    """The jobs of a rule for some purifiers."""
    return {f"{rule} {purifier}" for purifier in purifiers}


def attacks_on(purifier: str, *attacks: str) -> set[str]:
    """The jobs of some attacks on one purifier."""
    return {f"attack_images {purifier} {attack}" for attack in attacks}


AUDITED = {*of("audit_gradients", EVALUATED), *JUDGED}


def append(name: str, text: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(path.read_text() + text)

    return edit


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        source = path.read_text()
        assert source.count(old) == 1, f"expected {old!r} once in {name}"
        path.write_text(source.replace(old, new))

    return edit


def touch(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).touch()


def backwards(value: Any) -> Any:
    """The same value with every dictionary written the other way round."""
    return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def move_key_order(folder: Path) -> None:
    """Reverse the keys of the default configuration and of its entries, comments lost."""
    path = folder / "config" / "default.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(backwards(settings), sort_keys=False))


def listed(jobs: set[str]) -> set[str]:
    """With the job that lists the final results' checksums: it follows every other."""
    return jobs | {"list_checksums"} if jobs else jobs


CODE: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "touched library module": (touch("purification/samplers.py"), set()),
    "touched stage": (touch("workflow_scripts/attack_images.py"), set()),
    "comment in a library module": (append("purification/attacks/pgd.py", "\n# a comment\n"), set()),
    "comment in the configuration": (append("config/default.yaml", "\n# a comment\n"), set()),
    "reordered configuration": (move_key_order, set()),
    "readme": (append("README.md", "\nmore\n"), set()),
    "function that nothing calls": (append("purification/samplers.py", "\ndef other():\n    return 1\n"), set()),
    "docstring": (replace("purification/samplers.py", "DDIM (Song", "DDIM of (Song"), set()),
    "sampler": (
        replace("purification/samplers.py", "sigma = eta *", "sigma = 1.0 * eta *"),
        attacks_on("ddim_50", "strong", "challenge")
        | {"purify_images ddim_50", "measure_compression ddim_50", "audit_gradients ddim_50", *JUDGED},
    ),
    "loss of AutoAttack and of audits": (
        replace("purification/defence.py", "return margin(", "return +margin("),
        {"attack_images ddpm_150 autoattack", "attack_images ddpm_150 autoattack_rand", "purify_images ddpm_150"}
        | {"measure_attack_adequacy ddpm_150", *AUDITED},
    ),
    "method": (
        replace("purification/reporting/rows.py", "return pd.DataFrame(rows)", "return +pd.DataFrame(rows)"),
        {"render_figures_budget", "render_figures_compression_robustness", *TABLED},
    ),
    "gradient of one attack": (
        replace("purification/gradients.py", "leaf = purified.detach()", "leaf = 1.0 * purified.detach()"),
        {*of("attack_images ddpm_150", {"bpda", "hammer"}), *AUDITED}
        | of("attack_images", {f"{purifier} challenge" for purifier in EVALUATED})
        | of("purify_images", EVALUATED),
    ),
    "table": (replace("purification/reporting/tables.py", "first = t_star - 1", "first = -1 + t_star"), TABLED),
    "figure": (
        replace("purification/reporting/figures/spectrum.py", "MODELS[model]", "dict(MODELS)[model]"),
        {"render_figures_spectrum", "render_report"},
    ),
    "test of the results": (append("tests/results/test_results.py", "\nX = 1\n"), {"check_results"}),
    "stage of the fit": (
        replace("workflow_scripts/fit_compression_robustness.py", "table = law", "table = 1 and law"),
        {"fit_compression_robustness", "render_report", *RELATION},
    ),
    "module of the sigmoid": (append("purification/fit.py", "\nprint()\n"), CONCLUDED),
    "stage of one measurement": (
        append("workflow_scripts/measure_randomness.py", "\nprint()\n"),
        of("measure_randomness", RANDOMNESS) | {"render_figures_randomness"} | TABLED,
    ),
    "library module of one measurement": (
        append("purification/measure/audit.py", "\nprint()\n"),
        {"measure_attack_adequacy ddpm_150", *AUDITED},
    ),
    "own purifier": (
        append("linear.py", "\nX = 1\n"),
        attacks_on("linear", "strong", "challenge")
        | of("purify_images", {"linear"})
        | of("measure_compression", {"linear"})
        | of("measure_randomness", {"linear"})
        | of("compute_jacobian", {"linear"})
        | {"audit_gradients linear", "render_figures_randomness", *JUDGED},
    ),
}
OTHER_ATTACK = {
    **{
        "kind": "pgd",
        "knowledge": "none",
        "images": 5,
        "steps": 2,
        "step_size": 1.0,
        "random_start": True,
        "loss": "ce",
        "restarts": 1,
    },
    **{"gradient": "replay", "draws": 1, "select": "last", "stop_when_broken": False},
}
CONFIG: dict[str, tuple[dict[str, Any], set[str]]] = {
    "purifier that does not run": ({"purifiers": {"ddpm_300": {"steps": 7}}}, set()),
    "attack that does not run": ({"attacks": {"other": OTHER_ATTACK}}, set()),
    "memory of the gradient": ({"memory_bytes": 1.0e6}, set()),
    "subsets of votes": ({"evaluation": {"vote_subsets": 3}}, CONCLUDED),
    "samples of one measurement": (
        {"randomness": {"samples": 5}},
        of("measure_randomness", RANDOMNESS) | CONCLUDED,
    ),
    "one purifier": (
        {"purifiers": {"ddpm_25": {"steps": 4}}},
        of("purify_images", {"ddpm_25"})
        | attacks_on("ddpm_25", "strong", "challenge")
        | {"measure_compression ddpm_25", "audit_gradients ddpm_25", *CONCLUDED},
    ),
    "one attack": (
        {"attacks": {"bpda": {"steps": 2}}},
        {"attack_images ddpm_150 bpda", "purify_images ddpm_150", *CONCLUDED},
    ),
    "one more purifier": (
        {"run": {"sweep": ["ddpm_25", "ddpm_100", "ddpm_150", "ddim_50", "one_step_200", "sde_200", "agdm", "ode_25"]}},
        of("purify_images", {"ode_25"})
        | attacks_on("ode_25", "strong", "challenge")
        | {"measure_compression ode_25", "audit_gradients ode_25", *CONCLUDED},
    ),
    "fresh draws of the headline": ({"evaluation": {"draws": 5}}, {"purify_images ddpm_150", *CONCLUDED}),
}


@pytest.mark.parametrize("change", CODE)
def test_a_change_of_code_reruns_exactly_what_depends_on_it(finished: Project, change: str) -> None:
    edit, expected = CODE[change]
    kept = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.suffix in {".py", ".yaml", ".md"}}
    try:
        edit(finished.folder)
        assert finished.planned() == listed(expected)
    finally:
        for path, content in kept.items():
            if path.read_bytes() != content:
                path.write_bytes(content)


@pytest.mark.parametrize("change", CONFIG)
def test_a_change_of_configuration_reruns_exactly_what_depends_on_it(finished: Project, change: str) -> None:
    config, expected = CONFIG[change]
    assert finished.planned(config) == listed(expected)


def test_a_change_taken_back_leaves_nothing_to_do(finished: Project) -> None:
    assert finished.planned() == set()


def test_the_size_of_gradient_batches_reruns_what_differentiates_and_what_follows(finished: Project) -> None:
    rules = {job.split()[0] for job in finished.planned({"gradient_batch_size": 2})}
    assert {"attack_images", "measure_attack_strength", "compute_jacobian", "audit_gradients"} <= rules
    assert not rules & {"measure_compression", "measure_randomness", "train_classifier", "train_denoiser"}
