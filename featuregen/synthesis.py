"""What makes each kind of dataset: where an image starts, what it is pulled towards, what it is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.config import ATTACKED, KINDS, Synthesis
from featuregen.engine import fitting_batch
from featuregen.errors import UserError
from featuregen.images import Split
from featuregen.models import Classifier, frozen
from featuregen.optimize import Ball, Objective, fixed, image_norms, move_pixels, step_sizes
from featuregen.runtime import Machine, RowRandom, note, out_of_memory, progress

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """One row of the paper's Table of sets."""

    source: Literal["robust", "standard"]
    pull: Literal["features", "class"]
    start: Literal["image", "noise", "self"]
    label: Literal["true", "random", "next"]
    meaning: str


_RULES = {
    "robust": Kind(
        "robust", "features", "image", "true", "the robust model's features of x, painted over another image"
    ),
    "nonrobust": Kind(
        "standard", "features", "image", "true", "the standard model's features of x, over another image"
    ),
    "robust-noise": Kind("robust", "features", "noise", "true", "the robust model's features of x, painted over noise"),
    "nonrobust-noise": Kind("standard", "features", "noise", "true", "the standard model's features of x, over noise"),
    "rand": Kind("standard", "class", "self", "random", "x, nudged until the standard model sees a random class"),
    "det": Kind("standard", "class", "self", "next", "x, nudged until the standard model sees the class after its own"),
}
RULES: dict[str, Kind] = {kind: _RULES[kind] for kind in KINDS}


def meaning_of(kind: str) -> str:
    """What a set of that kind holds; nothing for one that is not known."""
    if kind == ATTACKED:
        return "adversarial examples, with true labels"
    return RULES[kind].meaning if kind in RULES else ""


@dataclass(frozen=True)
class Plan:
    """What every row becomes, known before any pixel moves: it depends on the seed and the row alone."""

    index: NDArray[np.int64]
    source_labels: NDArray[np.int64]
    labels: NDArray[np.int64]
    start_index: NDArray[np.int64]

    def part(self, rows: slice) -> Plan:
        return Plan(self.index[rows], self.source_labels[rows], self.labels[rows], self.start_index[rows])


def make_plan(kind: str, labels: NDArray[np.int64], index: NDArray[np.int64], classes: int, seed: int) -> Plan:
    rule = RULES[kind]
    own = labels[index]
    if rule.label == "random":
        stored = RowRandom(seed, "target").integers(index, classes)
    elif rule.label == "next":
        stored = (own + 1) % classes
    else:
        stored = own
    if rule.start == "image":
        start = RowRandom(seed, "start").integers(index, len(labels))
    elif rule.start == "self":
        start = index
    else:
        start = np.full_like(index, -1)
    return Plan(index, own, stored, start)


def start_images(split: Split, plan: Plan, rows: NDArray[np.int64], noise: float, seed: int) -> Tensor:
    """The images the given rows of the plan start from, in float32 NCHW on the CPU."""
    if plan.start_index[rows[0]] >= 0:
        return split.tensor(torch.device("cpu"), plan.start_index[rows])
    height, width, channels = split.images.shape[1:]
    draws = RowRandom(seed, "noise")
    size = height * width * channels
    flat = np.stack([draws.normal(int(plan.index[row]), size) for row in rows])
    grey = 0.5 + noise * flat.reshape(len(rows), channels, height, width)
    return torch.from_numpy(grey.clip(0, 1).astype(np.float32))


def synthesize(
    kind: str,
    recipe: Synthesis,
    model: Classifier,
    split: Split,
    plan: Plan,
    *,
    seed: int,
    machine: Machine,
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
    lean = frozen(model, machine)
    size = wanted = batch_size or fitting_batch(lean, min(recipe.batch_size, rows))
    starts = range(done, rows, wanted)
    with fixed(model):
        for start in progress(starts, title or f"making {kind}", len(starts)):
            first, end = start, min(start + wanted, rows)
            while first < end:
                real = min(size, end - first)
                batch = np.resize(np.arange(first, first + real), size)
                try:
                    columns = _synthesize_batch(kind, recipe, model, lean, split, plan, batch, seed, machine.device)
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
    note(f"note: memory ran out with {size} images at once; going on with {-(-size // 2)}")
    return -(-size // 2)


def _synthesize_batch(
    kind: str,
    recipe: Synthesis,
    model: Classifier,
    lean: Classifier,
    split: Split,
    plan: Plan,
    batch: NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> Columns:
    base = split.tensor(device, plan.index[batch])
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
    stored = store_as(moved, recipe.dtype, ball)
    return {
        "images": stored.cpu().numpy(),
        "labels": plan.labels[batch],
        "source_labels": plan.source_labels[batch],
        "index": plan.index[batch],
        "start_index": plan.start_index[batch],
        **_measure(kind, model, base, as_pixels(stored), labels),
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


def as_pixels(stored: Tensor) -> Tensor:
    """Stored values as float32 in [0, 1]."""
    # A tensor, since CUDA divides by a plain number as a multiplication by its reciprocal, which readers do not.
    return stored.float() / torch.tensor(255.0, device=stored.device) if stored.dtype == torch.uint8 else stored.float()


def store_as(images: Tensor, dtype: str, ball: Ball | None) -> Tensor:
    """Images in the stored type, still inside the ball: a row that rounding pushes out is drawn in until it fits."""

    def rounded(x: Tensor) -> Tensor:
        return (x * 255).round().to(torch.uint8) if dtype == "uint8" else x.to(getattr(torch, dtype))

    stored = rounded(images)
    if ball is None:
        return stored
    if _outside(as_pixels(rounded(ball.centre)), ball).any():
        raise UserError(
            f"eps {ball.eps:g} ({ball.norm}) is less than rounding to {dtype} moves an image; "
            "raise eps or store as float32."
        )
    shrink = torch.ones(len(images), 1, 1, 1, device=images.device)
    while (outside := _outside(as_pixels(stored), ball)).any():
        shrink = torch.where(outside.view(-1, 1, 1, 1), shrink * 0.995, shrink)
        stored = rounded(ball.centre + (images - ball.centre) * shrink)
    return stored


def _outside(images: Tensor, ball: Ball) -> Tensor:
    offset = (images - ball.centre).flatten(1)
    reach = offset.abs().amax(1) if ball.norm == "linf" else offset.norm(dim=1)
    # Pixels near 1 carry errors of 2**-24 each, which in a small Linf ball weigh more than any share of eps.
    return reach > ball.eps * (1 + 5e-7) + 2**-23
