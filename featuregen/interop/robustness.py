"""Checkpoints of the package `robustness`, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.config import Model
from featuregen.errors import UserError
from featuregen.interop.torch_files import begins_as_torch_file, read_torch_file
from featuregen.models import ARCHITECTURES, Classifier, RobustnessNet, skeleton
from featuregen.runtime import atomic_path
from featuregen.storage import file_sha256

ENDINGS = (".pt", ".pth", ".ckpt", ".best", ".latest", ".tar")
# The package keeps every net twice, and adds `module.` as its training does not run without it.
_NET, _WRAPPER = "model.", "module."
_MEAN, _STD = "normalizer.new_mean", "normalizer.new_std"
# The nets of its CIFAR family take images of one size.
_SHAPE = (3, 32, 32)
_MOST_CLASSES = 100_000


def is_checkpoint(path: Path) -> bool:
    """By its first bytes, or by its name where there is no file."""
    return begins_as_torch_file(path) if path.is_file() else path.suffix in ENDINGS


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[Classifier, dict[str, Any]]:
    """The model in eval mode, with the normaliser it was trained with, and what the file says of its training."""
    content = read_torch_file(path)
    tensors = _state(path, content)
    net = {name.removeprefix(_NET): value for name, value in tensors.items() if name.startswith(_NET)}
    mean, std = (_channels(path, tensors, name) for name in (_MEAN, _STD))
    architecture, names = _architecture(path, net)
    model = skeleton(Model(architecture), _SHAPE, _classes(path, net))
    # Contiguous, since a loaded tensor is a view into a storage that may hold more.
    state = {f"net.{names[name]}": tensor.contiguous() for name, tensor in net.items()}
    model.load_state_dict(state | {"mean": mean, "std": std}, assign=True)
    return model.to(device).eval(), {"origin": _origin(path, content)}


def save_checkpoint(model: Classifier, path: Path, record: Mapping[str, Any]) -> None:
    """A file that the package's make_and_restore_model accepts."""
    net = model.net
    if not isinstance(net, RobustnessNet):
        raise UserError(f"{model.architecture} is not one of robustness' nets; only those have such checkpoints.")
    weights = {net.original_name(name): tensor for name, tensor in net.state_dict().items()}
    mean, std = (tensor.view(-1, 1, 1) for tensor in (model.mean, model.std))
    state: dict[str, Tensor] = {}
    for part, normaliser in (("", "normalizer"), ("attacker.", "attacker.normalize")):
        state |= {f"{_WRAPPER}{part}{_NET}{name}": tensor for name, tensor in weights.items()}
        state |= {f"{_WRAPPER}{normaliser}.new_mean": mean, f"{_WRAPPER}{normaliser}.new_std": std}
    epochs = record.get("settings", {}).get("training", {}).get("epochs", 0)
    content = {
        "model": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        "optimizer": None,
        "schedule": None,
        "epoch": epochs,
        "amp": None,
    }
    with atomic_path(path) as partial:
        torch.save(content, partial)


# Reading -------------------------------------------------------------------------------------------


def _state(path: Path, content: Any) -> dict[str, Tensor]:
    """Names without the wrapper, of the net and its normaliser; the attacker's copy is the same net once more."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; a checkpoint of robustness holds a dict.")
    state = content.get("model", content.get("state_dict"))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is no checkpoint of robustness: it has no tensors under 'model' or 'state_dict'.")
    tensors = {str(name).removeprefix(_WRAPPER): value for name, value in state.items()}
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{path} holds NaN or infinite weights in {name}; take another checkpoint.")
    return tensors


def _channels(path: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    values = tensors.get(name)
    if values is None or values.numel() != 3 or not values.is_floating_point():
        raise UserError(f"{path} has no normaliser for 3 channels ({name}); only whole checkpoints of robustness do.")
    if name == _STD and bool((values <= 0).any()):
        raise UserError(f"{path}: its normaliser divides by {values.flatten().tolist()}; deviations must be positive.")
    return values.flatten().float()


def _classes(path: Path, net: Mapping[str, Tensor]) -> int:
    """Every net of the package ends in a linear layer."""
    found = [value.shape[0] for name, value in net.items() if name in ("linear.bias", "classifier.bias", "fc.bias")]
    if len(found) != 1 or not 2 <= found[0] <= _MOST_CLASSES:
        raise UserError(f"{path} holds no net with one last layer of two or more classes.")
    return int(found[0])


def _architecture(path: Path, net: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Which architecture has exactly these tensors, and what each of them is called in it."""
    classes = _classes(path, net)
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in net.items()}
    for name in ARCHITECTURES:
        expected = _expected(name, classes)
        if expected and {original: spec for original, (_, spec) in expected.items()} == shapes:
            return name, {original: own for original, (own, _) in expected.items()}
    known = [name for name in ARCHITECTURES if _expected(name, classes)]
    raise UserError(
        f"{path} holds a net of {len(net)} tensors and {classes} classes that is none of {', '.join(known)} for "
        "32x32 images; featuregen reads the CIFAR nets of robustness."
    )


_Spec = tuple[tuple[int, ...], torch.dtype]


@cache
def _expected(name: str, classes: int) -> dict[str, tuple[str, _Spec]]:
    """By the package's names: our name, shape and type of every tensor; empty for nets that are not the package's."""
    if not ARCHITECTURES[name].takes(_SHAPE):
        return {}
    net = skeleton(Model(name), _SHAPE, classes).net
    if not isinstance(net, RobustnessNet):
        return {}
    return {net.original_name(own): (own, (tuple(t.shape), t.dtype)) for own, t in net.state_dict().items()}


def _origin(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a model that featuregen has not trained."""
    told = {name: content.get(name) for name in ("epoch", "nat_prec1", "adv_prec1")}
    numbers = {name: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
               for name, value in told.items()}  # fmt: skip
    plain = {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
    return {"format": "robustness checkpoint", "file": path.name, "sha256": file_sha256(path), **plain}
