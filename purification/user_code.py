"""Purifiers and classifiers from a Python file of a user: loaded from there, and checked in every call.

Errors begin with the file and the factory, so that a failed job names what to mend.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from purification.errors import NoDerivative
from purification.sources import siblings

Shape = tuple[int, ...]
SUM_ERROR = 2e-3  # of a row of probabilities: rounding of sixteen-bit networks
FEWEST_ROWS = 3  # different ones: a row or two of logits may have the sum 1 by chance


@contextmanager
def explained(path: Path, factory: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a ValueError of one sentence with the line it came from."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        where = f" in line {lines[-1]}" if lines else ""
        text = next(iter(str(error).strip().splitlines()), "")
        raise ValueError(
            f"{path}, {factory}: expected it to run, got {type(error).__name__}{where}: {text} — mend it there"
        ) from error


def _expect_own_siblings(path: Path) -> None:
    """Raise ValueError when another module would be imported instead of one beside the file."""
    for name, files in siblings(path).items():
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
        if origin is None or Path(origin).resolve() not in {file.resolve() for file in files}:
            raise ValueError(
                f"{path}: expected its module {name!r} from {files[0]}, got {origin} — rename {files[0].name}"
            )


def forget_siblings(path: Path) -> None:
    """Let the modules beside a file be imported anew, as the file itself always is."""
    own = siblings(path).keys()
    for name in list(sys.modules):
        if name.partition(".")[0] in own:
            del sys.modules[name]


def load_factory(path: Path, factory: str) -> Callable[..., Any]:
    """Function `factory` of a Python file, which may import modules beside it.

    Raises ValueError when the file or the name is missing, or when importing it fails.
    """
    if not path.is_file():
        raise ValueError(f"expected a Python file at {path}, found none — correct `path`")
    spec = importlib.util.spec_from_file_location(f"user_code.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file at {path}, got something that cannot be imported — use a .py file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # the end: a file of the user replaces no installed module
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with explained(path, "import"):
        siblings(path)
    _expect_own_siblings(path)
    with explained(path, "import"):
        spec.loader.exec_module(module)
    if not callable(getattr(module, factory, None)):
        raise ValueError(f"expected a function {factory!r} in {path}, found none — correct `factory`")
    return getattr(module, factory)  # type: ignore[no-any-return]


def are_probabilities(rows: Tensor) -> bool:
    """Whether rows (B, classes) are probabilities: none negative, each with the sum 1, and at least three different.

    A result that is the same for every image decides nothing: it may be the logits of a constant classifier.
    """
    if rows.min() < 0 or ((rows.sum(dim=1) - 1).abs() > SUM_ERROR).any():
        return False
    return len({tuple(row) for row in rows.tolist()}) >= FEWEST_ROWS


def faults(result: object, images: Tensor, shape: Shape) -> Iterator[tuple[str, str]]:
    """(name of the check, sentence) for what is wrong with a result for `images`; `shape` is that of one image's."""
    if not isinstance(result, Tensor):
        yield "shape", f"expected a tensor, got {type(result).__name__} — return a torch tensor"
        return
    if result.shape != (len(images), *shape):
        yield (
            "shape",
            f"expected shape {(len(images), *shape)}, got {tuple(result.shape)} — return one result per image",
        )
    if result.dtype != images.dtype:
        yield "dtype", f"expected {images.dtype} as the images, got {result.dtype} — cast your tensors to images.dtype"
    if result.device != images.device:
        yield "device", f"expected the images' device {images.device}, got {result.device} — use the `device` given"
    elif not result.is_meta and not torch.isfinite(result.detach()).all():
        broken = int((~torch.isfinite(result.detach())).flatten(1).any(dim=1).sum())
        yield (
            "finite",
            f"expected finite values, got NaN or infinity for {broken} of {len(images)} images — mend it there",
        )
    elif not result.is_meta and len(shape) == 1 and result.dim() == 2 and are_probabilities(result.detach()):
        yield "logits", PROBABILITIES


PROBABILITIES = (
    "expected logits, got probabilities (no value is negative, every row has the sum 1) — return the values before the "
    "softmax, whose gradient vanishes where it is sure"
)
DETACHED = "Can't call numpy() on Tensor that requires grad"  # torch's words where NumPy takes over
NO_PATH = (
    "expected a result that depends differentiably on the images, got one without a gradient — use torch operations on "
    "`images`, no .detach(), .numpy(), .item() or torch.no_grad()"
)


@dataclass(frozen=True)
class UserFunction:
    """What a factory returned: a function of images (B, C, H, W), for a purifier also of their noise.

    shape  of the result for one image
    """

    path: Path
    factory: str
    function: Callable[..., Any]
    shape: Shape

    def run(self, images: Tensor, *noise: Any) -> Any:
        """The function alone; a network is first cast to the type of the images."""
        try:
            with explained(self.path, self.factory):
                if isinstance(self.function, nn.Module):
                    self.function.to(images.dtype)
                return self.function(images, *noise)
        except ValueError as error:
            if noise and DETACHED in str(error):
                raise NoDerivative(str(error)) from error
            raise

    def __call__(self, images: Tensor, *noise: Any) -> Tensor:
        """Raise ValueError for a result of another shape, type or device, not finite, or without its gradient.

        A purifier's missing gradient is NoDerivative: attacks can do without it.
        """
        version = None if images.is_inference() else images._version
        result: Tensor = self.run(images, *noise)
        found = [sentence for _, sentence in faults(result, images, self.shape)]
        if version is not None and images._version != version:
            found.append("expected the images to be left as they are, got them changed in place — work on a copy")
        if images.requires_grad and torch.is_grad_enabled() and not found and not result.requires_grad:
            error = NoDerivative if noise else ValueError
            raise error(f"{self.path}, {self.factory}: {NO_PATH}")
        if found:
            raise ValueError(f"{self.path}, {self.factory}: {found[0]}")
        return result


def _load(settings: Mapping[str, Any], shape: Shape, **arguments: Any) -> UserFunction:
    """Call the factory of an entry with `path`, `factory` and `params`; networks are frozen in evaluation mode."""
    path, name = Path(settings["path"]), settings["factory"]
    factory = load_factory(path, name)
    with explained(path, name):
        made = factory(params=settings["params"], **arguments)
    if not callable(made):
        raise ValueError(f"{path}, {name}: expected a function, got {type(made).__name__} — return a callable")
    if isinstance(made, nn.Module):
        made.eval().requires_grad_(False).to(arguments["device"])
    return UserFunction(path, name, made, shape)


def own_purifier(settings: Mapping[str, Any], image_shape: Shape, device: torch.device) -> UserFunction:
    """Purifier of a Python file: (images in [0, 1], noise) -> images."""
    return _load(settings, image_shape, image_shape=image_shape, device=device)


def own_classifier(
    settings: Mapping[str, Any], image_shape: Shape, num_classes: int, device: torch.device
) -> UserFunction:
    """Classifier of a Python file: images in [0, 1] -> logits (B, num_classes)."""
    return _load(settings, (num_classes,), image_shape=image_shape, num_classes=num_classes, device=device)
