"""Synthesis: optimising the pixels of a dataset, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute.autotune import fitting_batch
from featuregen.compute.folding import folded_copy
from featuregen.compute.optimize import Ball, Objective, frozen_eval, image_norms, move_pixels, step_sizes
from featuregen.config.kinds import KINDS
from featuregen.config.schema import Synthesis
from featuregen.data.base_dataset import ImageSplit, balanced_rows
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.runtime.console import log, progress
from featuregen.runtime.device import ComputeSpec, out_of_memory
from featuregen.synthesis.plan import RowPlan, make_plan, start_images


def to_unit_range(stored: Tensor) -> Tensor:
    """Stored values as float32 in [0, 1]."""
    # By a tensor: CUDA divides by a Python number as a multiplication by its reciprocal, unlike readers of the file.
    return stored.float() / torch.tensor(255.0, device=stored.device) if stored.dtype == torch.uint8 else stored.float()


def quantize(images: Tensor, dtype: str, ball: Ball | None) -> Tensor:
    """Images in the stored type, still inside the ball: a row that rounding pushes out is shrunk towards the centre."""

    def rounded(x: Tensor) -> Tensor:
        return (x * 255).round().to(torch.uint8) if dtype == "uint8" else x.to(getattr(torch, dtype))

    stored = rounded(images)
    if ball is None:
        return stored
    if _outside(to_unit_range(rounded(ball.centre)), ball).any():
        raise UserError(
            f"eps {ball.eps:g} ({ball.norm}) is less than rounding to {dtype} moves an image; "
            "raise eps or store as float32."
        )
    shrink = torch.ones(len(images), 1, 1, 1, device=images.device)
    while (outside := _outside(to_unit_range(stored), ball)).any():
        shrink = torch.where(outside.view(-1, 1, 1, 1), shrink * 0.995, shrink)
        stored = rounded(ball.centre + (images - ball.centre) * shrink)
    return stored


def _outside(images: Tensor, ball: Ball) -> Tensor:
    """Which images lie outside the ball, beyond rounding errors."""
    offset = (images - ball.centre).flatten(1)
    distance = offset.abs().amax(1) if ball.norm == "linf" else offset.norm(dim=1)
    # Pixels near 1 have rounding errors of 2**-24, which in a small Linf ball exceed any fraction of eps.
    return distance > ball.eps * (1 + 5e-7) + 2**-23


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
