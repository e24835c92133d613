"""Weights as others publish them: read without executing anything, and compared key by key with a network."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from purification.tensor_files import read_tensors

HTML = (b"<!doctype", b"<html", b"<?xml")
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "params")
PREFIXES = ("module.", "model.", "_orig_mod.")
IGNORED = ("num_batches_tracked",)  # counters that evaluation does not read
SAVE = "torch.save({name: tensor for name, tensor in model.state_dict().items()}, 'weights.pt')"


def _check_content(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"expected a file of weights, got none at {path} — correct the path or fetch it")
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith(HTML):
        raise ValueError(f"expected weights in {path}, got a web page — the download was refused: fetch the file again")
    if not start:
        raise ValueError(f"expected weights in {path}, got an empty file — fetch it again")


def read_checkpoint(path: Path, save: str = SAVE) -> Any:
    """Content of a .safetensors file or of a file of `torch.save`, plain tensors, numbers and containers only.

    save  the command that makes such a file, for who has another
    Raises ValueError that tells a web page, a truncated file, and a file that wants to execute code apart.
    """
    _check_content(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = [line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
        said = " ".join((lines or str(error).splitlines() or ["no reason"])[0].split())
        raise ValueError(
            f"expected plain tensors in {path}, got a file that needs more to be read ({said}) — if you trust its "
            f"origin, load it where it was made and save its state dict: {save}"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        said = " ".join(str(error).split())[:120]
        raise ValueError(f"expected weights in {path}, got a damaged file ({said}) — fetch it again") from error


def state_of(content: Any, path: Path, branch: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint, without the prefixes of wrappers.

    branch  key of the dictionary wanted; without it the only one among the usual names.
    """
    if branch is not None:
        if not isinstance(content, Mapping) or branch not in content:
            names = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"expected a branch {branch!r} in {path}, got {names[:200]} — correct `branch`")
        content = content[branch]
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
        if len(inner) != 1:
            names = ", ".join(map(str, content))[:200] or "nothing"
            raise ValueError(f"expected one state dict in {path}, got {names} — name the one to read as `branch`")
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a state dict in {path}, got a {type(content).__name__} — save one: {SAVE}")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.endswith(IGNORED)}


def read_state(path: Path, branch: str | None = None) -> dict[str, Tensor]:
    """State dict of a file of weights."""
    return state_of(read_checkpoint(path), path, branch)


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def matched(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, advice: str) -> dict[str, Tensor]:
    """The state as float32, when it has exactly the names and shapes of `wanted` and only finite numbers."""
    names = {name for name in wanted if not name.endswith(IGNORED)}
    if missing := names - state.keys():
        raise ValueError(f"expected weights {_some(missing)} in {path}, got a file without — {advice}")
    if extra := state.keys() - names:
        raise ValueError(f"expected no weights {_some(extra)} in {path}, got a file that has them — {advice}")
    for name in sorted(names):
        if state[name].shape != wanted[name].shape:
            raise ValueError(
                f"expected weights {name!r} of shape {tuple(wanted[name].shape)} in {path}, got "
                f"{tuple(state[name].shape)} — {advice}"
            )
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"expected finite weights in {path}, got NaN or infinity in {name!r} — fetch it again")
    counters = {name: value for name, value in wanted.items() if name.endswith(IGNORED)}
    return {**{name: state[name].float() for name in sorted(names)}, **counters}
