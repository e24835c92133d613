"""Contradictions in a configuration that a schema cannot see, found before anything runs."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from purification.sources import defined_names

MINIMUM_POINTS = 6  # purifiers a compression-robustness fit needs (purification.reporting.law)


def _unknown(key: str, name: str, known: Mapping[str, Any]) -> str | None:
    if name in known:
        return None
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(sorted(known))}"
    return f"{key}: expected a known name, got {name!r} — {hint}"


def _references(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, name it holds, entries the name must be one of)."""
    run, purifiers = config["run"], config["purifiers"]
    for key, kind in (("dataset", "datasets"), ("classifier", "classifiers"), ("null_denoiser", "denoisers")):
        yield key, config[key], config[kind]
    for key in ("base_attack", "transfer_attack"):
        yield key, config[key], config["attacks"]
    yield "run.headline", run["headline"], purifiers
    for key in ("sweep", "controls", "varied", "distances", "randomness", "jacobian", "audit", "attack_strength"):
        for name in run[key]:
            yield f"run.{key}", name, purifiers
    for attack, names in run["attacks"].items():
        yield "run.attacks", attack, config["attacks"]
        for name in names:
            yield f"run.attacks.{attack}", name, purifiers
    for name, entry in purifiers.items():
        if "denoiser" in entry:
            yield f"purifiers.{name}.denoiser", entry["denoiser"], config["denoisers"]


def _purifier_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config["purifiers"].items():
        t_star, steps = entry.get("t_star"), entry.get("steps")
        if t_star and entry.get("denoiser") in config["denoisers"]:
            longest = config["denoisers"][entry["denoiser"]]["schedule"]["train_steps"]
            if t_star > longest:
                yield f"purifiers.{name}.t_star: expected at most {longest} (its denoiser's train_steps), got {t_star}"
        if t_star and steps and steps > t_star:
            yield f"purifiers.{name}.steps: expected at most t_star = {t_star}, got {steps} — lower steps"


def _python_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for section in ("purifiers", "classifiers"):
        for name, entry in config[section].items():
            if entry["kind"] != "python":
                continue
            key, path = f"{section}.{name}", Path(entry["path"])
            if not path.is_file():
                yield f"{key}.path: expected a Python file, found none at {path}"
                continue
            try:
                known = set(defined_names(path))
            except SyntaxError as error:
                yield f"{key}.path: expected Python in {path}, got a mistake in line {error.lineno}: {error.msg}"
                continue
            if "*" not in known and entry["factory"] not in known:
                yield f"{key}.factory: expected a function of {path}, found no {entry['factory']!r} there"


def _run_problems(config: Mapping[str, Any]) -> Iterator[str]:
    run, evaluation, attacks = config["run"], config["evaluation"], config["attacks"]
    evaluated = {*run["sweep"], *run["controls"]}
    if "identity" not in run["controls"]:
        yield "run.controls: expected 'identity' among them — it is the undefended classifier every claim compares with"
    needed = {"sweep": [run["headline"]], "varied": [run["headline"]], "attack_strength": [run["headline"], "identity"]}
    needed |= {key: [run["headline"]] for key in ("distances", "randomness", "jacobian", "audit")}
    for key, names in needed.items():
        for name in names:
            if name not in run[key]:
                yield f"run.{key}: expected {name!r} among them — the claims are about it"
    for attack in ("eot", "bpda"):
        if run["headline"] not in run["attacks"].get(attack, []):
            yield f"run.attacks.{attack}: expected the headline {run['headline']!r} among them — A11 and A16 need it"
    for key in ("varied", *(f"attacks.{attack}" for attack in run["attacks"])):
        names = run["attacks"][key.partition(".")[2]] if "." in key else run[key]
        for name in sorted(set(names) - evaluated):
            yield f"run.{key}: expected purifiers of run.sweep or run.controls, got {name!r}"
    for key in ("worst_of", "votes"):
        if evaluation[key] > evaluation["draws"]:
            yield f"evaluation.{key}: expected at most draws = {evaluation['draws']}, got {evaluation[key]}"
    size = config["datasets"].get(config["dataset"], {}).get("splits", {}).get(evaluation["subset"], 0)
    sizes = {"evaluation": evaluation["images"], **{f"attacks.{n}": a["images"] for n, a in attacks.items()}}
    sizes |= {key: config[key]["images"] for key in ("distances", "randomness", "compression", "jacobian", "audit")}
    for key, count in sizes.items():
        if count > size:
            yield f"{key}.images: expected at most {size} (images of {evaluation['subset']}), got {count}"
    used = ((config["base_attack"], "evaluation"), (config["transfer_attack"], "distances"))
    for name, key in used:
        got, least = attacks[name]["images"], config[key]["images"]
        if got < least:
            yield f"attacks.{name}.images: expected at least {key}.images = {least}, got {got} — they are used there"
    stars = [config["purifiers"][name].get("t_star", 0) for name in run["sweep"]]
    if all(sum(star <= limit for star in stars) < MINIMUM_POINTS for limit in config["fit"]["subsets"].values()):
        yield f"fit.subsets: expected one with at least {MINIMUM_POINTS} purifiers of run.sweep — raise a limit"


def _attack_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in config["attacks"].items():
        if entry["stop_when_broken"] and (entry["knowledge"] != "both" or entry["draws"] != 1):
            yield (
                f"attacks.{name}.stop_when_broken: expected false unless knowledge is both and draws is 1 — stopping "
                "at a lucky draw of a random defence reports chance as success"
            )
        if name == config["base_attack"] and entry["knowledge"] != "both":
            yield f"attacks.{name}.knowledge: expected both, got {entry['knowledge']!r} — it is the base attack"


def problems(config: Mapping[str, Any]) -> list[str]:
    """One sentence per contradiction, naming the key; empty when the configuration can run."""
    unknown = [message for reference in _references(config) if (message := _unknown(*reference))]
    if unknown:
        return unknown
    return [*_purifier_problems(config), *_python_problems(config), *_attack_problems(config), *_run_problems(config)]
