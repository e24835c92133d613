"""Figures and report on made-up rows: each is drawn, twice the same, with whatever is missing, and without torch."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager

from purification.reporting import law
from purification.reporting.figures import FIGURES, Extras, draw, save, style
from purification.reporting.predictions import predictions
from purification.reporting.report import Material, render
from purification.reporting.rows import KINDS, Rows

ROOT = Path(__file__).parents[2]
IMAGES, DRAWS, SIDE = 12, 10, 6
MODELS = {"trained": 1.0, "null": 0.8}


def settings() -> dict[str, Any]:
    """The default configuration with fewer subsets of votes."""
    chosen: dict[str, Any] = yaml.safe_load((ROOT / "config/default.yaml").read_text())
    chosen["evaluation"].update(vote_subsets=3)
    return chosen


def rate(entry: dict[str, Any]) -> float:
    """Made-up compression rate of a purifier."""
    if entry["kind"] in ("constant", "blur"):
        return {"constant": 0.0, "blur": 0.35}[entry["kind"]]
    return float(1.0 / (1.0 + entry.get("t_star", 0) / 60.0))


def base_right(run: dict[str, Any], purifier: str) -> np.ndarray:
    """Images that the base attack leaves right; no other attack breaks one of them."""
    robust = 0.9 / (1.0 + np.exp(12.0 * (rate(run["purifiers"][purifier]) - 0.35)))
    rng = np.random.default_rng(sum(map(ord, purifier)))
    return np.asarray(rng.random(IMAGES) < robust)


def purified(run: dict[str, Any], purifier: str, rng: np.random.Generator) -> pd.DataFrame:
    parts, attacked = [], base_right(run, purifier)
    label = rng.integers(0, 10, IMAGES)
    own = [attack for attack, names in run["run"]["attacks"].items() if purifier in names]
    extra = [run["challenge_attack"]]
    if purifier in run["run"]["attack_adequacy"]:
        extra.append(run["adequacy_attack"])
    for attack in ["clean", "random", "transfer", run["base_attack"], *own, *extra]:
        chance = 0.9 if attack in ("clean", "random", "transfer") else attacked.mean()
        right = rng.random((IMAGES, DRAWS + 2)) < chance
        if attack == run["base_attack"] or attack in extra:
            right[:, 1] = attacked
        else:
            right[:, 1] |= attacked
        seen = np.where(right, label[:, None], (label[:, None] + 1) % 10)
        columns = {
            "attack": attack,
            "image": range(IMAGES),
            "label": label,
            "unpurified": seen[:, 0],
            "fixed": seen[:, 1],
            "compression": rng.random(IMAGES) if attack != "clean" else np.nan,
            "size_linf": 0.0 if attack == "clean" else 0.1,
            "own_accuracy": right[:, 1].astype(float) if attack == run["base_attack"] else np.nan,
            "response": 0.0 if attack == "clean" else 0.5,
        }
        drawn = {"varied": list(seen[:, 2:]), "matched_varied": list(seen[:, 2:])}
        known = {name: list(seen[:, 2:4]) for name in ("fixed_forward", "fixed_reverse", "semi")}
        parts.append(pd.DataFrame({**columns, "matched_fixed": label, **drawn, **known}))
    return pd.concat(parts).assign(purifier=purifier)


def per_image(names: list[str], build: Any, **fixed: Any) -> pd.DataFrame:
    """One row per (purifier, model, image); build(purifier, factor of the model) gives the columns."""
    rows = [
        {"purifier": name, "model": model, "image": image, **fixed, **build(name, factor)}
        for name in names
        for model, factor in MODELS.items()
        for image in range(IMAGES)
    ]
    return pd.DataFrame(rows)


def distances(names: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Paths that go up during noise injection and come back half the way."""
    parts = []
    for position in np.linspace(0.0, 2.0, 7):
        height = 1.0 + 3.0 * position if position <= 1.0 else 4.0 - 1.5 * (position - 1.0)

        def build(name: str, factor: float, height: float = height) -> dict[str, float]:
            l2 = factor * height + 0.1 * rng.random()
            return {"l2": l2, "linf": 0.1 * l2, "ssim": 1.0 - 0.1 * l2}

        parts.append(per_image(names, build, start="adversarial", half="forward", position=position))
    return pd.concat(parts, ignore_index=True)


def randomness_row(rng: np.random.Generator) -> dict[str, float]:
    centres = {"fixed": (0.93, 0.3), "varied": (0.25, 2.0), "both": (0.24, 2.05)}
    row = {"radius_before": 0.7 + 0.02 * rng.random()}
    for condition, (correlation, radius) in centres.items():
        for column in ("correlation", "correlation_from_clean"):
            row[f"{column}_{condition}"] = correlation + 0.02 * rng.random()
        row[f"radius_{condition}"] = radius + 0.1 * rng.random()
    return row


def spectrum_row(factor: float) -> dict[str, Any]:
    values = factor * 1.2 * np.exp(-np.arange(SIDE**2) / 6.0)
    rms = float(np.sqrt(np.square(values).mean()))
    free = {"hutchinson": rms**2, "largest_matrix_free": values[0], "trace": values.sum()}
    free |= {"hutchinson_low": 0.9 * rms**2, "hutchinson_high": 1.1 * rms**2, "pixels": SIDE**2, "directions": 1}
    weights = np.full(SIDE**2, 1 / SIDE**2)
    return {"singular_values": values, "weights": weights, "compression_small": rms, **free}


def strength(run: dict[str, Any], purifier: str, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for variation in run["attack_strength"]["undefended" if purifier == "identity" else "defended"]:
        correct = rng.random(IMAGES) < 1.0 / (1.0 + np.exp(12.0 * (variation["scale"] - 0.35)))
        if variation["scale"] == 1.0:
            correct = base_right(run, purifier)
        head = {"purifier": purifier, **variation, "epsilon": variation["scale"] * run["threat"]["epsilon"]}
        controls = {"correct_clean": True, "correct_matched": True}
        parts.append(pd.DataFrame({**head, "image": range(IMAGES), "correct": correct, **controls}))
    return pd.concat(parts)


def made_up_rows() -> Rows:
    run, rng = settings(), np.random.default_rng(0)
    lists = run["run"]
    names = [*lists["sweep"], *lists["controls"]]
    frames = {
        "purified": pd.concat([purified(run, name, rng) for name in names], ignore_index=True),
        "compression": per_image(
            names, lambda p, f: {"compression": f * rate(run["purifiers"][p]) + 0.02 * rng.random()}, probe_scale=1.0
        ),
        "distances": distances(lists["distances"], rng),
        "randomness": per_image(lists["randomness"], lambda p, f: randomness_row(rng)),
        "jacobian": per_image(lists["jacobian"], lambda p, f: spectrum_row(f)),
        "attack_strength": pd.concat([strength(run, p, rng) for p in lists["attack_strength"]], ignore_index=True),
    }
    frames["attack_adequacy"] = adequacy(run, rng)
    frames["gradient_noise"] = noise(rng).assign(purifier=lists["headline"])
    return Rows(frames, run)


def adequacy(run: dict[str, Any], rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for variation in run["attack_adequacy"]["variations"]:
        entry = run["attacks"][variation["attack"]]
        stages = [run["attacks"][name] for name in entry.get("stages", [])] or [entry]
        head = {"purifier": run["run"]["headline"], "scale": 1.0}
        head |= {key: stages[0][key] for key in ("steps", "draws")}
        columns = {"image": range(IMAGES), "correct": rng.random(IMAGES), "loss": 1.0 + rng.random(IMAGES)}
        start = {"random_start": "restarts" in variation, "restarts": 1, "judged": 4}
        parts.append(pd.DataFrame({**head, **start, **variation, **columns}))
    return pd.concat(parts, ignore_index=True)


def noise(rng: np.random.Generator) -> pd.DataFrame:
    head = [{"draws": n, "image": i, "cosine": 1 - 0.3 / n, "same_sign": 0.9} for n in (1, 2, 4, 8) for i in range(4)]
    return pd.DataFrame([{**row, "relative_variance": (1 + 0.2 * rng.random()) / row["draws"]} for row in head])


def made_up_extras(rows: Rows) -> Extras:
    table = law.points(rows)
    parameters, curves = law.fits(rows, table)
    seen, made = law.against_the_law(rows, table), predictions(rows, table)
    fitted = {"points": seen, "parameters": parameters, "curves": curves, "predictions": made}
    rng = np.random.default_rng(1)
    keys = [f"{attack}/{kind}" for attack in ("clean", rows.base_attack) for kind in ("input", "purified")]
    samples = {key: rng.random((4, 1, SIDE, SIDE), dtype=np.float32) for key in keys}
    losses = pd.DataFrame({"step": range(60), "loss": np.exp(-np.arange(60) / 20.0) + 0.1 * rng.random(60)})
    return Extras(fitted, samples, {"classifier": losses, "denoiser": losses})


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made_up_rows()


@pytest.fixture(scope="module")
def extras(rows: Rows) -> Extras:
    return made_up_extras(rows)


def test_fonts_are_the_shipped_ones_whatever_the_users_list_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [])
    style._know_shipped_fonts.cache_clear()
    with style.context():
        found = [findfont(FontProperties(family="DejaVu Sans", weight=weight)) for weight in ("normal", "bold")]
    shipped = Path(matplotlib.get_data_path(), "fonts", "ttf")
    assert found == [str(shipped / f"{name}.ttf") for name in ("DejaVuSans", "DejaVuSans-Bold")]


def test_many_purifiers_are_drawn_in_lines_of_three(rows: Rows) -> None:
    """Every purifier of `varied` has a panel, at most three of them beside each other."""
    entries = rows.settings["purifiers"]
    names = [name for name in rows.settings["run"]["sweep"] if entries[name]["kind"] == "diffusion"][:5]
    many = Rows(rows.frames, {**rows.settings, "run": {**rows.settings["run"], "varied": names}})
    figure = draw("fuzziness", many, Extras())
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == len({*names, many.headline}) and len(figure.axes) == 6
    assert len({round(axis.get_position().y0, 3) for axis in shown}) == 2


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"kind": "diffusion", "denoiser": "unet", "sampler": "ddim"}, "DDIM"),
        ({"kind": "diffusion", "denoiser": "tuned", "sampler": "ddim"}, "fine-tuned"),
        ({"kind": "guided", "denoiser": "tuned", "sampler": "ddim"}, "guided"),
        ({"kind": "blur"}, "blur"),
    ],
)
def test_what_was_trained_or_is_guided_has_a_look_of_its_own(entry: dict[str, Any], expected: str) -> None:
    denoisers = {"unet": {"kind": "unet"}, "tuned": {"kind": "finetuned"}}
    assert style.variant(Rows({}, {"purifiers": {"mine": entry}, "denoisers": denoisers}), "mine") == expected


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_twice_with_the_same_bytes(name: str, rows: Rows, extras: Extras, tmp_path: Path) -> None:
    for copy_number in (1, 2):
        figure = draw(name, rows, extras)
        assert isinstance(figure, Figure)
        save(figure, pdf=tmp_path / f"{copy_number}.pdf", png=tmp_path / f"{copy_number}.png")
    for kind in ("pdf", "png"):
        first, second = (tmp_path / f"{number}.{kind}" for number in (1, 2))
        assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "1.png").read_bytes().startswith(b"\x89PNG")
    assert b"/Type3" not in (tmp_path / "1.pdf").read_bytes()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_rows_is_still_a_figure(name: str) -> None:
    assert isinstance(draw(name, Rows({}, settings()), Extras()), Figure)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_what_exists(name: str, rows: Rows, extras: Extras) -> None:
    run = copy.deepcopy(rows.settings)
    few = [rows.headline, run["run"]["sweep"][0], "identity"]
    frames = {kind: frame[frame.purifier.isin(few)] for kind, frame in rows.frames.items()}
    frames["purified"] = frames["purified"][frames["purified"].attack.isin(["clean", rows.base_attack])]
    fitted = {
        "points": extras.fitted["points"],
        "parameters": pd.DataFrame(),
        "curves": pd.DataFrame(),
        "predictions": pd.DataFrame(),
    }
    assert isinstance(draw(name, Rows(frames, run), Extras(fitted)), Figure)


def test_every_figure_has_a_caption() -> None:
    captions = {path.stem for path in (ROOT / "docs/captions").glob("*.rst")}
    assert captions == set(FIGURES)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_figures import made_up_extras, made_up_rows
from purification.reporting.figures import FIGURES, draw, save
import workflow_scripts.render_figures, workflow_scripts.render_report
rows = made_up_rows()
extras = made_up_extras(rows)
for name in ("compression_robustness", "images"):
    save(draw(name, rows, extras), pdf=Path({out!r}, name + ".pdf"), png=Path({out!r}, name + ".png"))
assert "torch" not in sys.modules, "drawing imported torch"
"""


def test_drawing_needs_no_torch_and_repeats_across_processes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        script = SCRIPT.format(root=str(ROOT), tests=str(Path(__file__).parent), out=str(out))
        subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


VERDICTS = ("pass", "fail", "inconclusive")


def material() -> Material:
    values = {"paper": ".5", "ours": 0.5, "low": 0.4, "high": 0.6, "n": 9, "needed_n": 5.0}
    values |= {"p_value": 0.01, "p_holm": 0.03, "of_the_paper": 0.03, "null": "none", "left_out": "nothing"}
    words = [
        {"claim": f"A{i}", "statement": f"statement <{i}>", "note": f"note {i}", "effect": f"effect {i}"}
        for i in range(18)
    ]
    verdicts = [{"verdict": VERDICTS[i % 3], "holm": "inconclusive" if i < 9 else VERDICTS[i % 3]} for i in range(18)]
    claims = pd.DataFrame([{**word, **values, **said} for word, said in zip(words, verdicts, strict=True)])
    kinds = {"subset": "all", "left_out": "purifier", "predictor": ["compression", "t*", "t*"]}
    better = {"compression_better": [np.nan, 4.5, 6.0], "compression_better_low": [np.nan, -1.0, 2.0]}
    better |= {"compression_better_high": [np.nan, 10.0, 10.0], "best_rival": [False, True, False]}
    errors = pd.DataFrame(
        {**kinds, "form": ["sigmoid", "sigmoid", "line"], "error_points": [3.0, 7.5, 9.0], **better, "note": ""}
    )
    none = {"subset": "t* <= 100", "left_out": "t*", "note": "not determined by these points: 3 values of t*"}
    errors = pd.concat([errors, pd.DataFrame([none])], ignore_index=True)
    return Material(
        tables={
            "claims": claims,
            "prediction": errors,
            "fit": pd.DataFrame({"k": [12.0], "k_low": [10.0], "k_high": [14.0]}),
        },
        figures={"distances": b"\x89PNG\r\n\x1a\n" + bytes(8) + (1350).to_bytes(4, "big")},
        captions={"distances": "Distances.\n\nWhat to read from it."},
        costs=pd.DataFrame({"rule": ["attack_images"] * 2, "s": [10.0, 50.0], "max_rss": [100.0, 300.0]}),
        settings=settings(),
        folder="results",
    )


def test_the_report_holds_every_claim_and_the_answer() -> None:
    page = render(material())
    for i in range(18):
        assert f">A{i}<" in page and f"statement &lt;{i}&gt;" in page and f"note {i}" in page
        assert f"Here: effect {i}." in page
    table = page[page.index('<table class="claims">') : page.index('<h2 id="figures">')]
    assert [table.count(f'class="verdict {verdict}"') for verdict in VERDICTS] == [6, 6, 6]
    assert table.count("holds, not after the correction, with 3 % of the paper&#39;s effect") == 3
    assert table.count(">holds, with 3 % of the paper&#39;s effect") == 3
    assert "After a correction for their number, 3 of those that hold still do." in page
    assert "snakemake --cores all results/figures/distances.pdf" in page
    assert "headline: ddpm" in page
    assert "all t*, one purifier left out: 3.0 from compression, 7.5 from t*, the best rival of compression, " in page
    assert "t* (sigmoid), errs by 4.5 [-1.0, 10.0] points more; " in page
    assert "t* &lt;= 100, all of one t* left out: not determined by these points: 3 values of t*" in page
    assert re.search(r"attack_images.*?1 min", page, re.DOTALL)


def test_the_report_loads_nothing_from_elsewhere() -> None:
    page = render(material())
    sources = re.findall(r'(?:src|href|url|srcset|data)\s*[=(]\s*["\']?([^"\'\s)>]+)', page)
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not re.search(r"@import|<script|<link|<iframe", page)


def test_kinds_named_by_the_rules_exist() -> None:
    rules = (ROOT / "rules/figures.smk").read_text()
    statements = re.findall(r"^(?:EVIDENCE = .*?\]|FIGURES = \{.*?^\})", rules, re.DOTALL | re.MULTILINE)
    statements += re.findall(r"FIGURES \|= \{.*\}", rules)
    named: dict[str, Any] = {}
    exec("\n".join(statements), named)
    entries = named["FIGURES"]
    assert set(entries) == set(FIGURES)
    assert {kind for kinds in entries.values() for kind in kinds} <= set(KINDS)


def test_purifiers_that_sampler_and_strength_do_not_tell_apart_keep_their_names() -> None:
    run = settings()
    headline = run["purifiers"][run["run"]["headline"]]
    run["purifiers"] |= {"tuned": {**headline, "denoiser": "tuned"}, "guided": {**headline, "kind": "guided"}}
    rows = Rows({}, run)
    names = [style.label(rows, purifier) for purifier in (rows.headline, "tuned", "guided")]
    assert names[1:] == ["tuned", "guided"] and f"t* = {headline['t_star']}" in names[0]
    assert [style.plain(rows, purifier) for purifier in (rows.headline, "tuned", "guided")] == [True, False, False]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_every_trained_network_has_its_loss_curve(count: int) -> None:
    losses = {f"denoiser {k}": pd.DataFrame({"step": range(4), "loss": np.full(4, k + 1.0)}) for k in range(count)}
    axes = draw("training", Rows({}, settings()), Extras({}, {}, losses)).axes
    drawn = [axis for axis in axes if axis.lines]
    assert [axis.get_title(loc="left").split("$  ")[1] for axis in drawn] == list(losses)
    assert [axis.lines[0].get_ydata()[0] for axis in drawn] == [k + 1.0 for k in range(count)]
