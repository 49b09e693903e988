"""One way to load a model, whoever saved it: featuregen, or the package `robustness`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from featuregen.interop.robustness import load_checkpoint
from featuregen.models.classifier import Classifier
from featuregen.models.io import load_model as load_own_model
from featuregen.models.io import read_model_record, weights_sha256
from featuregen.runtime.torch_files import is_checkpoint

_SUFFIX = ".safetensors"


def is_model_file(path: Path) -> bool:
    """Whether a file is a model rather than a dataset: a safetensors file, or a checkpoint of robustness."""
    return path.suffix == _SUFFIX or is_checkpoint(path)


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """Load a classifier that featuregen saved, or a checkpoint of the package `robustness`.

    Nothing in a checkpoint is executed: only tensors, plain containers and numbers are read from it.

    Args:
        path: A `.safetensors` file of `save_model`, or a checkpoint (`.pt`, `.pth`, `.ckpt` and so on) of robustness.
        device: Where the weights go.

    Returns:
        The classifier in eval mode. `model.record` holds what the file records about its training.

    Raises:
        UserError: The file is missing, damaged, or no such model.

    Example:
        >>> import tempfile
        >>> import featuregen as fg
        >>> model = fg.build_model("convnet", image_shape=(1, 8, 8), classes=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fg.save_model(model, f"{folder}/m.safetensors", {"note": "untrained"})
        ...     loaded = fg.load_model(f"{folder}/m.safetensors")
        >>> loaded.architecture, loaded.record
        ('convnet', {'note': 'untrained'})
    """
    return load_checkpoint(path, device) if is_checkpoint(Path(path)) else load_own_model(path, device)


def model_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model file records: architecture, image shape, classes, digest of the weights, and `record`.

    Weights of featuregen's own files are not read.
    """
    if not is_checkpoint(Path(path)):
        return read_model_record(path)
    model = load_checkpoint(path)
    return {
        "architecture": model.architecture,
        "image_shape": model.image_shape,
        "classes": model.classes,
        "weights_sha256": weights_sha256(model),
        "record": model.record,
    }
