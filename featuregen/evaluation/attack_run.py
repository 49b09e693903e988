"""One attack on one model: the images it finds, how the model's predictions change, and a file of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.api import attack
from featuregen.attacks.criterion import Criterion
from featuregen.attacks.registry import find_attack, settings_for
from featuregen.attacks.result import AttackResult, measure_result
from featuregen.compute.optimize import Ball, quantize, to_unit_range
from featuregen.config.kinds import ATTACKED
from featuregen.config.serialize import shown_name, to_dict
from featuregen.data.base_dataset import BaseDataset, balanced_rows
from featuregen.errors import UserError, printable
from featuregen.evaluation.accuracy import predict
from featuregen.models.classifier import Classifier
from featuregen.models.io import TrainedModel, describe_model, model_summary
from featuregen.runtime.device import ComputeSpec, versions
from featuregen.storage.reader import read_info
from featuregen.storage.schema import Header
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.writer import Writer

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
        elif target_class.isdecimal() and len(target_class) < 10 and int(target_class) < len(self.classes):
            number = int(target_class)
        else:
            names = ", ".join(printable(name, 20) for name in self.classes[:10])
            raise UserError(f"--target {printable(target_class, 60)} is no class; choose next, or one of {names}.")
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
    data.check_content()
    index = balanced_rows(data.labels.numpy(), _sample_size(rows, info.rows), seed)
    chosen = torch.from_numpy(index)
    record = {"name": shown_name(path.name), "split": "dataset", "rows": info.rows, "sha256": info.content_sha256}
    images, labels = data.images[chosen].to(device), data.labels[chosen].to(device)
    return AttackInputs(images, labels, index, info.classes, record, info.citation)


def _sample_size(rows: int | None, available: int) -> int:
    return min(SAMPLE, available) if rows is None else rows


@dataclass(frozen=True, eq=False)
class AttackRun:
    """An attack on a model, towards the `target_class` where one is named; what does not fit is refused here.

    With an `origin` the attack runs on that model, and its images are shown to the target: a transfer attack. All
    results are those of the pixels as `dtype` stores them.
    """

    target: TrainedModel
    inputs: AttackInputs
    name: str
    options: dict[str, Any]
    target_class: str = ""
    origin: TrainedModel | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self.inputs.criterion(self.target_class)
        self.as_stored(self.inputs.images)

    @cached_property
    def settings(self) -> Any:
        return settings_for(self.name, self.options)

    @cached_property
    def criterion(self) -> Criterion:
        return self.inputs.criterion(self.target_class)

    @property
    def record(self) -> dict[str, Any]:
        name = find_attack(self.name, self.options.get("norm")).name
        return {"name": name, "target": self.target_class, **to_dict(self.settings)}

    def as_stored(self, images: Tensor) -> Tensor:
        """The pixels of these images, one for each input, once they are stored, still inside the attack's ball."""
        norm, eps = getattr(self.settings, "norm", None), getattr(self.settings, "eps", 0)
        ball = Ball(norm, eps, self.inputs.images) if norm and eps else None
        return to_unit_range(quantize(images, self.dtype, ball)).to(images.dtype)


@dataclass(frozen=True, eq=False)
class AttackRunResult:
    """What an attack came to. `eligible` are the images it could succeed on, the only ones that were attacked."""

    run: AttackRun
    outcome: AttackResult
    eligible: Tensor
    record: dict[str, Any]

    @property
    def succeeded(self) -> Tensor:
        return self.outcome.success & self.eligible

    def example_rows(self, count: int = 10) -> list[int]:
        """Rows to show: one success of each class, then other successes, then the rest."""
        rank = torch.zeros(len(self.succeeded), dtype=torch.long)
        classes: set[int] = set()
        for row in self.succeeded.nonzero().flatten().tolist():
            label = int(self.run.inputs.labels[row])
            rank[row] = 1 if label in classes else 2
            classes.add(label)
        rows: list[int] = rank.argsort(descending=True, stable=True)[:count].sort().values.tolist()
        return rows


def attack_to_file(
    path: Path,
    run: AttackRun,
    *,
    seed: int,
    batch_size: int,
    compute: ComputeSpec,
    config: Mapping[str, Any],
    force: bool = False,
) -> AttackRunResult:
    """Run an attack and write its images with their true labels; another file in their place is refused first.

    `config` is what the file records of all settings.
    """
    inputs, target = run.inputs, run.target
    channels, height, width = inputs.images.shape[1:]
    header = Header(
        kind=ATTACKED, rows=len(inputs.index), image_shape=(channels, height, width), dtype=run.dtype,
        classes=inputs.classes, recipe=_recipe(run, seed, compute), base=inputs.base,
        source_model=describe_model(target), software=versions(compute), citation=inputs.citation, config=config,
    )  # fmt: skip
    with Writer.open(path, header, force) as writer:
        result = _run(run, seed, batch_size, compute)
        if not writer.complete:
            for first in range(writer.rows_done, len(inputs.index), batch_size):
                rows = slice(first, first + batch_size)
                stored = quantize(result.outcome.images[rows], run.dtype, None)
                writer.append(_columns(target.model, inputs, rows, stored))
            writer.finish()
    return result


def _recipe(run: AttackRun, seed: int, compute: ComputeSpec) -> dict[str, Any]:
    origin = {"found_on": describe_model(run.origin)["weights_sha256"]} if run.origin else {}
    return {"seed": seed, "attack": run.record, **origin, **compute.numerics}


def _run(run: AttackRun, seed: int, batch_size: int, compute: ComputeSpec) -> AttackRunResult:
    """Images misclassified already (or in the target class already) stay as they are and are not counted."""
    inputs, criterion = run.inputs, run.criterion
    eligible = ~criterion.is_met_by(predict(run.target.model, inputs.images, batch_size))
    if criterion.targeted:
        # A misclassified image of the target class could only be corrected.
        eligible &= criterion.classes != inputs.labels
    adversarial, origin_success = inputs.images.clone(), None
    if eligible.any():
        rows = eligible.nonzero().flatten()
        found = attack(
            (run.origin or run.target).model, inputs.images[rows], inputs.labels[rows], run.name,
            targets=criterion.classes[rows] if criterion.targeted else None,
            seed=seed, batch_size=batch_size, compute=compute, **run.options,
        )  # fmt: skip
        adversarial[rows], origin_success = found.images, _share(found.success[~found.initially_met])
    outcome = measure_result(run.target.model, inputs.images, run.as_stored(adversarial), criterion, batch_size)
    record = _record(run, outcome, eligible, seed, compute)
    if run.origin:
        record["origin"]["success"] = origin_success
    return AttackRunResult(run, outcome, eligible, record)


def _record(run: AttackRun, outcome: AttackResult, eligible: Tensor, seed: int, compute: ComputeSpec) -> dict[str, Any]:
    inputs, origin = run.inputs, run.origin
    succeeded = outcome.success & eligible
    accuracy = [(classes == inputs.labels).float().mean().item() for classes in (outcome.before, outcome.after)]
    more_confident = (outcome.confidence_after > outcome.confidence_before)[succeeded]
    return {
        "format": "featuregen-attack",
        "version": 1,
        "attack": run.record,
        "threat": "transfer" if origin else find_attack(run.name).threat,
        "model": model_summary(run.target),
        **({"origin": model_summary(origin)} if origin else {}),
        "images": {"name": inputs.base["name"], "split": inputs.base["split"], "count": len(inputs.index)},
        "accuracy": {"before": accuracy[0], "after": accuracy[1]},
        "tried": int(eligible.sum()),
        "success": _share(outcome.success[eligible]),
        "distance": {norm: _median_and_max(getattr(outcome, norm)[succeeded]) for norm in ("l0", "l1", "l2", "linf")},
        "confidence": {
            "before": _median_and_max(outcome.confidence_before[succeeded]),
            "after": _median_and_max(outcome.confidence_after[succeeded]),
            "surer": _share(more_confident),
        },
        "seed": seed,
        "software": versions(compute),
    }


def _share(rows: Tensor) -> float | None:
    return rows.float().mean().item() if len(rows) else None


def _median_and_max(values: Tensor) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"median": values.float().median().item(), "largest": values.float().max().item()}


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
