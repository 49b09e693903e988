"""The images that an attack starts from, and what they are taken from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuregen.attacks import Criterion
from featuregen.data import BaseDataset, balanced_rows
from featuregen.errors import UserError
from featuregen.storage import FeatureDataset, read_info

# The sample taken by default: enough to tell attacks apart, and few enough for the slow ones.
SAMPLE = 1000


@dataclass(frozen=True, eq=False)
class AttackInputs:
    """Images with their labels, and the rows of a base set or a dataset that they are.

    `base` is what files record of that set.
    """

    images: Tensor
    labels: Tensor
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    base: dict[str, Any]
    citation: str

    def criterion(self, target_class: str) -> Criterion:
        """Any class but an image's label, or "next" (the class after it), or one class by its name or number."""
        if not target_class:
            return Criterion(self.labels)
        if target_class == "next":
            return Criterion((self.labels + 1) % len(self.classes), targeted=True)
        if target_class in self.classes:
            number = self.classes.index(target_class)
        elif target_class.isdecimal() and int(target_class) < len(self.classes):
            number = int(target_class)
        else:
            raise UserError(f"--target {target_class} is no class; choose next, or one of {', '.join(self.classes)}.")
        return Criterion(torch.full_like(self.labels, number), targeted=True)


def inputs_from_split(
    base: BaseDataset, split_name: str, rows: int | None, seed: int, device: torch.device
) -> AttackInputs:
    """A class-balanced sample of the test or training images; 0 rows means all, None at most a thousand."""
    split = base.split(split_name)
    index = balanced_rows(split.labels, _sample_size(rows, len(split)), seed)
    images, labels = split.images_tensor(device, index), split.labels_tensor(device, index)
    return AttackInputs(images, labels, index, base.classes, base.record(split_name), base.citation)


def inputs_from_file(path: Path, base: BaseDataset, rows: int | None, seed: int, device: torch.device) -> AttackInputs:
    """The images of a dataset with the labels it stores; they must fit the base set."""
    data, info = FeatureDataset(path), read_info(path)
    if (info.image_shape, len(info.classes)) != (base.image_shape, len(base.classes)):
        raise UserError(
            f"{path} holds images of shape {info.image_shape} in {len(info.classes)} classes, but {base.name} has "
            f"{base.image_shape} in {len(base.classes)}; name its image set with --data."
        )
    index = balanced_rows(data.labels.numpy(), _sample_size(rows, info.rows), seed)
    chosen = torch.from_numpy(index)
    record = {"name": path.name, "split": "dataset", "rows": info.rows, "sha256": info.content_sha256}
    images, labels = data.images[chosen].to(device), data.labels[chosen].to(device)
    return AttackInputs(images, labels, index, info.classes, record, info.citation)


def _sample_size(rows: int | None, available: int) -> int:
    return min(SAMPLE, available) if rows is None else rows
