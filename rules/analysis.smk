"""What is concluded from the rows: the compression-robustness fit and the claims."""

FITTED = {name: f"{RESULTS}/fit/{name}.parquet" for name in ("points", "parameters", "curves", "predictions")}


rule fit_compression_robustness:
    input:
        purified=rows_of("purified"),
        compression=rows_of("compression"),
        attack_strength=rows_of("attack_strength"),
        attack_adequacy=rows_of("attack_adequacy"),
    output:
        **FITTED,
    log:
        f"{RESULTS}/logs/fit_compression_robustness.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_compression_robustness.tsv"
    conda:
        "../envs/report.yaml"
    params:
        settings=report_settings(),
        code=code("fit_compression_robustness"),
    message:
        "Fitting robust accuracy against compression rate"
    script:
        "../workflow_scripts/fit_compression_robustness.py"
