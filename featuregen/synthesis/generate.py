"""Synthesis: optimising the pixels of a dataset batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute import (
    Ball,
    Objective,
    fitting_batch,
    folded_copy,
    frozen_eval,
    image_norms,
    move_pixels,
    step_sizes,
)
from featuregen.config import Synthesis
from featuregen.data import ImageSplit
from featuregen.errors import UserError
from featuregen.models import Classifier
from featuregen.runtime import ComputeSpec, log, out_of_memory, progress
from featuregen.synthesis.kinds import RULES
from featuregen.synthesis.plan import RowPlan, start_images
from featuregen.synthesis.quantize import quantize, to_unit_range

Columns = dict[str, NDArray[Any]]


def synthesize(
    kind: str,
    recipe: Synthesis,
    model: Classifier,
    split: ImageSplit,
    plan: RowPlan,
    *,
    seed: int,
    compute: ComputeSpec,
    done: int = 0,
    batch_size: int = 0,
    title: str | None = None,
) -> Iterator[Columns]:
    """The columns of a dataset, batch by batch, from row `done` on.

    Every batch has the same shape, the last one padded, because a row's bits may depend on the shape around it:
    `batch_size` where it is given, else the recipe's or, where memory is short, what fits. Only if memory then runs
    out after all is a batch done again in halves, and later ones no larger.
    """
    rows = len(plan.index)
    lean = folded_copy(model, compute)
    size = wanted = batch_size or fitting_batch(lean, min(recipe.batch_size, rows))
    starts = range(done, rows, wanted)
    with frozen_eval(model):
        for start in progress(starts, title or f"making {kind}", len(starts)):
            first, end = start, min(start + wanted, rows)
            while first < end:
                real = min(size, end - first)
                batch = np.resize(np.arange(first, first + real), size)
                try:
                    columns = _synthesize_batch(kind, recipe, model, lean, split, plan, batch, seed, compute.device)
                except (MemoryError, RuntimeError) as error:
                    size = _halved(size, error)
                    continue
                yield {name: values[:real] for name, values in columns.items()}
                first += real


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
    lean: Classifier,
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
    if RULES[kind].pull == "features":
        with torch.no_grad():
            aim = lean.features(base).float()
        objective = feature_distance(lean, aim, recipe.fake_relu)
    else:
        objective = class_loss(lean, labels)
    moved = move_pixels(
        start,
        objective,
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


def feature_distance(model: Classifier, aim: Tensor, fake_relu: bool = False) -> Objective:
    """Squared, since only the gradient's direction counts and the plain distance has none at zero."""
    return lambda x: (model.features(x, fake_relu=fake_relu).float() - aim).square().sum(1)


def class_loss(model: Classifier, classes: Tensor) -> Objective:
    """Cross-entropy towards the given classes."""
    return lambda x: F.cross_entropy(model.logits(x).float(), classes, reduction="none")


@torch.no_grad()
def _measure(kind: str, model: Classifier, base: Tensor, stored: Tensor, labels: Tensor) -> Columns:
    """In fp32, on the values as stored."""
    features = model.features(stored)
    logits = model.head(features)
    if RULES[kind].pull == "features":
        aim = model.features(base)
        objective = (features - aim).norm(dim=1) / aim.norm(dim=1)
    else:
        objective = F.cross_entropy(logits, labels, reduction="none")
    return {
        "norm": image_norms(stored - base).flatten().cpu().numpy(),
        "objective": objective.cpu().numpy(),
        "source_pred": logits.argmax(1).cpu().numpy(),
    }
