"""Adversarial images and what the defences make of them."""

VARIED_ATTACKS = {
    entry["attack"]: attack_settings(entry["attack"]) for entry in config["attack_adequacy"]["variations"]
}


rule attack_images:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        classifier=CLASSIFIER,
        denoiser=denoiser_of,
        user_code=user_code_of,
        after=earlier_of,
        parts=parts_of(attacked_images, "adversarial/{attack}/{purifier}.safetensors"),
    output:
        f"{RESULTS}/adversarial/{{attack}}/{{purifier}}.safetensors",
    log:
        f"{RESULTS}/logs/attack_images/{{attack}}/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/attack_images/{{attack}}/{{purifier}}.tsv"
    priority: 2  # the longest chain of a run: an attack begun last would keep one core waiting for it
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        settings=lambda wildcards: attack_settings(wildcards.attack),
        evaluation=evaluation(**JUDGE, **GRADIENT),
        code=code_of("attack_images", evaluation(**JUDGE)),
    message:
        "Attacking {wildcards.purifier} with {wildcards.attack}"
    script:
        "../workflow_scripts/attack_images.py"


rule purify_images:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        classifier=CLASSIFIER,
        denoiser=denoiser_of,
        user_code=user_code_of,
        adversarial=lambda wildcards: list(judged_attacks(wildcards.purifier).values()),
        parts=parts_of(judged_images, "purified/{purifier}.parquet", "purified/{purifier}.safetensors"),
    output:
        rows=f"{RESULTS}/purified/{{purifier}}.parquet",
        samples=f"{RESULTS}/purified/{{purifier}}.safetensors",
    log:
        f"{RESULTS}/logs/purify_images/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/purify_images/{{purifier}}.tsv"
    priority: 1
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        attacks=lambda wildcards: list(judged_attacks(wildcards.purifier)),
        evaluation=lambda wildcards: judging(wildcards.purifier),
        code=code_of("purify_images", evaluation()),
    message:
        "Purifying with {wildcards.purifier} under fixed and varied randomness"
    script:
        "../workflow_scripts/purify_images.py"


rule measure_attack_strength:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        classifier=CLASSIFIER,
        denoiser=denoiser_of,
        user_code=user_code_of,
        parts=parts_of(config["attacks"][config["base_attack"]]["images"], "attack_strength/{purifier}.parquet"),
    output:
        f"{RESULTS}/attack_strength/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/measure_attack_strength/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_attack_strength/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        settings=attack_settings(config["base_attack"]),
        variations=strengths_of,
        evaluation=evaluation(**JUDGE, **GRADIENT),
        code=code_of("measure_attack_strength", attack_settings(config["base_attack"]), evaluation(**JUDGE)),
    message:
        "Attacking {wildcards.purifier} with other budgets and steps"
    script:
        "../workflow_scripts/measure_attack_strength.py"


rule measure_attack_adequacy:
    input:
        images=DATASET[0],
        subsets=DATASET[1],
        classifier=CLASSIFIER,
        denoiser=denoiser_of,
        user_code=user_code_of,
        parts=parts_of(
            config["attack_adequacy"]["images"],
            "attack_adequacy/{purifier}.parquet",
            "gradient_noise/{purifier}.parquet",
        ),
    output:
        adequacy=f"{RESULTS}/attack_adequacy/{{purifier}}.parquet",
        noise=f"{RESULTS}/gradient_noise/{{purifier}}.parquet",
    log:
        f"{RESULTS}/logs/measure_attack_adequacy/{{purifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_attack_adequacy/{{purifier}}.tsv"
    conda:
        "../envs/compute.yaml"
    params:
        purifier=lambda wildcards: purifier_settings(wildcards.purifier),
        attacks=VARIED_ATTACKS,
        options=config["attack_adequacy"],
        noise=config["gradient_noise"],
        evaluation=evaluation(**JUDGE, **GRADIENT),
        code=code_of("measure_attack_adequacy", *VARIED_ATTACKS.values(), config["gradient_noise"], evaluation(**JUDGE)),
    message:
        "Varying steps, restarts and draws of the attacks on {wildcards.purifier}"
    script:
        "../workflow_scripts/measure_attack_adequacy.py"
