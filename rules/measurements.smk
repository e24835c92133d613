"""Measurements of a purifier; none but the audit needs the classifier."""


rule measure_distances:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        denoiser=denoiser_of,
        null=null_of,
        user_code=user_code_of,
        adversarial=TRANSFER,
        parts=parts_of(config["distances"]["images"], "distances/{purifier}.parquet"),
    output:
        f"{RESULTS}/distances/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/measure_distances/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_distances/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        settings=evaluation(**config["distances"]),
        code=code_of("measure_distances", evaluation()),
    message:
        "Measuring distances along the path of {wildcards.purifier}"
    script:
        "../workflow_scripts/measure_distances.py"


rule measure_randomness:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        denoiser=denoiser_of,
        null=null_of,
        user_code=user_code_of,
        parts=parts_of(config["randomness"]["images"], "randomness/{purifier}.parquet"),
    output:
        f"{RESULTS}/randomness/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/measure_randomness/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_randomness/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        settings=evaluation(**config["randomness"]),
        code=code_of("measure_randomness", evaluation()),
    message:
        "Separating noise from input in {wildcards.purifier}"
    script:
        "../workflow_scripts/measure_randomness.py"


rule measure_compression:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        denoiser=denoiser_of,
        null=null_of,
        user_code=user_code_of,
        parts=parts_of(config["compression"]["images"], "compression/{purifier}.parquet"),
    output:
        f"{RESULTS}/compression/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/measure_compression/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_compression/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        settings=evaluation(**config["compression"]),
        code=code_of("measure_compression", evaluation()),
    message:
        "Measuring the compression rate of {wildcards.purifier}"
    script:
        "../workflow_scripts/measure_compression.py"


rule compute_jacobian:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        denoiser=denoiser_of,
        null=null_of,
        user_code=user_code_of,
        parts=parts_of(config["jacobian"]["images"], "jacobian/{purifier}.parquet"),
    output:
        f"{RESULTS}/jacobian/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/compute_jacobian/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compute_jacobian/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        settings=evaluation(**config["jacobian"], **GRADIENT),
        code=code_of("compute_jacobian", evaluation(**config["jacobian"])),
    message:
        "Computing Jacobians of {wildcards.purifier}"
    script:
        "../workflow_scripts/compute_jacobian.py"


rule audit_gradients:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        classifier=CLASSIFIER,
        denoiser=denoiser_of,
        user_code=user_code_of,
        parts=parts_of(config["audit"]["images"], "audit/{purifier}.parquet"),
    output:
        f"{RESULTS}/audit/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/audit_gradients/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_gradients/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        attacks=lambda wildcards: audited_attacks(wildcards.purifier),
        settings=evaluation(**config["audit"], **GRADIENT, **JUDGE),
        code=lambda wildcards: code(
            "audit_gradients",
            purifier_settings(wildcards.purifier),
            *audited_attacks(wildcards.purifier).values(),
            evaluation(**JUDGE),
        ),
    message:
        "Auditing the gradients that attacks on {wildcards.purifier} follow"
    script:
        "../workflow_scripts/audit_gradients.py"
