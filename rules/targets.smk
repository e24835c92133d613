"""What can be asked for: everything, under the name of its first part."""


rule check_results:
    input:
        tables=rules.render_tables.output.csv,
        rows=[rows_of(kind) for kind in MEASURED],
        adversarial=[path for purifier in EVALUATED for path in judged_attacks(purifier).values()],
        images=DATASET[0],
        tests="tests/results/test_results.py",
    output:
        f"{RESULTS}/checks.txt",
    log:
        f"{RESULTS}/logs/check_results.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_results.tsv"
    conda:
        "../envs/report.yaml"
    params:
        environment={
            "RESULTS": RESULTS,
            "EPSILON": str(config["threat"]["epsilon"]),
            "NORM": config["threat"]["norm"],
            "THREATS": json.dumps(own_threats(config["run"]["attacks"])),
        },
        code=code("check_results"),
    message:
        "Checking the results against themselves"
    script:
        "../workflow_scripts/check_results.py"


DELIVERED = [
    *rules.render_tables.output,
    *FITTED.values(),
    *rules.render_report.output,
    *rules.check_results.output,
    *[f"{RESULTS}/figures/{figure}.{kind}" for figure in FIGURES for kind in ("pdf", "png")],
]


rule list_checksums:
    input:
        delivered=DELIVERED,
        samples=expand(rules.purify_images.output.samples, purifier=EVALUATED),
        maps=expand(rules.measure_anomalies.output.samples, detector=config["run"]["anomaly"]),
    output:
        f"{RESULTS}/checksums.txt",
    log:
        f"{RESULTS}/logs/list_checksums.log",
    benchmark:
        f"{RESULTS}/benchmarks/list_checksums.tsv"
    conda:
        "../envs/report.yaml"
    params:
        code=code("list_checksums"),
    message:
        "Listing the checksums of what no other job reads"
    script:
        "../workflow_scripts/list_checksums.py"


FINAL = [*DELIVERED, *rules.list_checksums.output]


rule:
    name:
        "results/tables"
    input:
        FINAL,
