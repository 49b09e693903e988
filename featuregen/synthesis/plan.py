"""The plan of a dataset's rows, fixed before any pixel moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuregen.config.kinds import Kind
from featuregen.data.base_dataset import ImageSplit
from featuregen.errors import UserError
from featuregen.runtime.rng import RowRandom
from featuregen.synthesis.kinds import find_kind


@dataclass(frozen=True)
class RowPlan:
    """Base row, labels and start of every row. A row's plan depends on the seed and its base row alone."""

    index: NDArray[np.int64]
    source_labels: NDArray[np.int64]
    labels: NDArray[np.int64]
    start_index: NDArray[np.int64]

    def take(self, rows: slice) -> RowPlan:
        """The plan of these rows."""
        return RowPlan(self.index[rows], self.source_labels[rows], self.labels[rows], self.start_index[rows])


def make_plan(kind: str, labels: NDArray[np.int64], index: NDArray[np.int64], classes: int, seed: int) -> RowPlan:
    """The plan of a dataset made from these base rows; `labels` are those of the whole base split."""
    rule = find_kind(kind)
    source_labels = labels[index]
    if rule.label == "random":
        stored = RowRandom(seed, "target").integers(index, classes)
    else:
        stored = _checked_labels(rule, rule.labels_of(source_labels, classes), source_labels, classes)
    if rule.start == "image":
        start = RowRandom(seed, "start").integers(index, len(labels))
    elif rule.start == "self":
        start = index
    else:
        start = np.full_like(index, -1)
    return RowPlan(index, source_labels, stored, start)


def _checked_labels(kind: Kind, stored: Any, true: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """A user's rule may give anything."""
    labels = np.asarray(stored)
    if labels.shape != true.shape or labels.dtype.kind not in "iu" or ((labels < 0) | (labels >= classes)).any():
        raise UserError(
            f"kind {kind.name}: its label rule gives {labels.dtype} of shape {labels.shape} for {len(true)} labels; it "
            f"must give one whole number from 0 to {classes - 1} for each."
        )
    return labels.astype(np.int64)


def start_images(split: ImageSplit, plan: RowPlan, rows: NDArray[np.int64], noise: float, seed: int) -> Tensor:
    """The images from which these rows of the plan start, float32 NCHW on the CPU."""
    if plan.start_index[rows[0]] >= 0:
        return split.images_tensor(rows=plan.start_index[rows])
    height, width, channels = split.images.shape[1:]
    draws = RowRandom(seed, "noise")
    size = height * width * channels
    flat = np.stack([draws.normal(int(plan.index[row]), size) for row in rows])
    grey = 0.5 + noise * flat.reshape(len(rows), channels, height, width)
    return torch.from_numpy(grey.clip(0, 1).astype(np.float32))
