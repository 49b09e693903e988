"""Labelled images that models train on, and the check that they belong to a base dataset."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from featuregen.data import BaseDataset, ImageSource
from featuregen.errors import UserError
from featuregen.storage import DatasetInfo


@dataclass(frozen=True)
class LabelledImages:
    """Images and labels of the device, and the digest that names them."""

    name: str
    images: ImageSource
    labels: Tensor
    sha256: str


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
