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

from featuregen.attacks import Goal, Outcome, attack, find_attack, measured, settings_for
from featuregen.config import ATTACKED, to_dict
from featuregen.errors import UserError
from featuregen.evaluation import predict
from featuregen.images import balanced_rows
from featuregen.models import Classifier
from featuregen.optimize import Ball
from featuregen.pipeline.records import Trained, about_model, describe_model
from featuregen.pipeline.workshop import Workshop
from featuregen.report import attack_picture, attack_words
from featuregen.runtime import software
from featuregen.store import FeatureDataset, Header, Writer, read_info
from featuregen.synthesis import as_pixels, store_as

# Enough to tell attacks apart, and few enough for the slow ones.
_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Victims:
    """The images to attack, which rows of what they are, and what they show."""

    images: Tensor
    labels: Tensor
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    base: dict[str, Any]
    citation: str


@dataclass(frozen=True, eq=False)
class Attempt:
    """An attack to be run on a model, towards the `wanted` class where one is given.

    With an `origin`, the images are found on that model and shown to the target: what a black box falls for. What is
    told of them holds for their pixels as `dtype` stores them. What cannot be run or kept is refused right here.
    """

    target: Trained
    victims: Victims
    name: str
    options: dict[str, Any]
    wanted: str = ""
    origin: Trained | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        goal_of(self.victims, self.wanted)
        self.stored(self.victims.images)

    @cached_property
    def settings(self) -> Any:
        return settings_for(self.name, self.options)

    @cached_property
    def goal(self) -> Goal:
        return goal_of(self.victims, self.wanted)

    @property
    def record(self) -> dict[str, Any]:
        return {"name": self.name, "target": self.wanted, **to_dict(self.settings)}

    def stored(self, images: Tensor) -> Tensor:
        """The pixels of these images, one for each victim, once they are stored, still inside the attack's ball."""
        norm, eps = getattr(self.settings, "norm", None), getattr(self.settings, "eps", 0)
        ball = Ball(norm, eps, self.victims.images) if norm and eps else None
        return as_pixels(store_as(images, self.dtype, ball)).to(images.dtype)


@dataclass(frozen=True, eq=False)
class Attacked:
    """An attack that was run: `fair` are the images it could still win, the only ones it was given."""

    attempt: Attempt
    outcome: Outcome
    fair: Tensor
    results: dict[str, Any]


def victims_of(shop: Workshop, part: str, rows: int | None = None) -> Victims:
    """A class-balanced sample of the base set's test or training images; 0 rows means all, None at most a thousand."""
    base, split = shop.base, shop.base.part(part)
    index = balanced_rows(split.labels, _sample(rows, len(split)), shop.config.seed)
    images, labels = split.tensor(shop.device, index), split.label_tensor(shop.device, index)
    return Victims(images, labels, index, base.classes, base.record(part), base.citation)


def victims_in(shop: Workshop, path: Path, rows: int | None = None) -> Victims:
    """The images of a dataset, with the labels that it gives them."""
    data, info = FeatureDataset(path), read_info(path)
    if (info.image_shape, len(info.classes)) != (shop.base.image_shape, len(shop.base.classes)):
        raise UserError(
            f"{path} holds images of shape {info.image_shape} in {len(info.classes)} classes, but {shop.base.name} "
            f"has {shop.base.image_shape} in {len(shop.base.classes)}; name its image set with --data."
        )
    index = balanced_rows(data.labels.numpy(), _sample(rows, info.rows), shop.config.seed)
    chosen = torch.from_numpy(index)
    record = {"name": path.name, "split": "dataset", "rows": info.rows, "sha256": info.content_sha256}
    images, labels = data.images[chosen].to(shop.device), data.labels[chosen].to(shop.device)
    return Victims(images, labels, index, info.classes, record, info.citation)


def _sample(rows: int | None, available: int) -> int:
    return min(_ROWS, available) if rows is None else rows


def _run(shop: Workshop, attempt: Attempt) -> Attacked:
    """Images that are wrong already (or of the wanted class already) are left as they are and not counted."""
    victims, goal, size = attempt.victims, attempt.goal, shop.config.evaluation.batch_size
    fair = ~goal.met(predict(attempt.target.model, victims.images, size))
    if goal.targeted:
        # An image of the wanted class can only be won back.
        fair &= goal.classes != victims.labels
    found, crafted = victims.images.clone(), None
    if fair.any():
        rows = fair.nonzero().flatten()
        made = attack(
            (attempt.origin or attempt.target).model, victims.images[rows], victims.labels[rows], attempt.name,
            targets=goal.classes[rows] if goal.targeted else None,
            seed=shop.config.seed, batch_size=size, machine=shop.machine, **attempt.options,
        )  # fmt: skip
        found[rows], crafted = made.images, _share(made.success[~made.already])
    outcome = measured(attempt.target.model, victims.images, attempt.stored(found), goal, size)
    results = _results(shop, attempt, outcome, fair)
    if attempt.origin:
        results["origin"]["success"] = crafted
    return Attacked(attempt, outcome, fair, results)


def goal_of(victims: Victims, wanted: str) -> Goal:
    """Any other class, or `next` (the one after an image's own), or one class by its name or number."""
    if not wanted:
        return Goal(victims.labels)
    if wanted == "next":
        return Goal((victims.labels + 1) % len(victims.classes), targeted=True)
    if wanted in victims.classes:
        number = victims.classes.index(wanted)
    elif wanted.isdecimal() and int(wanted) < len(victims.classes):
        number = int(wanted)
    else:
        raise UserError(f"--target {wanted} is no class; choose next, or one of {', '.join(victims.classes)}.")
    return Goal(torch.full_like(victims.labels, number), targeted=True)


def _results(shop: Workshop, attempt: Attempt, outcome: Outcome, fair: Tensor) -> dict[str, Any]:
    victims, origin = attempt.victims, attempt.origin
    won = outcome.success & fair
    right = [(classes == victims.labels).float().mean().item() for classes in (outcome.before, outcome.after)]
    surer = (outcome.confidence_after > outcome.confidence_before)[won]
    return {
        "format": "featuregen-attack",
        "version": 1,
        "attack": attempt.record,
        "threat": "transfer" if origin else find_attack(attempt.name).threat,
        "model": about_model(attempt.target),
        **({"origin": about_model(origin)} if origin else {}),
        "images": {"name": victims.base["name"], "split": victims.base["split"], "count": len(victims.index)},
        "accuracy": {"before": right[0], "after": right[1]},
        "tried": int(fair.sum()),
        "success": _share(outcome.success[fair]),
        "distance": {each: _middle(getattr(outcome, each)[won]) for each in ("l0", "l1", "l2", "linf")},
        "confidence": {
            "before": _middle(outcome.confidence_before[won]),
            "after": _middle(outcome.confidence_after[won]),
            "surer": _share(surer),
        },
        "seed": shop.config.seed,
        "software": software(shop.machine),
    }


def _share(values: Tensor) -> float | None:
    return values.float().mean().item() if len(values) else None


def _middle(values: Tensor) -> dict[str, float] | None:
    """Median and largest, of the images that were won."""
    if not len(values):
        return None
    return {"median": values.float().median().item(), "largest": values.float().max().item()}


# Keeping -------------------------------------------------------------------------------------------


def attack_into(path: Path, shop: Workshop, attempt: Attempt, force: bool = False) -> Attacked:
    """A dataset of the images found, with their true labels; another file in its place is refused before the attack."""
    victims, target, size = attempt.victims, attempt.target, shop.config.evaluation.batch_size
    header = Header(
        kind=ATTACKED, rows=len(victims.index), image_shape=shop.base.image_shape, dtype=attempt.dtype,
        classes=victims.classes, recipe=_recipe(shop, attempt), base=victims.base, source_model=describe_model(target),
        software=software(shop.machine), citation=victims.citation, config=to_dict(shop.config),
    )  # fmt: skip
    with Writer.open(path, header, force) as writer:
        made = _run(shop, attempt)
        if not writer.complete:
            for first in range(writer.rows_done, len(victims.index), size):
                rows = slice(first, first + size)
                stored = store_as(made.outcome.images[rows], attempt.dtype, None)
                writer.append(_columns(target.model, victims, rows, stored))
            writer.finish()
    return made


def _recipe(shop: Workshop, attempt: Attempt) -> dict[str, Any]:
    return {
        "seed": shop.config.seed,
        "attack": attempt.record,
        **({"found_on": describe_model(attempt.origin)["weights_sha256"]} if attempt.origin else {}),
        **shop.machine.arithmetic,
    }


@torch.no_grad()
def _columns(model: Classifier, victims: Victims, rows: slice, stored: Tensor) -> dict[str, NDArray[Any]]:
    pixels, labels, index = as_pixels(stored), victims.labels[rows], victims.index[rows]
    logits = model(pixels).float()
    return {
        "images": stored.cpu().numpy(),
        "labels": labels.cpu().numpy(),
        "source_labels": labels.cpu().numpy(),
        "index": index,
        "start_index": index,
        "norm": (pixels - victims.images[rows]).flatten(1).norm(dim=1).cpu().numpy(),
        "objective": F.cross_entropy(logits, labels, reduction="none").cpu().numpy(),
        "source_pred": logits.argmax(1).cpu().numpy(),
    }


def draw_attack(made: Attacked, picture: Path) -> Path:
    """Ten images, those that were won first, and one of each class while there are some."""
    victims, outcome = made.attempt.victims, made.outcome
    rows = _shown(victims.labels, outcome.success & made.fair)
    names = victims.classes
    seen, then = (
        [(names[int(classes[row])], float(sure[row])) for row in rows]
        for classes, sure in (
            (outcome.before, outcome.confidence_before),
            (outcome.after, outcome.confidence_after),
        )
    )
    before, after = (images[rows].cpu().numpy() for images in (victims.images, outcome.images))
    return attack_picture(picture, before, after, seen, then, attack_words(made.attempt.record))


def _shown(labels: Tensor, won: Tensor) -> Tensor:
    # The first row of every class that was won, then other rows that were, then the rest.
    rank = torch.zeros(len(labels), dtype=torch.long)
    seen: set[int] = set()
    for row in won.nonzero().flatten().tolist():
        rank[row] = 1 if int(labels[row]) in seen else 2
        seen.add(int(labels[row]))
    return rank.argsort(descending=True, stable=True)[:10].sort().values
