"""What stages hand to each other: examples, trained models, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.errors import UserError
from featuregen.models import Classifier, read_model_record, weights_sha256
from featuregen.runtime import note
from featuregen.training import TrainingLog

_BLOCK = 1000


@dataclass(frozen=True)
class Examples:
    """Images and labels on the device, and the digest that names them."""

    name: str
    images: Tensor
    labels: Tensor
    sha256: str


@dataclass(frozen=True)
class Trained:
    """A model, the record that travels with it, and where it was found."""

    model: Classifier
    record: dict[str, Any]
    path: Path


def stopping_record(log: TrainingLog, title: str) -> dict[str, Any]:
    """Which epoch's weights these are and why, where images were held out to tell; nothing where none were."""
    errors = [epoch.error for epoch in log.epochs if epoch.error is not None]
    if not errors:
        return {}
    note(
        f"note: {title}: the weights of epoch {log.kept} of {len(errors)} are kept, "
        f"{errors[log.kept - 1]:.1%} error on the images held out; {log.ended}"
    )
    return {"early_stop": {"errors": [round(error, 6) for error in errors], "kept": log.kept, "ended": log.ended}}


def is_trained_as(path: Path, settings: Mapping[str, Any]) -> bool:
    try:
        return bool(read_model_record(path)["record"].get("settings") == settings)
    except UserError:
        return False


def describe_model(trained: Trained) -> dict[str, Any]:
    """What a dataset says of its source model: nothing that changes from run to run of the same training."""
    record: Mapping[str, Any] = trained.record
    model = trained.model
    return {
        "architecture": model.architecture,
        "width": model.width,
        "weights_sha256": weights_sha256(model),
        **{
            name: record[name]
            for name in ("settings", "origin", "trained_on", "train_accuracy", "accuracy")
            if name in record
        },
    }


def about_model(trained: Trained) -> dict[str, Any]:
    """What a report of an attack says of a model."""
    about = describe_model(trained)
    return {"file": trained.path.name, **{key: about[key] for key in ("architecture", "width", "weights_sha256")}}


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """In blocks, since in float64 the whole set would take four times its own memory."""
    blocks = torch.split(images, _BLOCK)
    count = images.numel() / images.shape[1]
    mean = torch.stack([block.sum((0, 2, 3), dtype=torch.float64) for block in blocks]).sum(0) / count
    centre = mean.view(-1, 1, 1)
    squares = torch.stack([(block.double() - centre).square().sum((0, 2, 3)) for block in blocks]).sum(0)
    # A constant channel has no spread to divide by.
    return mean.tolist(), (squares / (count - 1)).sqrt().clamp_min(1e-3).tolist()


def batches_in_words(sizes: Sequence[int]) -> str:
    """How many rows were made at once; a file whose batches had to shrink says what that costs."""
    if all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        return str(sizes[0])
    return f"{sizes[0]}, later {min(sizes[:-1])}, since memory ran out: made again, images may differ in their bytes"
