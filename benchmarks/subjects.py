"""What side_by_side.py works on: real or drawn images, trained or untrained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from featuregen.config.schema import Data, Model
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import load_model, read_model_record
from featuregen.models.registry import build_classifier, find_architecture
from featuregen.runtime.rng import RowRandom

_CPU = torch.device("cpu")
# CIFAR-10's own figures.
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read_images(data: Path | None, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64], int, str]:
    """Images (NCHW), labels, the number of classes, and what they are."""
    if data is None:
        labels = RowRandom(0, "label").integers(range(count), 10)
        return smooth_images(count), labels, 10, "drawn, smooth, with drawn labels"
    base = load_images(Data(str(data)))
    if count > len(base.train):
        raise UserError(f"{data} has {len(base.train)} training images; this needs {count}.")
    images = base.train.images_tensor(_CPU, np.arange(count)).numpy()
    return images, base.train.labels[:count], len(base.classes), f"the first {count} training images of {base.name}"


def smooth_images(count: int) -> NDArray[np.float32]:
    """Soft blobs of colour, 32x32 and in steps of 1/255, the same on every machine; no pixel is quite 0 or 1."""
    draw = RowRandom(0, "image")
    coarse = torch.from_numpy(np.stack([draw.normal(row, 48) for row in range(count)])).view(count, 3, 4, 4).float()
    blobs = 0.5 + 0.15 * F.interpolate(coarse, size=(32, 32), mode="bilinear")
    return np.asarray(((blobs.clamp(0.1, 0.9) * 255).round() / 255).numpy(), dtype=np.float32)


def weights_file(folder: Path | None, name: str) -> Path | None:
    file = None if folder is None else folder / f"{name}.safetensors"
    return file if file and file.exists() else None


def check_model(folder: Path | None, name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Before anything is timed."""
    if not find_architecture(name).takes(shape):
        raise UserError(f"{name} does not take images of shape {shape}; choose other models or data.")
    file = weights_file(folder, name)
    if file:
        record = read_model_record(file)
        wanted = (find_architecture(name).name, list(shape), classes)
        if (record["architecture"], record["image_shape"], record["classes"]) != wanted:
            raise UserError(f"{file} holds no {name} for {classes} classes of images of shape {shape}.")


def ready_model(folder: Path | None, name: str, images: NDArray[np.float32], classes: int) -> tuple[Classifier, str]:
    """The model, and where its weights are from."""
    file = weights_file(folder, name)
    if file:
        return load_model(file), f"weights of {file.name}"
    channels, height, width = images.shape[1:]
    mean, std = (_MEAN, _STD) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    model = build_classifier(Model(name), (channels, height, width), classes, mean, std, seed=0)
    take_statistics(model, torch.from_numpy(images[:256]))
    return model, "untrained weights, batch norm statistics of the images"


@torch.no_grad()
def take_statistics(model: nn.Module, images: torch.Tensor) -> None:
    """Without them an untrained net's features grow or vanish with its depth."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean over batches
    model.train()
    for first in range(0, len(images), 64):
        model(images[first : first + 64])
    model.eval()
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
