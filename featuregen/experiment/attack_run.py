"""One attack on one model: the images it finds, what they did to the model, and a file of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks import (
    AttackResult,
    Criterion,
    attack,
    find_attack,
    measure_result,
    settings_for,
)
from featuregen.compute import Ball
from featuregen.config import ATTACKED, to_dict
from featuregen.data import balanced_rows
from featuregen.errors import UserError
from featuregen.evaluation import predict
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.records import TrainedModel, describe_model, model_summary
from featuregen.models import Classifier
from featuregen.report import attack_picture, describe_attack
from featuregen.runtime import versions
from featuregen.storage import FeatureDataset, Header, Writer, read_info
from featuregen.synthesis import quantize, to_unit_range

# Enough to tell attacks apart, and few enough for the slow ones.
_ROWS = 1000


@dataclass(frozen=True, eq=False)
class AttackInputs:
    """The images to attack, which rows of what they are, and what they show."""

    images: Tensor
    labels: Tensor
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    base: dict[str, Any]
    citation: str


@dataclass(frozen=True, eq=False)
class AttackRun:
    """An attack to be run on a model, towards the `wanted` class where one is given.

    With an `origin`, the images are found on that model and shown to the target: what a black box falls for. What is
    told of them holds for their pixels as `dtype` stores them. What cannot be run or kept is refused right here.
    """

    target: TrainedModel
    inputs: AttackInputs
    name: str
    options: dict[str, Any]
    wanted: str = ""
    origin: TrainedModel | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        criterion_for(self.inputs, self.wanted)
        self.stored(self.inputs.images)

    @cached_property
    def settings(self) -> Any:
        return settings_for(self.name, self.options)

    @cached_property
    def goal(self) -> Criterion:
        return criterion_for(self.inputs, self.wanted)

    @property
    def record(self) -> dict[str, Any]:
        return {"name": self.name, "target": self.wanted, **to_dict(self.settings)}

    def stored(self, images: Tensor) -> Tensor:
        """The pixels of these images, one for each victim, once they are stored, still inside the attack's ball."""
        norm, eps = getattr(self.settings, "norm", None), getattr(self.settings, "eps", 0)
        ball = Ball(norm, eps, self.inputs.images) if norm and eps else None
        return to_unit_range(quantize(images, self.dtype, ball)).to(images.dtype)


@dataclass(frozen=True, eq=False)
class AttackRunResult:
    """An attack that was run: `fair` are the images it could still win, the only ones it was given."""

    attempt: AttackRun
    outcome: AttackResult
    fair: Tensor
    results: dict[str, Any]


def inputs_from_split(experiment: Experiment, part: str, rows: int | None = None) -> AttackInputs:
    """A class-balanced sample of the base set's test or training images; 0 rows means all, None at most a thousand."""
    base, split = experiment.base, experiment.base.part(part)
    index = balanced_rows(split.labels, _sample(rows, len(split)), experiment.config.seed)
    images, labels = split.tensor(experiment.device, index), split.labels_tensor(experiment.device, index)
    return AttackInputs(images, labels, index, base.classes, base.record(part), base.citation)


def inputs_from_file(experiment: Experiment, path: Path, rows: int | None = None) -> AttackInputs:
    """The images of a dataset, with the labels that it gives them."""
    data, info = FeatureDataset(path), read_info(path)
    if (info.image_shape, len(info.classes)) != (experiment.base.image_shape, len(experiment.base.classes)):
        raise UserError(
            f"{path} holds images of shape {info.image_shape} in {len(info.classes)} classes, but "
            f"{experiment.base.name} has {experiment.base.image_shape} in {len(experiment.base.classes)}; "
            "name its image set with --data."
        )
    index = balanced_rows(data.labels.numpy(), _sample(rows, info.rows), experiment.config.seed)
    chosen = torch.from_numpy(index)
    record = {"name": path.name, "split": "dataset", "rows": info.rows, "sha256": info.content_sha256}
    images, labels = data.images[chosen].to(experiment.device), data.labels[chosen].to(experiment.device)
    return AttackInputs(images, labels, index, info.classes, record, info.citation)


def _sample(rows: int | None, available: int) -> int:
    return min(_ROWS, available) if rows is None else rows


def _run(experiment: Experiment, attempt: AttackRun) -> AttackRunResult:
    """Images that are wrong already (or of the wanted class already) are left as they are and not counted."""
    inputs, goal, size = attempt.inputs, attempt.goal, experiment.config.evaluation.batch_size
    fair = ~goal.met(predict(attempt.target.model, inputs.images, size))
    if goal.targeted:
        # An image of the wanted class can only be won back.
        fair &= goal.classes != inputs.labels
    found, crafted = inputs.images.clone(), None
    if fair.any():
        rows = fair.nonzero().flatten()
        made = attack(
            (attempt.origin or attempt.target).model, inputs.images[rows], inputs.labels[rows], attempt.name,
            targets=goal.classes[rows] if goal.targeted else None,
            seed=experiment.config.seed, batch_size=size, compute=experiment.compute, **attempt.options,
        )  # fmt: skip
        found[rows], crafted = made.images, _share(made.success[~made.initially_met])
    outcome = measure_result(attempt.target.model, inputs.images, attempt.stored(found), goal, size)
    results = _results(experiment, attempt, outcome, fair)
    if attempt.origin:
        results["origin"]["success"] = crafted
    return AttackRunResult(attempt, outcome, fair, results)


def criterion_for(inputs: AttackInputs, wanted: str) -> Criterion:
    """Any other class, or `next` (the one after an image's own), or one class by its name or number."""
    if not wanted:
        return Criterion(inputs.labels)
    if wanted == "next":
        return Criterion((inputs.labels + 1) % len(inputs.classes), targeted=True)
    if wanted in inputs.classes:
        number = inputs.classes.index(wanted)
    elif wanted.isdecimal() and int(wanted) < len(inputs.classes):
        number = int(wanted)
    else:
        raise UserError(f"--target {wanted} is no class; choose next, or one of {', '.join(inputs.classes)}.")
    return Criterion(torch.full_like(inputs.labels, number), targeted=True)


def _results(experiment: Experiment, attempt: AttackRun, outcome: AttackResult, fair: Tensor) -> dict[str, Any]:
    inputs, origin = attempt.inputs, attempt.origin
    won = outcome.success & fair
    right = [(classes == inputs.labels).float().mean().item() for classes in (outcome.before, outcome.after)]
    surer = (outcome.confidence_after > outcome.confidence_before)[won]
    return {
        "format": "featuregen-attack",
        "version": 1,
        "attack": attempt.record,
        "threat": "transfer" if origin else find_attack(attempt.name).threat,
        "model": model_summary(attempt.target),
        **({"origin": model_summary(origin)} if origin else {}),
        "images": {"name": inputs.base["name"], "split": inputs.base["split"], "count": len(inputs.index)},
        "accuracy": {"before": right[0], "after": right[1]},
        "tried": int(fair.sum()),
        "success": _share(outcome.success[fair]),
        "distance": {each: _middle(getattr(outcome, each)[won]) for each in ("l0", "l1", "l2", "linf")},
        "confidence": {
            "before": _middle(outcome.confidence_before[won]),
            "after": _middle(outcome.confidence_after[won]),
            "surer": _share(surer),
        },
        "seed": experiment.config.seed,
        "software": versions(experiment.compute),
    }


def _share(values: Tensor) -> float | None:
    return values.float().mean().item() if len(values) else None


def _middle(values: Tensor) -> dict[str, float] | None:
    """Median and largest, of the images that were won."""
    if not len(values):
        return None
    return {"median": values.float().median().item(), "largest": values.float().max().item()}


# Keeping -------------------------------------------------------------------------------------------


def attack_to_file(path: Path, experiment: Experiment, attempt: AttackRun, force: bool = False) -> AttackRunResult:
    """A dataset of the images found, with their true labels; another file in its place is refused before the attack."""
    inputs, target, size = attempt.inputs, attempt.target, experiment.config.evaluation.batch_size
    header = Header(
        kind=ATTACKED, rows=len(inputs.index), image_shape=experiment.base.image_shape, dtype=attempt.dtype,
        classes=inputs.classes, recipe=_recipe(experiment, attempt), base=inputs.base, 
        source_model=describe_model(target),
        software=versions(experiment.compute), citation=inputs.citation, config=to_dict(experiment.config),
    )  # fmt: skip
    with Writer.open(path, header, force) as writer:
        made = _run(experiment, attempt)
        if not writer.complete:
            for first in range(writer.rows_done, len(inputs.index), size):
                rows = slice(first, first + size)
                stored = quantize(made.outcome.images[rows], attempt.dtype, None)
                writer.append(_columns(target.model, inputs, rows, stored))
            writer.finish()
    return made


def _recipe(experiment: Experiment, attempt: AttackRun) -> dict[str, Any]:
    return {
        "seed": experiment.config.seed,
        "attack": attempt.record,
        **({"found_on": describe_model(attempt.origin)["weights_sha256"]} if attempt.origin else {}),
        **experiment.compute.numerics,
    }


@torch.no_grad()
def _columns(model: Classifier, inputs: AttackInputs, rows: slice, stored: Tensor) -> dict[str, NDArray[Any]]:
    pixels, labels, index = to_unit_range(stored), inputs.labels[rows], inputs.index[rows]
    logits = model(pixels).float()
    return {
        "images": stored.cpu().numpy(),
        "labels": labels.cpu().numpy(),
        "source_labels": labels.cpu().numpy(),
        "index": index,
        "start_index": index,
        "norm": (pixels - inputs.images[rows]).flatten(1).norm(dim=1).cpu().numpy(),
        "objective": F.cross_entropy(logits, labels, reduction="none").cpu().numpy(),
        "source_pred": logits.argmax(1).cpu().numpy(),
    }


def draw_attack(made: AttackRunResult, picture: Path) -> Path:
    """Ten images, those that were won first, and one of each class while there are some."""
    inputs, outcome = made.attempt.inputs, made.outcome
    rows = _shown(inputs.labels, outcome.success & made.fair)
    names = inputs.classes
    seen, then = (
        [(names[int(classes[row])], float(sure[row])) for row in rows]
        for classes, sure in (
            (outcome.before, outcome.confidence_before),
            (outcome.after, outcome.confidence_after),
        )
    )
    before, after = (images[rows].cpu().numpy() for images in (inputs.images, outcome.images))
    return attack_picture(picture, before, after, seen, then, describe_attack(made.attempt.record))


def _shown(labels: Tensor, won: Tensor) -> Tensor:
    # The first row of every class that was won, then other rows that were, then the rest.
    rank = torch.zeros(len(labels), dtype=torch.long)
    seen: set[int] = set()
    for row in won.nonzero().flatten().tolist():
        rank[row] = 1 if int(labels[row]) in seen else 2
        seen.add(int(labels[row]))
    return rank.argsort(descending=True, stable=True)[:10].sort().values
