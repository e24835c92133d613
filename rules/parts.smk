"""The same stages on one block of images each, where `shards` splits them; the job of the whole puts the rows together."""


use rule attack_images as attack_images_part with:
    output:
        part_of("adversarial/{attack}/{purifier}.safetensors"),
    log:
        f"{RESULTS}/logs/attack_images_part/{{attack}}/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/attack_images_part/{{attack}}/{{purifier}}/{{part}}.tsv"
    message:
        "Attacking {wildcards.purifier} with {wildcards.attack}: part {wildcards.part}"


use rule purify_images as purify_images_part with:
    output:
        rows=part_of("purified/{purifier}.parquet"),
        samples=part_of("purified/{purifier}.safetensors"),
    log:
        f"{RESULTS}/logs/purify_images_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/purify_images_part/{{purifier}}/{{part}}.tsv"
    message:
        "Purifying with {wildcards.purifier} under fixed and varied randomness: part {wildcards.part}"


use rule measure_attack_strength as measure_attack_strength_part with:
    output:
        part_of("attack_strength/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/measure_attack_strength_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_attack_strength_part/{{purifier}}/{{part}}.tsv"
    message:
        "Attacking {wildcards.purifier} with other budgets and steps: part {wildcards.part}"


use rule measure_attack_adequacy as measure_attack_adequacy_part with:
    output:
        adequacy=part_of("attack_adequacy/{purifier}.parquet"),
        noise=part_of("gradient_noise/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/measure_attack_adequacy_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_attack_adequacy_part/{{purifier}}/{{part}}.tsv"
    message:
        "Varying steps, restarts and draws of the attacks on {wildcards.purifier}: part {wildcards.part}"


use rule measure_distances as measure_distances_part with:
    output:
        part_of("distances/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/measure_distances_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_distances_part/{{purifier}}/{{part}}.tsv"
    message:
        "Measuring distances along the path of {wildcards.purifier}: part {wildcards.part}"


use rule measure_randomness as measure_randomness_part with:
    output:
        part_of("randomness/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/measure_randomness_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_randomness_part/{{purifier}}/{{part}}.tsv"
    message:
        "Separating noise from input in {wildcards.purifier}: part {wildcards.part}"


use rule measure_compression as measure_compression_part with:
    output:
        part_of("compression/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/measure_compression_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_compression_part/{{purifier}}/{{part}}.tsv"
    message:
        "Measuring the compression rate of {wildcards.purifier}: part {wildcards.part}"


use rule compute_jacobian as compute_jacobian_part with:
    output:
        part_of("jacobian/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/compute_jacobian_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compute_jacobian_part/{{purifier}}/{{part}}.tsv"
    message:
        "Computing Jacobians of {wildcards.purifier}: part {wildcards.part}"


use rule audit_gradients as audit_gradients_part with:
    output:
        part_of("audit/{purifier}.parquet"),
    log:
        f"{RESULTS}/logs/audit_gradients_part/{{purifier}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_gradients_part/{{purifier}}/{{part}}.tsv"
    message:
        "Auditing the gradients that attacks on {wildcards.purifier} follow: part {wildcards.part}"


use rule measure_anomalies as measure_anomalies_part with:
    output:
        rows=part_of("purified/detectors/{detector}.parquet"),
        samples=part_of("purified/detectors/{detector}.safetensors"),
    log:
        f"{RESULTS}/logs/measure_anomalies_part/{{detector}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_anomalies_part/{{detector}}/{{part}}.tsv"
    message:
        "Attacking detector {wildcards.detector}: part {wildcards.part}"


use rule certify_anomalies as certify_anomalies_part with:
    output:
        part_of("purified/certificates/{detector}.parquet"),
    log:
        f"{RESULTS}/logs/certify_anomalies_part/{{detector}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/certify_anomalies_part/{{detector}}/{{part}}.tsv"
    message:
        "Certifying detector {wildcards.detector}: part {wildcards.part}"
