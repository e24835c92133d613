"""Functions of the rules: which files a configuration entry needs, which settings a job depends on, which code it runs."""

import hashlib
import json
import os
import re
import shlex
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from purification.sources import source_files
from workflow_scripts.cluster import refusals
from workflow_scripts.code_digest import Project
from workflow_scripts.configuration import problems
from workflow_scripts.configuration_sequences import attacks_of_the_run
from workflow_scripts.devices import device_problems
from workflow_scripts.index_list_problems import list_files
from workflow_scripts.input_files import (
    PUBLISHED,
    PUBLISHED_DENOISERS,
    architecture_of,
    dataset_files,
    detector_files,
    folder_listing,
    weight_files,
)
from workflow_scripts.ledger_file import published
from workflow_scripts.hidden_parts import hide_parts
from workflow_scripts.locking import Run
from workflow_scripts.results_folder import place_problems

if found := problems(config):
    raise WorkflowError("The configuration cannot run:\n" + "\n".join(found))


def ordered(value):
    """The same configuration with the keys of every dictionary sorted: their order in YAML means nothing."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return value


settings_in_order = ordered(config)
config.clear()
config.update(settings_in_order)
ROOT = Path(workflow.basedir)
RESULTS = Path(config["results"]).as_posix()
LEDGER = published()
PARTS = f"{RESULTS}/journal/parts"
NETWORK_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
hide_parts(PARTS, RESULTS)
RUN = Run(Path(RESULTS, "journal", "run.lock"))
CONFIGFILES = shlex.join(os.path.relpath(path) for path in workflow.overwrite_configfiles)
os.environ.update(PURIFICATION_CONFIGFILES=CONFIGFILES)  # for the command that a failed job shows
DATASET = [f"{RESULTS}/dataset/images.safetensors", f"{RESULTS}/dataset/subsets.json"]


# The named list that is evaluated, if it is one: other lists of the configuration change nothing.
EVALUATED_LIST = {
    name: entry for name, entry in config["index_lists"].items() if name == config["evaluation"]["subset"]
}


def one_of(names):
    """Wildcard pattern that matches exactly these names; nothing when there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


@cache
def project():
    return Project(ROOT, ("purification", "workflow_scripts"))


def code(script, *settings):
    """Hash of all project code that a stage can reach with these settings: a parameter of its jobs."""
    return project().digest(f"workflow_scripts.{script}", settings)


def code_of(script, *settings):
    """The same as a function of the wildcards: for the purifier, and the attack where there is one."""

    def chosen(wildcards):
        attack = [attack_settings(wildcards.attack)] if "attack" in wildcards.keys() else []
        return code(script, purifier_settings(wildcards.purifier), *attack, *settings)

    return chosen


def model_files(kind, name):
    return [f"{RESULTS}/models/{kind}/{name}/{file}" for file in NETWORK_FILES]


def user_files(entry):
    """Python file of an entry of kind `python` and what it imports from its own folder: inputs like any other."""
    return [str(file) for file in source_files(Path(entry["path"]))] if entry["kind"] == "python" else []


# A trained classifier is its files; one of a Python file is its entry and that file.
CHOSEN = config["classifiers"][config["classifier"]]
CLASSIFIER = user_files(CHOSEN) or model_files("classifiers", config["classifier"])
JUDGE = {"classifier": CHOSEN if CHOSEN["kind"] == "python" else {"kind": CHOSEN["kind"]}}


def purifier_settings(name):
    """Entry of a purifier with the schedule and the architecture of its denoiser."""
    entry = dict(config["purifiers"][name])
    entry.pop("derivative", None)  # what it declares changes what tables say, and nothing that runs
    if "denoiser" in entry:
        entry["schedule"] = config["denoisers"][entry["denoiser"]]["schedule"]
        entry["architecture"] = architecture_of(entry["denoiser"], config["denoisers"])
    return entry


def tuned_settings(name):
    """Entry of a fine-tuned denoiser with the architecture of its base."""
    return {**config["denoisers"][name], "architecture": architecture_of(name, config["denoisers"])}


def teacher_of(wildcards):
    """Entry of the classifier that guides the training of a fine-tuned denoiser; none for the control."""
    return None if config["denoisers"][wildcards.denoiser]["method"] == "none" else JUDGE["classifier"]


def guide_of(entry):
    """Files of the auxiliary network that guides a purifier; none for the others."""
    guide = entry.get("guidance", {})
    return model_files("classifiers", guide["network"]) if "network" in guide else []


def denoiser_files(entry):
    """Files of the network a purifier uses, and of its guide; none for purifiers without one."""
    return [*model_files("denoisers", entry["denoiser"]), *guide_of(entry)] if "denoiser" in entry else []


def denoiser_of(wildcards):
    return denoiser_files(config["purifiers"][wildcards.purifier])


def null_of(wildcards):
    """Files of the null model, for purifiers whose denoiser it can replace."""
    entry = config["purifiers"][wildcards.purifier]
    own = entry.get("denoiser", config["null_denoiser"])
    return (
        [] if own == config["null_denoiser"] else [*model_files("denoisers", config["null_denoiser"]), *guide_of(entry)]
    )


def user_code_of(wildcards):
    """Files of a purifier of kind `python`; none for the others."""
    return user_files(config["purifiers"][wildcards.purifier])


# Settings of jobs that compute gradients.
GRADIENT = {"gradient_batch_size": config["gradient_batch_size"]}


def evaluation(**extra):
    """Settings every evaluation job shares."""
    shared = {key: config[key] for key in ("seed", "device", "precision", "batch_size")}
    return {**shared, **config["threat"], "subset": config["evaluation"]["subset"], **extra}


def attack_settings(name):
    """Entry of an attack with its threat model, or the configuration's; the stages of a sequence are entries too."""
    entry = {"threat": config["threat"], **config["attacks"][name]}
    if "stages" in entry:
        entry["stages"] = [stage_settings(stage) for stage in entry["stages"]]
    return {**entry.pop("threat"), **entry}


def stage_settings(name):
    """Entry of an attack as a stage of a sequence, which says on how many images and after which attack it runs."""
    return {key: value for key, value in attack_settings(name).items() if key not in ("images", "after")}


def earlier_of(wildcards):
    """File of the attack whose broken images an attack leaves alone; none for most."""
    entry = config["attacks"][wildcards.attack]
    return [adversarial(entry["after"], wildcards.purifier)] if "after" in entry else []


def own_threats(names):
    """Attack -> its threat model, of attacks with one of their own."""
    return {name: config["attacks"][name]["threat"] for name in names if "threat" in config["attacks"][name]}


def attacks_on(purifier):
    """Attacks run on a purifier: base attack and challenge on all that are evaluated, others as the run lists say."""
    chosen = [attack for attack, purifiers in config["run"]["attacks"].items() if purifier in purifiers]
    if purifier in config["run"]["attack_adequacy"]:
        chosen.insert(0, config["adequacy_attack"])
    return list(dict.fromkeys([config["base_attack"], config["challenge_attack"], *chosen]))


# Settings of an attack that say what its audit examines.
EXAMINED = (
    *("kind", "version", "knowledge", "pool", "norm", "epsilon", "loss", "gradient"),
    *("surrogate_steps", "surrogate_guidance"),
)


def examined(entry):
    """What the audit examines of an attack, and of the stages of a sequence."""
    found = {key: entry[key] for key in EXAMINED if key in entry}
    if "stages" in entry:
        found["stages"] = [examined(stage) for stage in entry["stages"]]
    return found


def audited_attacks(purifier):
    """What the audit of a purifier examines of the attacks on it."""
    return {name: examined(attack_settings(name)) for name in attacks_on(purifier)}


def adversarial(attack, purifier):
    return f"{RESULTS}/adversarial/{attack}/{purifier}.safetensors"


def attacked_images(wildcards):
    """How many images an attack is run on."""
    return config["attacks"][wildcards.attack]["images"]


def judged_images(wildcards):
    """How many images a purifier is judged on: those evaluated, and those of the attacks on it."""
    attacks = [*attacks_on(wildcards.purifier), config["transfer_attack"]]
    return max(config["evaluation"]["images"], *(config["attacks"][attack]["images"] for attack in attacks))


def part_of(output):
    """Pattern of one of the files that a job split by blocks of images leaves for the job of the whole."""
    return temp(f"{PARTS}/{{part}}/{output}")


def parts_of(images, *outputs):
    """Input function: files of the parts that a job is split into, part by part; none where it is not split.

    images   number of images, or a function of the wildcards that gives it
    outputs  patterns below the results folder
    """

    def files(wildcards):
        count = min(config["shards"], images(wildcards) if callable(images) else images)
        if count == 1 or "part" in wildcards.keys():
            return []
        names = [output.format(**wildcards) for output in outputs]
        return [f"{PARTS}/{number}_of_{count}/{name}" for number in range(1, count + 1) for name in names]

    return files


def strengths_of(wildcards):
    """Budgets and steps of the attack-strength measurement of one purifier."""
    return config["attack_strength"]["undefended" if wildcards.purifier == "identity" else "defended"]


def judged_attacks(purifier):
    """Names and files of the adversarial images a purifier is judged on; "transfer" is the undefended classifier's."""
    own = {attack: adversarial(attack, purifier) for attack in attacks_on(purifier)}
    return {**own, "transfer": TRANSFER}


def judging(purifier):
    """Settings of the evaluation of one purifier on draws that chose nothing, and where part of the noise is known."""
    settings, varied = config["evaluation"], purifier in config["run"]["varied"]
    entries = {name: config["attacks"][name] for name in attacks_on(purifier)}
    pools = {name: entry["pool"] for name, entry in entries.items() if "pool" in entry}
    return evaluation(
        images=settings["images"],
        samples=settings["samples"],
        draws=settings["draws" if varied else "sweep_draws"],
        known_images=settings["known_images"] if varied else 0,
        known_draws=settings["known_draws"],
        pool=settings["pool"],
        pools=pools,
        threats=own_threats(entries),
        **JUDGE,
    )


TRANSFER = f"{RESULTS}/adversarial/{config['transfer_attack']}/identity.safetensors"
EVALUATED = list(dict.fromkeys([*config["run"]["sweep"], *config["run"]["controls"]]))

MEASURED = {
    "purified": EVALUATED,
    "compression": EVALUATED,
    "audit": EVALUATED,
    **{
        kind: config["run"][kind]
        for kind in ("distances", "randomness", "jacobian", "attack_strength", "attack_adequacy")
    },
    "gradient_noise": config["run"]["attack_adequacy"],
    "anomaly": config["run"]["anomaly"],
    "certificates": config["run"]["anomaly"],
}

FOLDERS = {"anomaly": "purified/detectors", "certificates": "purified/certificates"}  # of the other kinds their name


def rows_of(kind):
    """Files with the rows of one kind of measurement."""
    return [f"{RESULTS}/{FOLDERS.get(kind, kind)}/{name}.parquet" for name in MEASURED[kind]]


PLACES = ("results", "device", "memory_bytes", "shards")  # settings of where and how a run is done


def report_settings():
    """Configuration that tables, figures and claims read: nothing about places, machines or entries that do not run."""
    settings = {key: value for key, value in config.items() if key not in PLACES}
    attacks = attacks_of_the_run(config)
    settings["purifiers"] = {name: config["purifiers"][name] for name in EVALUATED}
    settings["classifiers"], settings["index_lists"] = {config["classifier"]: CHOSEN}, EVALUATED_LIST
    settings["anomaly"] = {name: config["anomaly"][name] for name in config["run"]["anomaly"]}
    settings["attacks"] = {name: entry for name, entry in config["attacks"].items() if name in attacks}
    return settings


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


def caption_of(figure):
    """Text of a caption: a parameter of the report, so that rewording it redraws nothing."""
    return (ROOT / f"docs/captions/{figure}.rst").read_text()


def text_digest(path):
    """Hash of a file that is neither configuration nor Python."""
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16]


def machine_problems():
    """What the machine would refuse of this run, or the cluster: only there the device may be on other machines."""
    if workflow.executor_plugin.name != "slurm":
        return device_problems(config)
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    return refusals({workflow.dag.get_job_group(job) or job for job in jobs}, workflow.executor_settings)


def start_run():
    """Refuse a results folder that cannot hold a run or has one; the lock ends with its process, unlike Snakemake's."""
    if found := list(place_problems(config)) or list(machine_problems()):
        raise WorkflowError("The run cannot start:\n" + "\n".join(found))
    try:
        RUN.start()
    except (ValueError, OSError) as refusal:
        raise WorkflowError(str(refusal)) from None
