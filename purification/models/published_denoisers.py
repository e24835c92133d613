"""Published denoisers: from an entry of the configuration and files of weights to a folder of our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from purification.models.edm_unet import FILTER, from_released, released_layout
from purification.models.guided_unet import GuidedUNet
from purification.models.score_unet import ScoreUNet
from purification.models.unet import UNet
from purification.models.weight_files import matched, read_checkpoint, read_state, state_of

ADVICE = "correct the entry's sizes, or fetch the file of this network"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SCHEDULERS = ("scheduler_config.json", "scheduler/scheduler_config.json", "../scheduler/scheduler_config.json")
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
EDM_SAVE = (
    "python -c \"import pickle, torch; torch.save(dict(pickle.load(open('NETWORK.pkl', 'rb'))['ema'].state_dict()), "
    "'edm.pt')\" in a checkout of github.com/NVlabs/edm"
)
AUGMENTED = "map_augment.weight"  # of labels that only training gives
Converted = tuple[dict[str, Any], dict[str, Tensor]]


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"expected a diffusers configuration at {path}, got an error ({said}) — fetch it") from error
    return content


def _check_scheduler(folder: Path, schedule: Mapping[str, Any]) -> None:
    """Compare the schedule that a folder brings along with the entry's."""
    path = next((folder / name for name in SCHEDULERS if (folder / name).is_file()), None)
    if path is None:
        return
    own = _json(path)
    wanted = {"beta_start": schedule["beta_start"], "beta_end": schedule["beta_end"]}
    wanted |= {"num_train_timesteps": schedule["train_steps"], "beta_schedule": "linear", "prediction_type": "epsilon"}
    for key, value in wanted.items():
        if key in own and own[key] != value:
            raise ValueError(f"expected {key} = {value} in {path}, got {own[key]} — correct the entry's `schedule`")


def _renamed(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new) if ".attentions." in name else name
    return name


def _check_channels(config: Mapping[str, Any], channels: int, path: Path) -> None:
    if config["in_channels"] != channels or config["out_channels"] not in (channels, 2 * channels):
        raise ValueError(
            f"expected a network of {channels} channels in {path}, got {config['in_channels']} in and "
            f"{config['out_channels']} out — use a dataset or a network of the same channels"
        )


def _diffusers(settings: Mapping[str, Any], channels: int) -> Converted:
    folder = Path(settings["path"], settings.get("branch", ""))
    config = _json(folder / "config.json")
    for key, value in settings.get("layout", {}).items():
        if config.get(key) != value:
            raise ValueError(
                f"expected {key} = {value} in {folder / 'config.json'}, got {config.get(key)} — correct the entry's "
                "`layout`, or fetch the folder of this network"
            )
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel" or "down_block_types" not in config:
        raise ValueError(f"expected a UNet2DModel in {folder}, got {config.get('_class_name')} — correct the path")
    _check_channels(config, channels, folder)
    _check_scheduler(folder, settings["schedule"])
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])
    state = {_renamed(name): value for name, value in read_state(path).items()}
    return config, matched(state, UNet.from_config(config).state_dict(), path, ADVICE)


def _guided_diffusion(settings: Mapping[str, Any], channels: int) -> Converted:
    path = Path(settings["path"])
    config = {key: value for key, value in settings.items() if key not in ("path", "branch", "schedule")}
    config["channels"] = channels
    state = read_state(path, settings.get("branch"))
    return config, matched(state, GuidedUNet(config).state_dict(), path, ADVICE)


def _averaged(content: Any, path: Path) -> dict[str, Tensor]:
    """The moving average of a score-SDE checkpoint: a list in the order of the parameters of `model`."""
    if not isinstance(content, Mapping) or not {"model", "ema"} <= content.keys():
        got = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"expected `model` and `ema` in {path}, got {got[:200]} — fetch the training checkpoint")
    names = [name for name in state_of(content["model"], path) if name != "sigmas"]
    ema = content["ema"]
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(averages, list) or len(averages) != len(names):
        got = f"{len(averages)} averages" if isinstance(averages, list) else "no list of averages"
        raise ValueError(
            f"expected an average of each of the {len(names)} weights in {path}, got {got} — fetch it again"
        )
    return dict(zip(names, averages, strict=True))


def _score_sde(settings: Mapping[str, Any], channels: int) -> Converted:
    path = Path(settings["path"])
    config = {key: value for key, value in settings.items() if key not in ("path", "schedule")}
    config |= {"channels": channels, "train_steps": settings["schedule"]["train_steps"]}
    content = read_checkpoint(path)
    state = content if path.suffix == ".safetensors" else _averaged(content, path)
    return config, matched(state, ScoreUNet(config).state_dict(), path, ADVICE)


def _unfiltered(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state without its filters, which must be the mean of 2x2 pixels, and without the weight of augmentation."""
    for name, value in state.items():
        if name.endswith(FILTER) and (value.shape != (1, 1, 2, 2) or bool((value != 0.25).any())):
            raise ValueError(
                f"expected filters of 2x2 equal numbers in {path}, got another in {name!r} — fetch a network of the "
                "architecture DDPM++ (`vp`), NCSN++ is not read"
            )
    return {name: value for name, value in state.items() if not name.endswith(FILTER) and name != AUGMENTED}


def _edm(settings: Mapping[str, Any], channels: int) -> Converted:
    path = Path(settings["path"])
    config = {key: value for key, value in settings.items() if key not in ("path", "branch", "schedule")}
    config["channels"] = channels
    state = _unfiltered(state_of(read_checkpoint(path, save=EDM_SAVE), path, settings.get("branch")), path)
    return config, from_released(matched(state, released_layout(config), path, ADVICE), config)


CONVERTERS: dict[str, Callable[[Mapping[str, Any], int], Converted]] = {
    "diffusers": _diffusers,
    "guided_diffusion": _guided_diffusion,
    "score_sde": _score_sde,
    "edm": _edm,
}


def _described(settings: Mapping[str, Any], channels: int) -> dict[str, Any]:
    config = {key: value for key, value in settings.items() if key not in ("path", "branch", "schedule")}
    return {**config, "channels": channels, "train_steps": settings["schedule"]["train_steps"]}


def _described_diffusers(settings: Mapping[str, Any], channels: int) -> dict[str, Any]:
    if "layout" in settings:
        return {"in_channels": channels, "out_channels": channels, **settings["layout"]}
    return _json(Path(settings["path"], settings.get("branch", ""), "config.json"))


DESCRIPTIONS: dict[str, Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    "diffusers": _described_diffusers,
    "guided_diffusion": _described,
    "score_sde": _described,
    "edm": _described,
}


def describe_denoiser(settings: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Architecture of a published denoiser, without its weights; a diffusers folder must be there or described."""
    return DESCRIPTIONS[settings["kind"]](settings, channels)


def convert_denoiser(settings: Mapping[str, Any], channels: int) -> Converted:
    """Configuration and weights of a published denoiser of images with `channels`, in our own format.

    Raises ValueError unless the files have exactly the weights of the network that the settings describe.
    """
    return CONVERTERS[settings["kind"]](settings, channels)
