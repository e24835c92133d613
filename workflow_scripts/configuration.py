"""What is wrong with a configuration, found before anything runs: what the schema refuses, names, contradictions."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from workflow_scripts.configuration_attacks import attack_problems
from workflow_scripts.configuration_claims import claim_problems
from workflow_scripts.configuration_detectors import detector_problems
from workflow_scripts.configuration_entries import entry_problems
from workflow_scripts.configuration_kinds import kind_problems
from workflow_scripts.configuration_schema import nearest, schema_problems, shown
from workflow_scripts.configuration_sequences import attack_references, sequence_problems
from workflow_scripts.index_list_problems import evaluated_images, index_list_problems
from workflow_scripts.input_files import dataset_problems, network_problems
from workflow_scripts.ledger_file import ledger_problems
from workflow_scripts.python_files import python_file_problems
from workflow_scripts.results_folder import name_problems

DEFAULT = Path(__file__).parents[1] / "config" / "default.yaml"
SCHEMA = Path(__file__).parents[1] / "config" / "schema.yaml"
MEASURED = ("varied", "distances", "randomness", "jacobian", "attack_strength", "attack_adequacy")  # lists under run
RUN_BY_KEY = ("base_attack", "challenge_attack", "adequacy_attack", "transfer_attack")  # keys that name one attack
SIZED = ("distances", "randomness", "compression", "jacobian", "audit", "attack_adequacy", "gradient_noise")
MINIMUM_POINTS = 6  # purifiers a compression-robustness fit needs (purification.reporting.law)


@cache
def schema() -> dict[str, Any]:
    """The schema of a configuration, which is also its documentation."""
    read: dict[str, Any] = yaml.safe_load(SCHEMA.read_text())
    return read


def merged(paths: Sequence[str | Path]) -> dict[str, Any]:
    """The default configuration with files over it, as Snakemake merges them."""
    config: dict[str, Any] = yaml.safe_load(DEFAULT.read_text())
    for path in paths:
        update_config(config, yaml.safe_load(Path(path).read_text()) or {})
    return config


def _unknown(key: str, name: str, known: Mapping[str, Any]) -> str | None:
    return None if name in known else f"{key}: expected a known name, got {name!r} — {nearest(name, known)}"


def _references(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, name it holds, entries the name must be one of)."""
    run, purifiers = config["run"], config["purifiers"]
    for key, kind in (("dataset", "datasets"), ("classifier", "classifiers"), ("null_denoiser", "denoisers")):
        yield key, config[key], config[kind]
    for key in RUN_BY_KEY:
        yield key, config[key], config["attacks"]
    yield "run.headline", run["headline"], purifiers
    for key in ("sweep", "controls", *MEASURED):
        for name in run[key]:
            yield f"run.{key}", name, purifiers
    for name in run["anomaly"]:
        yield "run.anomaly", name, config["anomaly"]
    for name in run["ladder"]:
        yield "run.ladder", name, config["attacks"]
    for name, other in run["comparison"].items():
        yield "run.comparison", name, purifiers
        yield f"run.comparison.{name}", other, purifiers
    for attack, names in run["attacks"].items():
        yield "run.attacks", attack, config["attacks"]
        for name in names:
            yield f"run.attacks.{attack}", name, purifiers
    for name, entry in config["denoisers"].items():
        if "base" in entry:
            yield f"denoisers.{name}.base", entry["base"], config["denoisers"]
    for variation in config["attack_adequacy"]["variations"]:
        yield "attack_adequacy.variations", variation["attack"], config["attacks"]
    for key, name in attack_references(config):
        yield key, name, config["attacks"]
    for section in ("purifiers", "attacks"):
        for name in config["ledger"][section]:
            yield f"ledger.{section}", name, config[section]
    for name, entry in purifiers.items():
        if "network" in entry.get("guidance", {}):
            yield f"purifiers.{name}.guidance.network", entry["guidance"]["network"], config["classifiers"]
        if "denoiser" in entry:
            yield f"purifiers.{name}.denoiser", entry["denoiser"], config["denoisers"]


def _purifier_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config["purifiers"].items():
        t_star, steps = entry.get("t_star"), entry.get("steps")
        if t_star and entry.get("denoiser") in config["denoisers"]:
            longest = config["denoisers"][entry["denoiser"]]["schedule"]["train_steps"]
            if t_star > longest:
                had = f"(its denoiser's train_steps), got {t_star} — lower it"
                yield f"purifiers.{name}.t_star: expected at most {longest} {had}"
        if t_star and steps and steps > t_star:
            yield f"purifiers.{name}.steps: expected at most t_star = {t_star}, got {steps} — lower steps"


def _python_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for section in ("purifiers", "classifiers"):
        for name, entry in config[section].items():
            if entry["kind"] == "python":
                yield from python_file_problems(f"{section}.{name}", entry)


def _place_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config["precision"] == "tf32" and config["device"] == "cpu":
        yield "precision: expected fp32 or bf16 with device cpu, got 'tf32' — only CUDA devices have it"


def _run_problems(config: Mapping[str, Any]) -> Iterator[str]:
    run, evaluation, attacks = config["run"], config["evaluation"], config["attacks"]
    evaluated = {*run["sweep"], *run["controls"]}
    if "identity" not in run["controls"]:
        yield (
            f"run.controls: expected 'identity' among them, got {shown(run['controls'])} — add it, it is the "
            "undefended classifier every claim compares with"
        )
    needed = {"sweep": [run["headline"]], "varied": [run["headline"]], "attack_strength": [run["headline"], "identity"]}
    needed |= {key: [run["headline"]] for key in ("distances", "randomness", "jacobian", "attack_adequacy")}
    for key, names in needed.items():
        for name in names:
            if name not in run[key]:
                yield f"run.{key}: expected {name!r} among them, got {shown(run[key])} — the claims are about it"
    for attack in ("eot", "bpda"):
        if run["headline"] not in (names := run["attacks"].get(attack, [])):
            wanted = f"the headline {run['headline']!r} among them"
            yield f"run.attacks.{attack}: expected {wanted}, got {shown(names)} — A11 and A16 need it"
    for attack in run["ladder"]:
        if attack != config["base_attack"] and run["headline"] not in run["attacks"].get(attack, []):
            wanted = f"attacks that run on the headline {run['headline']!r}"
            yield f"run.ladder: expected {wanted}, got {attack!r} — add it to run.attacks.{attack} or remove it here"
    measured = {key: run[key] for key in MEASURED}
    measured |= {f"attacks.{attack}": names for attack, names in run["attacks"].items()}
    measured |= {"comparison": [*run["comparison"], *run["comparison"].values()]}
    for key, names in measured.items():
        for name in sorted(set(names) - evaluated):
            yield f"run.{key}: expected purifiers of run.sweep or run.controls, got {name!r} — add it there"
    for key, most in (("worst_of", "draws"), ("votes", "draws"), ("samples", "images"), ("known_images", "images")):
        if evaluation[key] > evaluation[most]:
            yield f"evaluation.{key}: expected at most {most} = {evaluation[most]}, got {evaluation[key]} — lower it"
    size = evaluated_images(config)
    running = {*(config[key] for key in RUN_BY_KEY), *run["attacks"]} & {*attacks}
    sizes = {"evaluation": evaluation["images"], **{f"attacks.{n}": attacks[n]["images"] for n in sorted(running)}}
    sizes |= {key: config[key]["images"] for key in SIZED}
    for key, count in sizes.items():
        if count > size:
            yield f"{key}.images: expected at most {size} (images of {evaluation['subset']}), got {count} — lower it"
    used = ((config["base_attack"], "evaluation"), (config["transfer_attack"], "distances"))
    for name, key in used:
        got, least = attacks[name]["images"], config[key]["images"]
        if got < least:
            yield f"attacks.{name}.images: expected at least {key}.images = {least}, got {got} — they are used there"
    stars = [config["purifiers"][name].get("t_star", 0) for name in run["sweep"]]
    if all(sum(star <= limit for star in stars) < MINIMUM_POINTS for limit in config["fit"]["subsets"].values()):
        yield (
            f"fit.subsets: expected one with at least {MINIMUM_POINTS} purifiers of run.sweep, "
            f"got {shown(dict(config['fit']['subsets']))} — raise a limit"
        )


def problems(config: Mapping[str, Any]) -> list[str]:
    """One sentence per thing that is wrong, naming the key; empty when the configuration can run.

    Contradictions are looked for among known names only, and names where the schema accepts their places.
    """
    if found := schema_problems(config, schema()):
        return found
    if found := [message for reference in _references(config) if (message := _unknown(*reference))]:
        return found
    checks = (
        *(name_problems, entry_problems, _place_problems, _purifier_problems, _python_problems),
        *(dataset_problems, network_problems),
        *(
            detector_problems,
            attack_problems,
            kind_problems,
            sequence_problems,
            _run_problems,
            claim_problems,
            ledger_problems,
            index_list_problems,
        ),
    )
    return list(dict.fromkeys(sentence for check in checks for sentence in check(config)))
