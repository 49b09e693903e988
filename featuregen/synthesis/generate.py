"""Synthesis: optimising the pixels of a dataset, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute.autotune import fitting_batch
from featuregen.compute.folding import folded_copy
from featuregen.compute.optimize import (
    Ball,
    Objective,
    frozen_eval,
    image_norms,
    move_pixels,
    quantize,
    step_sizes,
    to_unit_range,
)
from featuregen.config.kinds import KINDS, Kind
from featuregen.config.schema import Synthesis
from featuregen.data.base_dataset import ImageSplit, balanced_rows
from featuregen.errors import UserError, out_of_memory
from featuregen.models.classifier import Classifier
from featuregen.runtime.console import log, progress
from featuregen.runtime.device import ComputeSpec
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


Columns = dict[str, NDArray[Any]]


def synthesize(
    kind: str,
    recipe: Synthesis,
    model: Classifier,
    split: ImageSplit,
    plan: RowPlan | None = None,
    *,
    seed: int = 0,
    compute: ComputeSpec | None = None,
    done: int = 0,
    batch_size: int = 0,
    title: str | None = None,
) -> Iterator[Columns]:
    """Optimise the images of a dataset, batch by batch.

    Every batch has the same shape, the last one padded, because a row's bits may depend on the shape of its batch. If
    memory runs out, the batch is repeated in halves, and later batches stay at that size.

    Args:
        kind: The kind of dataset, such as "robust" or "det": it decides the objective, the start and the stored label.
        recipe: How pixels are optimised: steps, step size, norm, eps, and how they are stored.
        model: The source model.
        split: The base images, usually the training split.
        plan: Base row, start and label of every row; by default a class-balanced sample of `recipe.rows` rows.
        seed: Draws sample, targets, starts and noise of the rows.
        compute: Device and arithmetic; by default fp32 on the model's device.
        done: The number of rows that exist already; the first batch starts after them.
        batch_size: Rows per batch; by default the recipe's, or fewer where memory is short.
        title: The label of the progress bar.

    Yields:
        The columns of a batch: images as stored, labels, base rows, distances, objective and predictions.

    Raises:
        UserError: Memory runs out at a single image, or eps is too small for the stored type.

    Example:
        >>> import featuregen as fg
        >>> base = fg.load_images("digits")
        >>> model = fg.build_model("convnet", image_shape=(1, 8, 8), classes=10)
        >>> recipe = fg.Synthesis(steps=2, norm="l2", eps=0.5, rows=30, batch_size=20)
        >>> batches = fg.synthesize("det", recipe, model, base.train)
        >>> [batch["images"].shape for batch in batches]
        [(20, 1, 8, 8), (10, 1, 8, 8)]
    """
    if plan is None:
        index = balanced_rows(split.labels, recipe.rows, seed)
        plan = make_plan(kind, split.labels, index, model.classes, seed)
    compute = compute or ComputeSpec(model.mean.device)
    rows = len(plan.index)
    folded = folded_copy(model, compute)
    size = full_size = batch_size or fitting_batch(folded, min(recipe.batch_size, rows))
    starts = range(done, rows, full_size)
    with frozen_eval(model):
        for start in progress(starts, title or f"making {kind}", len(starts)):
            first, end = start, min(start + full_size, rows)
            while first < end:
                count = min(size, end - first)
                batch = np.resize(np.arange(first, first + count), size)
                try:
                    columns = _synthesize_batch(kind, recipe, model, folded, split, plan, batch, seed, compute.device)
                except (MemoryError, RuntimeError) as error:
                    size = _halved(size, error)
                    continue
                yield {name: values[:count] for name, values in columns.items()}
                first += count


def _halved(size: int, error: Exception) -> int:
    if not out_of_memory(error):
        raise error
    if size == 1:
        raise UserError("memory ran out with a single image at a time; choose a smaller model or another device.")
    log(f"note: memory ran out with {size} images at once; going on with {-(-size // 2)}")
    return -(-size // 2)


def _synthesize_batch(
    kind: str,
    recipe: Synthesis,
    model: Classifier,
    folded: Classifier,
    split: ImageSplit,
    plan: RowPlan,
    batch: NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> Columns:
    base = split.images_tensor(device, plan.index[batch])
    start = start_images(split, plan, batch, recipe.noise, seed).to(device)
    labels = torch.from_numpy(plan.labels[batch]).to(device)
    ball = None if recipe.norm == "none" else Ball(recipe.norm, recipe.eps, base)
    moved = move_pixels(
        start,
        _objective(kind, folded, base, labels, recipe.fake_relu),
        sizes=step_sizes(recipe.step_size, recipe.steps, recipe.schedule),
        norm="linf" if recipe.norm == "linf" else "l2",
        ball=ball,
        momentum=recipe.momentum,
        polyak=recipe.schedule == "polyak",
    )
    stored = quantize(moved, recipe.dtype, ball)
    return {
        "images": stored.cpu().numpy(),
        "labels": plan.labels[batch],
        "source_labels": plan.source_labels[batch],
        "index": plan.index[batch],
        "start_index": plan.start_index[batch],
        **_measure(kind, model, base, to_unit_range(stored), labels),
    }


def _objective(kind: str, model: Classifier, base: Tensor, labels: Tensor, fake_relu: bool = False) -> Objective:
    """What the pixels of these base images minimise."""
    rule = KINDS[kind].objective
    if rule == "features":
        with torch.no_grad():
            target = model.features(base).float()
        return feature_distance(model, target, fake_relu)
    if rule == "class":
        return class_loss(model, labels)
    function: Objective = rule(model, base, labels)

    def objective(x: Tensor) -> Tensor:
        values = function(x)
        if values.shape != labels.shape:
            raise UserError(
                f"kind {kind}: its objective gives the shape {tuple(values.shape)} for {len(labels)} images; it must "
                "give one number for each."
            )
        return values

    return objective


def feature_distance(model: Classifier, target: Tensor, fake_relu: bool = False) -> Objective:
    """Squared distance in feature space: only the gradient's direction counts, and the distance has none at zero."""
    return lambda x: (model.features(x, fake_relu=fake_relu).float() - target).square().sum(1)


def class_loss(model: Classifier, classes: Tensor) -> Objective:
    """Cross-entropy towards these classes."""
    return lambda x: F.cross_entropy(model.logits(x).float(), classes, reduction="none")


@torch.no_grad()
def _measure(kind: str, model: Classifier, base: Tensor, stored: Tensor, labels: Tensor) -> Columns:
    """Distance, objective and prediction, in fp32 on the images as stored."""
    features = model.features(stored)
    logits = model.head(features)
    if KINDS[kind].objective == "features":
        target = model.features(base)
        objective = (features - target).norm(dim=1) / target.norm(dim=1)
    elif KINDS[kind].objective == "class":
        objective = F.cross_entropy(logits, labels, reduction="none")
    else:
        objective = _objective(kind, model, base, labels)(stored)
    return {
        "norm": image_norms(stored - base).flatten().cpu().numpy(),
        "objective": objective.cpu().numpy(),
        "source_pred": logits.argmax(1).cpu().numpy(),
    }
