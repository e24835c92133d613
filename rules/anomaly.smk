"""Detectors of anomalies: their images, training, attacks and certificates."""

ITEMS = {
    "images": f"{RESULTS}/models/detectors/{{detector}}/items.safetensors",
    "kinds": f"{RESULTS}/models/detectors/{{detector}}/items.parquet",
}
DETECTOR_FILES = [f"{RESULTS}/models/detectors/{{detector}}/{file}" for file in NETWORK_FILES]


def detector_training(detector):
    """Settings of the denoiser of normal images."""
    entry = config["anomaly"][detector]
    return {"kind": "unet", **{name: entry[name] for name in ("schedule", "network", "training")}}


def tested_images(detector):
    """How many images are tested, for the forecast of costs; of folders what their listing says."""
    data = config["anomaly"][detector]["data"]
    pictures = [path for path in detector_files(data) if Path(path).parts[-3] == "test"]
    return len(pictures) or sum(data["images"].values())


def detector_settings(detector, *names):
    """Those settings with what the evaluation shares and the shape of the network's entry."""
    entry = config["anomaly"][detector]
    shared = ("schedule", "components", "scales", "window", "summary", "calibration", *names)
    return {
        **{key: config[key] for key in ("seed", "device", "precision", "batch_size")},
        **{name: entry[name] for name in shared},
        "architecture": "unet",
        "detector": detector,
    }


def scoring(detector):
    """Settings of scores and attacks; an attack on a detector raises the margin, which is its score or minus it."""
    settings = detector_settings(detector, "level", "shots", "purifier", "draws", "samples")
    aim = {"kind": "pgd", "loss": "margin", "gradient": "replay", "stop_when_broken": False}
    attacks = {name: {**aim, **entry} for name, entry in config["anomaly"][detector]["attacks"].items()}
    settings |= GRADIENT
    fixed = {"kind": "diffusion", "forward_noise": True, "clip": "none", "clamp_output": False}
    return {**settings, "attacks": attacks, "purifier": {**fixed, **settings["purifier"]}}


def certifying(detector):
    """Settings of a certificate."""
    return detector_settings(detector, "certification")


def pictures_of(wildcards):
    """Files of a detector in MVTec AD's layout; none for classes of the dataset."""
    return detector_files(config["anomaly"][wildcards.detector]["data"])


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
