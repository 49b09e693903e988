"""What side_by_side.py compares: its rows, what a contender can do, and featuregen as one of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from featuregen.attacks.pgd import pgd
from featuregen.compute.folding import folded_copy
from featuregen.compute.optimize import Ball, frozen_eval, move_pixels, step_sizes
from featuregen.config.schema import PGD, Norm, Runtime, Training
from featuregen.models.classifier import Classifier
from featuregen.runtime.device import ComputeSpec, tune_malloc
from featuregen.synthesis.generate import class_loss, feature_distance
from featuregen.training.loop import train

SEED = 0
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4


@dataclass(frozen=True)
class Row:
    """One comparison: whether pixels leave their class, enter the next one, take on features, or feed training."""

    name: str
    goal: Literal["wrong", "next", "features", "train"]
    norm: Norm
    eps: float
    steps: int
    step_size: float

    def classes(self, labels: Tensor, count: int) -> Tensor:
        """What the cross-entropy is taken to."""
        return (labels + 1) % count if self.goal == "next" else labels

    def __str__(self) -> str:
        ball = f"{self.norm} eps {self.eps:.4g}" if self.eps else "no ball"
        return f"{self.name}: {ball}, {self.steps} steps of {self.step_size:.4g}"


def rows(steps: int = 20, epoch_steps: int = 7) -> dict[str, Row]:
    table = (
        Row("pgd-l2", "wrong", "l2", 0.5, steps, 2.5 * 0.5 / steps),
        Row("pgd-linf", "wrong", "linf", 8 / 255, steps, 2.5 * (8 / 255) / steps),
        Row("invert", "features", "l2", 0.0, steps, 0.1),
        Row("det", "next", "l2", 0.5, steps, 0.1),
        Row("adversarial-epoch", "train", "l2", 0.5, epoch_steps, 0.1),
    )
    return {row.name: row for row in table}


class Contender(ABC):
    """One way to move pixels and to train.

    `title` says with what arithmetic, where that is a choice; `modules` are those it takes from its package.
    """

    title = ""
    modules: ClassVar[tuple[str, ...]] = ()
    inverts: ClassVar[bool] = False

    def __init__(self, model: Classifier) -> None:
        self.model = model.eval()

    @classmethod
    def packages(cls) -> list[Any]:
        return [importlib.import_module(name) for name in cls.modules]

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Undo whatever training and attacks left behind."""
        self.model.load_state_dict(weights)
        self.model.eval().zero_grad(set_to_none=True)

    @abstractmethod
    def move(self, row: Row, images: Tensor, classes: Tensor) -> Tensor:
        """Images away from their classes, or towards the given ones."""

    @abstractmethod
    def learn(self, row: Row, images: Tensor, labels: Tensor, batch: int) -> float:
        """One epoch of adversarial training; its mean loss."""

    def invert(self, row: Row, start: Tensor, base: Tensor) -> Tensor:
        """The start images, moved until the model sees the features of the base images; only if `inverts`."""
        raise TypeError(f"{type(self).__name__} moves no features")


class Featuregen(Contender):
    inverts = True

    def __init__(self, model: Classifier, compute: ComputeSpec) -> None:
        super().__init__(model)
        tune_malloc()  # as Workshop does
        self.compute, self.title = compute, compute.name
        self._lean = folded_copy(model, compute)

    def move(self, row: Row, images: Tensor, classes: Tensor) -> Tensor:
        if row.goal == "wrong":
            return pgd(self._lean, images, classes, _attack(row))
        ball, sizes = Ball(row.norm, row.eps, images), step_sizes(row.step_size, row.steps, "constant")
        with frozen_eval(self._lean):
            return move_pixels(images, class_loss(self._lean, classes), sizes=sizes, norm=row.norm, ball=ball)

    def invert(self, row: Row, start: Tensor, base: Tensor) -> Tensor:
        with frozen_eval(self._lean):
            with torch.no_grad():
                aim = self._lean.features(base).float()
            sizes = step_sizes(row.step_size, row.steps, "constant")
            return move_pixels(start, feature_distance(self._lean, aim), sizes=sizes)

    def learn(self, row: Row, images: Tensor, labels: Tensor, batch: int) -> float:
        recipe = Training(
            epochs=1,
            batch_size=batch,
            lr=RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            schedule="constant",
            attack=_attack(row),
        )
        return train(self.model, images, labels, recipe, seed=SEED, compute=self.compute).epochs[-1].loss


def _attack(row: Row) -> PGD:
    return PGD(norm=row.norm, eps=row.eps, steps=row.steps, step_size=row.step_size)


# The arithmetic that `settle` chooses; among the fp32 ones; and plain fp32, which shows what kernels and bf16 bring.
OURS: dict[str, Runtime] = {
    "featuregen": Runtime(),
    "featuregen fp32": Runtime(precision="fp32"),
    "featuregen fp32 direct": Runtime(precision="fp32", convolution="direct"),
}
