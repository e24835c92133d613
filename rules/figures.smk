"""Figures and the report."""

# Whether an evaluation counts, and what is known of it: read by every figure that shows one.
EVIDENCE = ["purified", "attack_strength", "attack_adequacy", "audit"]
# Figure -> kinds of rows it reads. "fitted", "samples" and "losses" below are the other files some figures need.
FIGURES = {
    "compression_robustness": EVIDENCE,
    "prediction": EVIDENCE,
    "robustness": EVIDENCE,
    "ladder": EVIDENCE,
    "distances": ["distances", *EVIDENCE],
    "randomness": ["randomness"],
    "spectrum": ["jacobian", *EVIDENCE],
    "budget": EVIDENCE,
    "adequacy": ["gradient_noise", *EVIDENCE],
    "fuzziness": EVIDENCE,
    "images": EVIDENCE,
    "training": [],
}
if config["run"]["anomaly"]:
    FIGURES |= {"anomaly": ["anomaly", "certificates"], "error_maps": ["anomaly"]}
HEADLINE = config["run"]["headline"]
ENTRIES = [config["purifiers"][name] for name in EVALUATED]
DENOISERS = {entry["denoiser"] for entry in ENTRIES if "denoiser" in entry}
USED = {
    "classifiers": {config["classifier"], *(entry.get("guidance", {}).get("network") for entry in ENTRIES)},
    "denoisers": DENOISERS | {config["denoisers"][name].get("base") for name in DENOISERS},
}
TRAINED = [  # networks that jobs of this run train
    (kind, name)
    for kind, used in USED.items()
    for name, entry in config[kind].items()
    if name in used and entry["kind"] in ("residual", "robust", "unet", "finetuned")
]
TRAINED += [("detectors", name) for name in config["run"]["anomaly"]]
FIGURE_FILES = {
    "compression_robustness": {"fitted": list(FITTED.values())},
    "prediction": {"fitted": list(FITTED.values())},
    "images": {"samples": [f"{RESULTS}/purified/{HEADLINE}.safetensors"]},
    "error_maps": {
        "samples": [f"{RESULTS}/purified/detectors/{name}.safetensors" for name in config["run"]["anomaly"][:1]]
    },
    "training": {"losses": [f"{RESULTS}/models/{kind}/{name}/losses.parquet" for kind, name in TRAINED]},
}


for figure in FIGURES:

    rule:
        name:
            f"render_figures_{figure}"
        input:
            **{kind: rows_of(kind) for kind in FIGURES[figure]},
            **FIGURE_FILES.get(figure, {}),
        output:
            pdf=f"{RESULTS}/figures/{figure}.pdf",
            png=report(f"{RESULTS}/figures/{figure}.png", caption=f"../docs/captions/{figure}.rst", category="Figures"),
        log:
            f"{RESULTS}/logs/render_figures/{figure}.log",
        benchmark:
            f"{RESULTS}/benchmarks/render_figures/{figure}.tsv"
        conda:
            "../envs/report.yaml"
        params:
            figure=figure,
            settings=report_settings(),
            code=code("render_figures", {"figure": figure}),
        message:
            "Drawing figure {params.figure}"
        script:
            "../workflow_scripts/render_figures.py"


rule render_report:
    input:
        tables=expand(f"{RESULTS}/tables/{{name}}.csv", name=TABLES),
        figures=expand(f"{RESULTS}/figures/{{figure}}.png", figure=FIGURES),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/render_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_report.tsv"
    conda:
        "../envs/report.yaml"
    params:
        captions={figure: caption_of(figure) for figure in FIGURES},
        template=text_digest("purification/reporting/report.html.j2"),
        benchmarks=f"{RESULTS}/benchmarks",
        settings=report_settings(),
        code=code("render_report"),
    message:
        "Writing the report"
    script:
        "../workflow_scripts/render_report.py"
