"""The plan of a dataset's rows, fixed before any pixel moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuregen.data import ImageSplit
from featuregen.runtime import RowRandom
from featuregen.synthesis.kinds import RULES


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
    rule = RULES[kind]
    source_labels = labels[index]
    if rule.label == "random":
        stored = RowRandom(seed, "target").integers(index, classes)
    elif rule.label == "next":
        stored = (source_labels + 1) % classes
    else:
        stored = source_labels
    if rule.start == "image":
        start = RowRandom(seed, "start").integers(index, len(labels))
    elif rule.start == "self":
        start = index
    else:
        start = np.full_like(index, -1)
    return RowPlan(index, source_labels, stored, start)


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
