"""Table of contents of the workflow; functions are in rules/common.smk, one file of rules per stage."""

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from workflow_scripts.configuration_files import file_problems

min_version("9.27")

if found := file_problems(["config/default.yaml", *workflow.configfiles]):
    raise WorkflowError("The configuration cannot be read:\n" + "\n".join(found))


configfile: "config/default.yaml"


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/published.smk"
include: "rules/attacks.smk"
include: "rules/measurements.smk"
include: "rules/anomaly.smk"
include: "rules/parts.smk"
include: "rules/analysis.smk"
include: "rules/rendering.smk"
include: "rules/figures.smk"
include: "rules/targets.smk"


wildcard_constraints:
    purifier=one_of(config["purifiers"]),
    attack=one_of(config["attacks"]),
    part=r"\d+_of_\d+",
    detector=one_of(config["anomaly"]),


onstart:
    start_run()


rule all:
    default_target: True
    input:
        FINAL,


include: "rules/records.smk"
