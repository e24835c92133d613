"""Published networks, converted into models of our own."""


rule convert_classifier:
    input:
        weights=lambda wildcards: weight_files(config["classifiers"][wildcards.classifier]),
    output:
        config=f"{RESULTS}/models/classifiers/{{classifier}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/classifiers/{{classifier}}/{NETWORK_FILES[1]}",
    log:
        f"{RESULTS}/logs/convert_classifier/{{classifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/convert_classifier/{{classifier}}.tsv"
    wildcard_constraints:
        classifier=one_of(name for name, entry in config["classifiers"].items() if entry["kind"] in PUBLISHED),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("classifiers/{classifier}", within=config),
        code=lambda wildcards: code("convert_classifier", config["classifiers"][wildcards.classifier]),
    message:
        "Converting classifier {wildcards.classifier}"
    script:
        "../workflow_scripts/convert_classifier.py"


rule convert_denoiser:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        weights=lambda wildcards: weight_files(config["denoisers"][wildcards.denoiser]),
    output:
        config=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[1]}",
    log:
        f"{RESULTS}/logs/convert_denoiser/{{denoiser}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/convert_denoiser/{{denoiser}}.tsv"
    wildcard_constraints:
        denoiser=one_of(name for name, entry in config["denoisers"].items() if entry["kind"] in PUBLISHED_DENOISERS),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("denoisers/{denoiser}", within=config),
        code=lambda wildcards: code("convert_denoiser", config["denoisers"][wildcards.denoiser]),
    message:
        "Converting denoiser {wildcards.denoiser}"
    script:
        "../workflow_scripts/convert_denoiser.py"
