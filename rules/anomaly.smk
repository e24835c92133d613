"""Detectors of anomalies: their images, training, attacks and certificates."""

ITEMS = {
    "images": f"{RESULTS}/models/detectors/{{detector}}/items.safetensors",
    "kinds": f"{RESULTS}/models/detectors/{{detector}}/items.parquet",
}
DETECTOR_FILES = [f"{RESULTS}/models/detectors/{{detector}}/{file}" for file in NETWORK_FILES]


rule prepare_anomalies:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        pictures=pictures_of,
    output:
        **ITEMS,
    log:
        f"{RESULTS}/logs/prepare_anomalies/{{detector}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_anomalies/{{detector}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("anomaly/{detector}/data", within=config),
        seed=config["seed"],
        subset=config["evaluation"]["subset"],
        code=lambda wildcards: code("prepare_anomalies", config["anomaly"][wildcards.detector]["data"]),
    message:
        "Choosing images for detector {wildcards.detector}"
    script:
        "../workflow_scripts/prepare_anomalies.py"


rule train_detector:
    input:
        **ITEMS,
    output:
        config=DETECTOR_FILES[0],
        weights=DETECTOR_FILES[1],
        losses=f"{RESULTS}/models/detectors/{{detector}}/losses.parquet",
        record=f"{RESULTS}/models/detectors/{{detector}}/training.json",
        card=f"{RESULTS}/models/detectors/{{detector}}/README.md",
    log:
        f"{RESULTS}/logs/train_detector/{{detector}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_detector/{{detector}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        settings=lambda wildcards: detector_training(wildcards.detector),
        seed=config["seed"],
        code=code("train_detector", config["anomaly"]),
    message:
        "Training detector {wildcards.detector}"
    script:
        "../workflow_scripts/train_detector.py"


rule measure_anomalies:
    input:
        **ITEMS,
        denoiser=DETECTOR_FILES,
        parts=parts_of(
            lambda wildcards: tested_images(wildcards.detector),
            "purified/detectors/{detector}.parquet",
            "purified/detectors/{detector}.safetensors",
        ),
    output:
        rows=f"{RESULTS}/purified/detectors/{{detector}}.parquet",
        samples=f"{RESULTS}/purified/detectors/{{detector}}.safetensors",
    log:
        f"{RESULTS}/logs/measure_anomalies/{{detector}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_anomalies/{{detector}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        settings=lambda wildcards: scoring(wildcards.detector),
        images=lambda wildcards: tested_images(wildcards.detector),
        code=lambda wildcards: code("measure_anomalies", scoring(wildcards.detector)),
    message:
        "Attacking detector {wildcards.detector}"
    script:
        "../workflow_scripts/measure_anomalies.py"


rule certify_anomalies:
    input:
        **ITEMS,
        denoiser=DETECTOR_FILES,
        parts=parts_of(lambda wildcards: tested_images(wildcards.detector), "purified/certificates/{detector}.parquet"),
    output:
        f"{RESULTS}/purified/certificates/{{detector}}.parquet",
    log:
        f"{RESULTS}/logs/certify_anomalies/{{detector}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/certify_anomalies/{{detector}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        settings=lambda wildcards: certifying(wildcards.detector),
        images=lambda wildcards: tested_images(wildcards.detector),
        code=lambda wildcards: code("certify_anomalies", certifying(wildcards.detector)),
    message:
        "Certifying detector {wildcards.detector}"
    script:
        "../workflow_scripts/certify_anomalies.py"
