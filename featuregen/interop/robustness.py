"""Checkpoints of the package `robustness`: reading and writing them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.config.schema import Model
from featuregen.config.serialize import shown_name
from featuregen.errors import UserError
from featuregen.models.architectures.robustness_nets import RobustnessNet
from featuregen.models.classifier import Classifier
from featuregen.models.registry import ARCHITECTURES, skeleton
from featuregen.runtime.atomic import atomic_path
from featuregen.runtime.torch_files import read_torch_file
from featuregen.storage.checksums import file_sha256

# Prefixes of tensor names: the package stores every net twice, and wraps it in DataParallel.
_NET, _WRAPPER = "model.", "module."
_MEAN, _STD = "normalizer.new_mean", "normalizer.new_std"
# The nets of its CIFAR family take images of one size.
_SHAPE = (3, 32, 32)
_MAX_CLASSES = 100_000


def load_checkpoint(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """Load a checkpoint of the package `robustness`, with the normaliser it was trained with.

    Args:
        path: The checkpoint of one of its CIFAR nets.
        device: Where the weights go.

    Returns:
        The classifier in eval mode. `model.record["origin"]` names the file and what it records about its training.

    Raises:
        UserError: The file is no such checkpoint, or asks for more than data.
    """
    path = Path(path)
    content = read_torch_file(path)
    tensors = _state(path, content)
    net = {name.removeprefix(_NET): value for name, value in tensors.items() if name.startswith(_NET)}
    mean, std = (_channels(path, tensors, name) for name in (_MEAN, _STD))
    architecture, names = _architecture(path, net)
    model = skeleton(Model(architecture), _SHAPE, _classes(path, net))
    # Contiguous, since a loaded tensor is a view into a storage that may hold more.
    state = {f"net.{names[name]}": tensor.contiguous() for name, tensor in net.items()}
    model.load_state_dict(state | {"mean": mean, "std": std}, assign=True)
    model.record = {"origin": _origin(path, content)}
    return model.to(device).eval()


def save_checkpoint(model: Classifier, path: str | os.PathLike[str], record: Mapping[str, Any] | None = None) -> None:
    """Save a classifier as a checkpoint that `make_and_restore_model` of the package `robustness` accepts.

    Args:
        model: A classifier with one of the package's nets, such as "resnet50".
        path: The file to write.
        record: Where the number of epochs is taken from; by default `model.record`.

    Raises:
        UserError: The net is not one of the package's.

    Example:
        >>> import featuregen as fg
        >>> fg.save_checkpoint(fg.build_model("resnet18", (3, 32, 32), classes=10), "resnet18.pt")
        >>> fg.load_model("resnet18.pt").architecture
        'resnet18'
    """
    net = model.net
    if not isinstance(net, RobustnessNet):
        raise UserError(f"{model.architecture} is not one of robustness' nets; only those have such checkpoints.")
    weights = {net.original_name(name): tensor for name, tensor in net.state_dict().items()}
    mean, std = (tensor.view(-1, 1, 1) for tensor in (model.mean, model.std))
    state: dict[str, Tensor] = {}
    for prefix, normaliser in (("", "normalizer"), ("attacker.", "attacker.normalize")):
        state |= {f"{_WRAPPER}{prefix}{_NET}{name}": tensor for name, tensor in weights.items()}
        state |= {f"{_WRAPPER}{normaliser}.new_mean": mean, f"{_WRAPPER}{normaliser}.new_std": std}
    record = model.record if record is None else record
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
    """The tensors of the net, its normaliser and the attacker's copy of both, by their names without the wrapper."""
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
        raise UserError(
            f"{path} has no normaliser for 3 channels ({name}); only complete checkpoints of robustness have one."
        )
    numbers = values.flatten().float()
    # Once more, since single precision does not hold all that double precision does.
    if not bool(numbers.isfinite().all()):
        raise UserError(f"{path}: its normaliser holds {values.flatten().tolist()}; take another checkpoint.")
    if name == _STD and bool((numbers <= 0).any()):
        raise UserError(f"{path}: its normaliser divides by {values.flatten().tolist()}; deviations must be positive.")
    return numbers


def _classes(path: Path, net: Mapping[str, Tensor]) -> int:
    """The size of the last linear layer, in which every net of the package ends."""
    biases = [value for name, value in net.items() if name in ("linear.bias", "classifier.bias", "fc.bias")]
    if len(biases) != 1 or biases[0].ndim != 1 or not 2 <= len(biases[0]) <= _MAX_CLASSES:
        raise UserError(f"{path} holds no net with one last layer of two or more classes.")
    return len(biases[0])


def _architecture(path: Path, net: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """The architecture with exactly these tensors, and its name for each of them."""
    classes = _classes(path, net)
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in net.items()}
    for name in ARCHITECTURES:
        expected = _expected(name, classes)
        if expected and {original: spec for original, (_, spec) in expected.items()} == shapes:
            return name, {original: ours for original, (ours, _) in expected.items()}
    candidates = [name for name in ARCHITECTURES if _expected(name, classes)]
    raise UserError(
        f"{path} holds a net of {len(net)} tensors and {classes} classes that is none of {', '.join(candidates)} for "
        "32x32 images; featuregen reads the CIFAR nets of robustness."
    )


_Spec = tuple[tuple[int, ...], torch.dtype]


@cache
def _expected(name: str, classes: int) -> dict[str, tuple[str, _Spec]]:
    """For every tensor, by the package's name: our name, its shape and type. Empty for nets of other packages."""
    if not ARCHITECTURES[name].takes(_SHAPE):
        return {}
    net = skeleton(Model(name), _SHAPE, classes).net
    if not isinstance(net, RobustnessNet):
        return {}
    return {net.original_name(ours): (ours, (tuple(t.shape), t.dtype)) for ours, t in net.state_dict().items()}


def _origin(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a model that featuregen has not trained: its file, and the numbers of its training in it."""
    numbers: dict[str, int | float] = {}
    for name in ("epoch", "nat_prec1", "adv_prec1"):
        value = content.get(name)
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        # robustness writes false for an accuracy that it has not measured.
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if not abs(number) < 2**63:
            raise UserError(f"{path} records {name} {number}; a number of a training is finite and fits 64 bits.")
        numbers[name] = number
    return {"format": "robustness checkpoint", "file": shown_name(path.name), "sha256": file_sha256(path), **numbers}
