"""What stages hand to each other: labelled images, and what is recorded of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.config import Config, Model, to_dict
from featuregen.data import BaseDataset, ImageSource
from featuregen.errors import UserError
from featuregen.models import Classifier, build_model, read_model_record
from featuregen.runtime import ComputeSpec, log, versions
from featuregen.storage import DatasetInfo
from featuregen.training import TrainingLog

# Rows, and numbers, of which a few copies are held at once.
_BLOCK, _BLOCK_NUMBERS = 1000, 1 << 22


@dataclass(frozen=True)
class LabelledImages:
    """Images and labels of the device, and the digest that names them."""

    name: str
    images: ImageSource
    labels: Tensor
    sha256: str


def init_models(chosen: Model, data: LabelledImages, classes: int, seeds: list[int]) -> list[Classifier]:
    """Models that have learnt nothing yet, but for how bright the images are."""
    mean, std = (chosen.mean, chosen.std) if chosen.mean else channel_statistics(data.images)
    channels, height, width = data.images.shape[1:]
    shape, device = (channels, height, width), data.images.device
    return [build_model(chosen, shape, classes, mean, std, seed).to(device) for seed in seeds]


def training_record(
    training: TrainingLog,
    settings: Mapping[str, Any],
    data: LabelledImages,
    base: BaseDataset,
    config: Config,
    compute: ComputeSpec,
    title: str,
) -> dict[str, Any]:
    """What a model's file says of how it came about."""
    return {
        "settings": settings,
        "trained_on": {"name": data.name, "sha256": data.sha256},
        "base": {"name": base.name, "train_sha256": base.train.sha256},
        "config": to_dict(config),
        "train_accuracy": training.train_accuracy,
        "loss": [round(epoch.loss, 6) for epoch in training.epochs],
        "seconds": {"training": training.seconds},
        "software": versions(compute),
        **_stopping_record(training, f"{title} {settings['seed']}"),
    }


def _stopping_record(training: TrainingLog, title: str) -> dict[str, Any]:
    """Which epoch's weights these are and why, where images were held out to tell; nothing where none were."""
    errors = [epoch.error for epoch in training.epochs if epoch.error is not None]
    if not errors:
        return {}
    log(
        f"note: {title}: the weights of epoch {training.kept} of {len(errors)} are kept, "
        f"{errors[training.kept - 1]:.1%} error on the images held out; {training.ended}"
    )
    return {
        "early_stop": {"errors": [round(error, 6) for error in errors], "kept": training.kept, "ended": training.ended}
    }


def is_trained_as(path: Path, settings: Mapping[str, Any]) -> bool:
    try:
        return bool(read_model_record(path)["record"].get("settings") == settings)
    except UserError:
        return False


def channel_statistics(images: ImageSource) -> tuple[list[float], list[float]]:
    """In blocks, since in float64 the whole set would take four times its own memory."""
    step = max(1, min(_BLOCK, _BLOCK_NUMBERS // math.prod(images.shape[1:])))
    parts = [slice(first, first + step) for first in range(0, len(images), step)]
    count = math.prod(images.shape) / images.shape[1]
    # One place for all sums, made before any block: a small result kept behind each block would keep the C library from
    # using that block's memory again.
    sums = torch.empty((len(parts), images.shape[1]), dtype=torch.float64, device=images.device)
    for own, part in zip(sums, parts, strict=True):
        own.copy_(images[part].sum((0, 2, 3), dtype=torch.float64))
    mean = sums.sum(0) / count
    centre = mean.view(-1, 1, 1)
    for own, part in zip(sums, parts, strict=True):
        own.copy_((images[part].double() - centre).square_().sum((0, 2, 3)))
    squares = sums.sum(0)
    # A constant channel has no spread to divide by.
    return mean.tolist(), (squares / (count - 1)).sqrt().clamp_min(1e-3).tolist()


def describe_batches(sizes: Sequence[int]) -> str:
    """How many rows were made at once; a file whose batches had to shrink says what that costs."""
    if all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        return str(sizes[0])
    return f"{sizes[0]}, later {min(sizes[:-1])}, since memory ran out: made again, images may differ in their bytes"


def check_base(info: DatasetInfo, base: BaseDataset) -> None:
    """Whether a dataset was made from this base set's training images; its test images will judge what is trained."""
    recorded, own = info.base.get("sha256"), base.train.sha256
    if info.base.get("split", "train") != "train":
        raise UserError(
            f"{info.path} was made from {info.base.get('name')}, {info.base.get('split')}; fresh models and their "
            "test need a dataset made from the training images of a base set."
        )
    if recorded == own and info.base.get("test_sha256", base.test.sha256) != base.test.sha256:
        raise UserError(f"{info.path} goes with another test set than {base.name} has here; choose it with --data.")
    if recorded != own:
        raise UserError(
            f"{info.path} was made from {info.base.get('name')} (sha256 {str(recorded)[:12]}), which is not "
            f"{base.name} here (sha256 {own[:12]}); choose its base set with --data."
        )
