"""What stages hand to each other: examples, trained models, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from featuregen.data import BaseDataset, ImageSource
from featuregen.errors import UserError
from featuregen.models import Classifier, weights_sha256
from featuregen.storage import DatasetInfo


@dataclass(frozen=True)
class LabelledImages:
    """Images and labels of the device, and the digest that names them."""

    name: str
    images: ImageSource
    labels: Tensor
    sha256: str


@dataclass(frozen=True)
class TrainedModel:
    """A model, the record that travels with it, and where it was found."""

    model: Classifier
    record: dict[str, Any]
    path: Path


def describe_model(trained: TrainedModel) -> dict[str, Any]:
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


def model_summary(trained: TrainedModel) -> dict[str, Any]:
    """What a report of an attack says of a model."""
    about = describe_model(trained)
    return {"file": trained.path.name, **{key: about[key] for key in ("architecture", "width", "weights_sha256")}}


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
