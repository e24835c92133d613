"""Table of contents of the workflow; functions are in rules/common.smk, one file of rules per stage."""

from snakemake.utils import min_version, validate

min_version("9.27")


configfile: "config/default.yaml"


validate(config, "config/schema.yaml")


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/attacks.smk"
include: "rules/measurements.smk"
include: "rules/analysis.smk"
include: "rules/rendering.smk"
include: "rules/figures.smk"
include: "rules/targets.smk"


wildcard_constraints:
    purifier=one_of(config["purifiers"]),
    attack=one_of(config["attacks"]),


rule all:
    default_target: True
    input:
        FINAL,


include: "rules/records.smk"
