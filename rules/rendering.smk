"""Tables."""

TABLES = [
    "claims",
    "robustness",
    "known_noise",
    "fuzzy",
    "points",
    "fit",
    "prediction",
    "controls",
    "compression",
    "directional_compression",
    "randomness",
    "distances",
    "spectrum",
    "attack_strength",
    "attack_adequacy",
    "gradient_noise",
    "defences",
    "paired",
    "ledger",
    "ladder",
    "expectations",
    "audit",
    "reliability",
    "unreliable",
    "subsets",
    "settings",
]
ANOMALY_TABLES = ["anomaly", "certified_anomaly"]
if config["run"]["anomaly"]:
    TABLES += ANOMALY_TABLES


rule render_tables:
    input:
        **{kind: rows_of(kind) for kind in MEASURED},
        subsets=DATASET[1],
    output:
        csv=expand(f"{RESULTS}/tables/{{name}}.csv", name=TABLES),
        md=expand(f"{RESULTS}/tables/{{name}}.md", name=TABLES),
        tex=expand(f"{RESULTS}/tables/{{name}}.tex", name=TABLES),
        metrics=f"{RESULTS}/tables/metrics.json",
    log:
        f"{RESULTS}/logs/render_tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_tables.tsv"
    conda:
        "../envs/report.yaml"
    params:
        names=TABLES,
        settings=report_settings(),
        published=LEDGER,
        code=code("render_tables"),
    message:
        "Rendering tables"
    script:
        "../workflow_scripts/render_tables.py"
