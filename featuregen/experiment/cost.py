"""What an experiment will cost before it starts: its work counted, and a second of each kind of work measured here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.compute import bytes_per_image, folded_copy, frozen_eval, move_pixels, seconds_for
from featuregen.config import (
    MISLABELLED,
    Config,
    Synthesis,
    Training,
    fresh_recipe,
    source_models,
    to_dict,
)
from featuregen.data import DatasetSize, size_of
from featuregen.evaluation import predict
from featuregen.experiment.numerics import load_or_autotune, untrained_model
from featuregen.models import count_parameters
from featuregen.runtime import ComputeSpec, configure_process, free_memory
from featuregen.synthesis import RULES, class_loss
from featuregen.training import can_group, train_many

# Images in the first try of a measurement, and the seconds after which it is not repeated with more.
_FIRST, _LONG = 8, 0.5
# Python with torch loaded; and how much more is held than used at once, since freed memory is kept and has holes.
_PROCESS_BYTES = 700 * 2**20
_HELD = 1.25


@dataclass(frozen=True)
class WorkCount:
    """Images times: gradient steps of pixels, passes of training, passes of looking."""

    moved: float = 0
    learnt: float = 0
    looked: float = 0

    def __add__(self, other: WorkCount) -> WorkCount:
        return WorkCount(self.moved + other.moved, self.learnt + other.learnt, self.looked + other.looked)

    def times(self, count: int) -> WorkCount:
        return WorkCount(count * self.moved, count * self.learnt, count * self.looked)


@dataclass(frozen=True)
class Throughput:
    """Images per second of each kind of work."""

    moved: float
    learnt: float
    looked: float

    def seconds(self, work: WorkCount) -> float:
        return work.moved / self.moved + work.learnt / self.learnt + work.looked / self.looked


@dataclass(frozen=True)
class CostEstimate:
    """`stages` by title; `seconds` are those of a whole run from nothing, on this machine."""

    config: Config
    size: DatasetSize
    compute: ComputeSpec
    rates: Throughput
    stages: dict[str, WorkCount]
    memory: int
    free: int
    disk: int

    @property
    def processes(self) -> int:
        return min(self.config.runtime.jobs, os.cpu_count() or 1) if self.compute.device.type == "cpu" else 1

    @property
    def seconds(self) -> float:
        return sum(self.rates.seconds(work) for work in self.stages.values()) / self.processes

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "featuregen-plan",
            "version": 1,
            "config": self.config.name,
            "base": asdict(self.size),
            "model": to_dict(self.config.model),
            "device": str(self.compute.device),
            "arithmetic": self.compute.arithmetic,
            "processes": self.processes,
            "rates": asdict(self.rates),
            "stages": [
                {"stage": title, **asdict(work), "seconds": self.rates.seconds(work)}
                for title, work in self.stages.items()
            ],
            "seconds": self.seconds,
            "memory": self.memory,
            "memory_free": self.free,
            "disk": self.disk,
        }


def estimate_cost(config: Config, out: Path) -> CostEstimate:
    """Measures for a few seconds; writes nothing and downloads nothing."""
    configure_process(config.runtime.threads)
    size = size_of(config.data)
    return cost_of(config, size, load_or_autotune(config, size.image_shape, size.classes, out / "models", keep=False))


def cost_of(config: Config, size: DatasetSize, compute: ComputeSpec) -> CostEstimate:
    stages = stages_of(config, size)
    memory, disk = _bytes(config, size, compute)
    return CostEstimate(
        config, size, compute, _rates(config, size, compute), stages, memory, free_memory(compute.device), disk
    )


# Counting ------------------------------------------------------------------------------------------


def stages_of(config: Config, size: DatasetSize) -> dict[str, WorkCount]:
    """What `reproduce` does; the work of attacks on models is its upper bound, since fallen images are left alone."""
    kinds = [kind for kind in RULES if kind in config.synthesis]
    mislabelled = [kind for kind in kinds if kind in MISLABELLED]
    seeds, tested = config.evaluation.seeds, _tested(config, size)
    stages = {}
    for which, recipe, given in (
        ("standard", config.sources.standard, config.sources.standard_from),
        ("robust", config.sources.robust, config.sources.robust_from),
    ):
        count = source_models(config, which)
        trained = _learning(recipe, size.train_rows).times(count - bool(given))
        stages[f"{which} model × {count}"] = trained + tested.times(count)
    if "robust" in kinds and (rows := _rows(config.synthesis["robust"], size)) < size.train_rows:
        recipe = fresh_recipe(config, "robust")
        stages[f"fresh models on the same rows of {size.name} × {seeds}"] = (_learning(recipe, rows) + tested).times(
            seeds
        )
    for kind in kinds:
        rows = _rows(config.synthesis[kind], size)
        stages[f"making {kind}"] = WorkCount(moved=rows * config.synthesis[kind].steps, looked=2 * rows)
        recipe = fresh_recipe(config, kind)
        stages[f"fresh models on {kind} × {seeds}"] = (_learning(recipe, rows) + tested).times(seeds)
    for kind in mislabelled:
        made = config.synthesis[kind]
        others = len({*config.honesty.eps} - {made.eps})
        sample = min(config.honesty.rows, size.train_rows) or size.train_rows
        moved = WorkCount(moved=sample * made.steps * others, looked=3 * (sample * others + _rows(made, size)))
        stages[f"judging {kind}"] = moved
    return stages


def _rows(recipe: Synthesis, size: DatasetSize) -> int:
    return recipe.rows or size.train_rows


def _learning(recipe: Training, rows: int) -> WorkCount:
    """Of all epochs, though early stopping may end before."""
    held = round(recipe.held_out * rows) if recipe.early_stop != "none" else 0
    learnt, looked, steps = recipe.epochs * (rows - held), recipe.epochs * held, 0
    if recipe.attack:
        steps = recipe.attack.steps * recipe.attack.restarts
    moved = steps * (learnt + (looked if recipe.early_stop == "adversarial" else 0))
    # Mixed, every image is learnt from twice.
    return WorkCount(moved, learnt * (2 if recipe.alpha else 1), looked)


def _tested(config: Config, size: DatasetSize) -> WorkCount:
    evaluation = config.evaluation
    attacks = len(evaluation.l2) + len(evaluation.linf)
    attacked = evaluation.rows or size.test_rows
    return WorkCount(moved=attacked * attacks * evaluation.steps * evaluation.restarts, looked=size.test_rows)


# Measuring -----------------------------------------------------------------------------------------


def _rates(config: Config, size: DatasetSize, compute: ComputeSpec) -> Throughput:
    """With the code that does the work, on as many images at once as the recipes take."""
    recipe = config.sources.standard
    seeds = config.evaluation.seeds if can_group(config.model.architecture, recipe) else 1
    models = [untrained_model(config, size.image_shape, size.classes).to(compute.device) for _ in range(seeds)]
    lean = folded_copy(models[0], compute)

    def move(x: Tensor, y: Tensor) -> None:
        with frozen_eval(lean):
            move_pixels(x, class_loss(lean, y), sizes=[0.1])

    def learn(x: Tensor, y: Tensor) -> None:
        once = Training(epochs=1, batch_size=max(2, len(x)), lr=1e-3, augment=recipe.augment)
        train_many(models, x, y, once, seeds=range(seeds), compute=compute)

    def look(x: Tensor, y: Tensor) -> None:
        predict(models[0], x)

    moving = max((each.batch_size for each in config.synthesis.values()), default=_FIRST)
    return Throughput(
        moved=_rate(move, moving, size, compute),
        learnt=seeds * _rate(learn, recipe.batch_size, size, compute),
        looked=_rate(look, config.evaluation.batch_size, size, compute),
    )


def _rate(work: Callable[[Tensor, Tensor], None], batch: int, size: DatasetSize, compute: ComputeSpec) -> float:
    """Images per second: a few are tried first, and only what is quick is tried with more."""
    images, seconds = min(_FIRST, batch), 0.0
    while True:
        x = torch.full((images, *size.image_shape), 0.5, device=compute.device)
        y = torch.arange(images, device=compute.device) % size.classes
        # The second time counts, since the first one also loads and plans.
        seconds = [seconds_for(partial(work, x, y), compute.device) for _ in range(2)][1]
        if images == batch or seconds > _LONG:
            return images / seconds
        images = min(batch, 4 * images)


def _bytes(config: Config, size: DatasetSize, compute: ComputeSpec) -> tuple[int, int]:
    """Peak memory of one process, and what the outputs take on disk."""
    channels, height, width = size.image_shape
    image = channels * height * width
    model = untrained_model(config, size.image_shape, size.classes)
    lean = folded_copy(model.to(compute.device), compute)
    rows = [_rows(recipe, size) for recipe in config.synthesis.values()]
    # uint8 as read and float32 as used, then the largest dataset twice: as read, and as trained on.
    images = 5 * image * (size.train_rows + size.test_rows) + 8 * image * max(rows, default=0) if size.in_memory else 0
    recipes = [config.sources.standard, config.sources.robust, *config.fresh.values()]
    learnt = max(recipe.batch_size * (2 if recipe.alpha else 1) for recipe in recipes)
    attacked = min(config.evaluation.batch_size, config.evaluation.rows or size.test_rows)
    moved = max([attacked, *(recipe.batch_size for recipe in config.synthesis.values())])
    learning, moving = learnt * bytes_per_image(model.train()), moved * bytes_per_image(lean)
    # The forward pass keeps this much, and gradients on their way as much again.
    working = 2 * max(learning, moving) + 24 * count_parameters(model)
    item = {"uint8": 1, "float16": 2, "float32": 4}
    stored = [item[recipe.dtype] * image * _rows(recipe, size) for recipe in config.synthesis.values()]
    models = 4 * count_parameters(model) * (2 + config.evaluation.seeds * (len(rows) + 1))
    return _PROCESS_BYTES + round(_HELD * (images + working)), sum(stored) + models
