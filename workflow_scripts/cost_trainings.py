"""Trainings as the stages run them, with the settings and the classifier of a laboratory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from purification.finetuning import finetune_denoiser
from purification.models.edm_unet import EdmUNet
from purification.models.loading import Sampled
from purification.models.published_denoisers import describe_denoiser
from purification.robust_training import train_robust_classifier
from purification.schedule import Schedule
from purification.training import train_classifier, train_denoiser

if TYPE_CHECKING:
    from workflow_scripts.cost_probe import Laboratory


def _unet_of(settings: Mapping[str, Any], lab: Laboratory) -> Any:
    from workflow_scripts.unet_training import unet  # and with it diffusers, which most probes do without

    return unet(lab.data.shape, settings["network"])


def _train_unet(settings: Mapping[str, Any], lab: Laboratory) -> object:
    network, schedule = _unet_of(settings, lab), Schedule(**settings["schedule"])
    return train_denoiser(lab.data.take("train")[0], network, schedule, settings["training"], 0)


def _published_unet(settings: Mapping[str, Any], lab: Laboratory) -> Any:
    config = describe_denoiser(settings, lab.data.shape[0])
    network = {key: config[key] for key in config if key not in ("in_channels", "out_channels")}
    return _unet_of({"network": network}, lab)


TUNED: dict[str, Callable[[Mapping[str, Any], Laboratory], Any]] = {
    "unet": _unet_of,
    "diffusers": _published_unet,
    "edm": lambda settings, lab: Sampled(EdmUNet(describe_denoiser(settings, lab.data.shape[0]))),
}


def _finetune(settings: Mapping[str, Any], lab: Laboratory) -> object:
    images, labels, _ = lab.data.take("train")
    network, schedule = TUNED[settings["tuned"]["kind"]](settings["tuned"], lab), Schedule(**settings["schedule"])
    return finetune_denoiser(images, labels, network, schedule, lab.classifier(), settings, 0)


TRAININGS: dict[str, Callable[[Mapping[str, Any], Laboratory], object]] = {
    "residual": lambda settings, lab: train_classifier(*lab.data.take("train")[:2], settings, 0),
    "robust": lambda settings, lab: train_robust_classifier(*lab.data.take("train")[:2], settings, 0),
    "unet": _train_unet,
    "finetuned": _finetune,
}
