"""Dataset, classifier, denoisers."""


rule prepare_dataset:
    input:
        files=dataset_files(config["datasets"][config["dataset"]]),
        lists=list_files(config),
    output:
        images=DATASET[0],
        subsets=DATASET[1],
    log:
        f"{RESULTS}/logs/prepare_dataset.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_dataset.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        name=config["dataset"],
        settings=config["datasets"][config["dataset"]],
        listing=folder_listing(config["datasets"][config["dataset"]]),
        seed=config["seed"],
        lists=EVALUATED_LIST,
        code=code("prepare_dataset", config["datasets"][config["dataset"]], *EVALUATED_LIST.values()),
    message:
        "Preparing dataset {params.name}"
    script:
        "../workflow_scripts/prepare_dataset.py"


rule train_classifier:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
    output:
        config=f"{RESULTS}/models/classifiers/{{classifier}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/classifiers/{{classifier}}/{NETWORK_FILES[1]}",
        losses=f"{RESULTS}/models/classifiers/{{classifier}}/losses.parquet",
        record=f"{RESULTS}/models/classifiers/{{classifier}}/training.json",
        card=f"{RESULTS}/models/classifiers/{{classifier}}/README.md",
    log:
        f"{RESULTS}/logs/train_classifier/{{classifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_classifier/{{classifier}}.tsv"
    wildcard_constraints:
        classifier=one_of(name for name, entry in config["classifiers"].items() if entry["kind"] == "residual"),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("classifiers/{classifier}", within=config),
        seed=config["seed"],
        code=code("train_classifier", config["classifiers"]),
    message:
        "Training classifier {wildcards.classifier}"
    script:
        "../workflow_scripts/train_classifier.py"


rule train_robust_classifier:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
    output:
        config=f"{RESULTS}/models/classifiers/{{classifier}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/classifiers/{{classifier}}/{NETWORK_FILES[1]}",
        losses=f"{RESULTS}/models/classifiers/{{classifier}}/losses.parquet",
        record=f"{RESULTS}/models/classifiers/{{classifier}}/training.json",
        card=f"{RESULTS}/models/classifiers/{{classifier}}/README.md",
    log:
        f"{RESULTS}/logs/train_robust_classifier/{{classifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_robust_classifier/{{classifier}}.tsv"
    wildcard_constraints:
        classifier=one_of(name for name, entry in config["classifiers"].items() if entry["kind"] == "robust"),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("classifiers/{classifier}", within=config),
        seed=config["seed"],
        code=lambda wildcards: code("train_robust_classifier", config["classifiers"][wildcards.classifier]),
    message:
        "Training classifier {wildcards.classifier} adversarially"
    script:
        "../workflow_scripts/train_robust_classifier.py"


rule train_denoiser:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
    output:
        config=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[1]}",
        losses=f"{RESULTS}/models/denoisers/{{denoiser}}/losses.parquet",
        record=f"{RESULTS}/models/denoisers/{{denoiser}}/training.json",
        card=f"{RESULTS}/models/denoisers/{{denoiser}}/README.md",
    log:
        f"{RESULTS}/logs/train_denoiser/{{denoiser}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_denoiser/{{denoiser}}.tsv"
    wildcard_constraints:
        denoiser=one_of(name for name, entry in config["denoisers"].items() if entry["kind"] == "unet"),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("denoisers/{denoiser}", within=config),
        seed=config["seed"],
        code=code("train_denoiser", config["denoisers"]),
    message:
        "Training denoiser {wildcards.denoiser}"
    script:
        "../workflow_scripts/train_denoiser.py"


rule finetune_denoiser:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        base=lambda wildcards: model_files("denoisers", config["denoisers"][wildcards.denoiser]["base"]),
        classifier=lambda wildcards: CLASSIFIER if teacher_of(wildcards) else [],
    output:
        config=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[1]}",
        losses=f"{RESULTS}/models/denoisers/{{denoiser}}/losses.parquet",
        record=f"{RESULTS}/models/denoisers/{{denoiser}}/training.json",
        card=f"{RESULTS}/models/denoisers/{{denoiser}}/README.md",
    log:
        f"{RESULTS}/logs/finetune_denoiser/{{denoiser}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/finetune_denoiser/{{denoiser}}.tsv"
    wildcard_constraints:
        denoiser=one_of(name for name, entry in config["denoisers"].items() if entry["kind"] == "finetuned"),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lambda wildcards: tuned_settings(wildcards.denoiser),
        classifier=lambda wildcards: teacher_of(wildcards),
        seed=config["seed"],
        code=lambda wildcards: code("finetune_denoiser", tuned_settings(wildcards.denoiser), JUDGE),
    message:
        "Fine-tuning denoiser {wildcards.denoiser}"
    script:
        "../workflow_scripts/finetune_denoiser.py"


rule fit_null_model:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
    output:
        config=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[0]}",
        weights=f"{RESULTS}/models/denoisers/{{denoiser}}/{NETWORK_FILES[1]}",
    log:
        f"{RESULTS}/logs/fit_null_model/{{denoiser}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_null_model/{{denoiser}}.tsv"
    wildcard_constraints:
        denoiser=one_of(
            name for name, entry in config["denoisers"].items() if entry["kind"] in ("gaussian", "stationary")
        ),
    conda:
        "../envs/compute.yaml"
    params:
        settings=lookup("denoisers/{denoiser}", within=config),
        code=code("fit_null_model"),
    message:
        "Fitting the linear-Gaussian null model"
    script:
        "../workflow_scripts/fit_null_model.py"
