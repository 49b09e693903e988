"""What an experiment will cost: its stages counted, and a second of each kind of work measured on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.compute.autotune import bytes_per_image, load_or_autotune, seconds_for, untrained_model
from featuregen.compute.folding import folded_copy
from featuregen.compute.grouped import MOST_GROUPED
from featuregen.compute.optimize import frozen_eval, move_pixels
from featuregen.config.schema import Config, Training
from featuregen.config.serialize import to_dict
from featuregen.data.base_dataset import DatasetSize
from featuregen.data.sources import size_of
from featuregen.evaluation.accuracy import predict
from featuregen.experiment.stages import WorkCount, stages, work_by_title
from featuregen.interop.load import load_model
from featuregen.models.classifier import check_images, count_parameters
from featuregen.runtime.device import ComputeSpec, configure_process, free_memory
from featuregen.synthesis.generate import class_loss
from featuregen.training.loop import can_group, train_many

# Images in the first try of a measurement, and the seconds after which it is not repeated with more.
_FIRST_BATCH, _LONG_SECONDS = 8, 0.5
# Python with torch loaded; and how much more memory is held than used at once, since the allocator keeps freed blocks.
_PROCESS_BYTES = 700 * 2**20
_ALLOCATOR_OVERHEAD = 1.25
# The keys that the cost estimate is written with.
_KEYS = {"grad_steps": "moved", "train_samples": "learnt", "forward_samples": "looked"}


@dataclass(frozen=True)
class Throughput:
    """Images per second of each kind of work."""

    grad_steps: float
    train_samples: float
    forward_samples: float

    def seconds(self, work: WorkCount) -> float:
        return (
            work.grad_steps / self.grad_steps
            + work.train_samples / self.train_samples
            + work.forward_samples / self.forward_samples
        )


@dataclass(frozen=True)
class CostEstimate:
    """`work` is that of each stage, by title; `seconds` are those of a whole run from scratch, on this machine."""

    config: Config
    size: DatasetSize
    compute: ComputeSpec
    throughput: Throughput
    work: Mapping[str, WorkCount]
    memory: int
    free: int
    disk: int

    @property
    def processes(self) -> int:
        return min(self.config.runtime.jobs, os.cpu_count() or 1) if self.compute.device.type == "cpu" else 1

    @property
    def seconds(self) -> float:
        return sum(self.throughput.seconds(work) for work in self.work.values()) / self.processes

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "featuregen-plan",
            "version": 1,
            "config": self.config.name,
            "base": asdict(self.size),
            "model": to_dict(self.config.model),
            "device": str(self.compute.device),
            "arithmetic": self.compute.numerics,
            "processes": self.processes,
            "rates": _with_file_keys(self.throughput),
            "stages": [
                {"stage": title, **_with_file_keys(work), "seconds": self.throughput.seconds(work)}
                for title, work in self.work.items()
            ],
            "seconds": self.seconds,
            "memory": self.memory,
            "memory_free": self.free,
            "disk": self.disk,
        }


def _with_file_keys(counts: WorkCount | Throughput) -> dict[str, float]:
    return {_KEYS[name]: value for name, value in asdict(counts).items()}


def estimate_cost(config: Config, out: Path) -> CostEstimate:
    """Measure for a few seconds; write nothing and download nothing."""
    configure_process(config.runtime.threads)
    size = size_of(config.data)
    for path in filter(None, (config.sources.standard_from, config.sources.robust_from)):
        check_images(load_model(Path(path)), path, size.name, size.image_shape, size.classes)
    return cost_of(config, size, load_or_autotune(config, size.image_shape, size.classes, out / "models", keep=False))


def cost_of(config: Config, size: DatasetSize, compute: ComputeSpec) -> CostEstimate:
    """The estimate for a base dataset of this size, with arithmetic that is chosen already."""
    work = work_by_title(stages(config, size, Path()))
    memory, disk = _peak_memory(config, size, compute), _disk_bytes(config, size)
    return CostEstimate(
        config, size, compute, _throughput(config, size, compute), work, memory, free_memory(compute.device), disk
    )


# Measuring -----------------------------------------------------------------------------------------


def _throughput(config: Config, size: DatasetSize, compute: ComputeSpec) -> Throughput:
    """Measured with the code that does the work, on as many images at once as the recipes take."""
    recipe = config.sources.standard
    seeds = min(config.evaluation.seeds, MOST_GROUPED) if can_group(config.model.architecture, recipe) else 1
    models = [untrained_model(config, size.image_shape, size.classes).to(compute.device) for _ in range(seeds)]
    folded = folded_copy(models[0], compute)

    def step_pixels(x: Tensor, y: Tensor) -> None:
        with frozen_eval(folded):
            move_pixels(x, class_loss(folded, y), sizes=[0.1])

    def train_batch(x: Tensor, y: Tensor) -> None:
        once = Training(epochs=1, batch_size=max(2, len(x)), lr=1e-3, augment=recipe.augment)
        train_many(models, x, y, once, seeds=range(seeds), compute=compute)

    def predict_batch(x: Tensor, y: Tensor) -> None:
        predict(models[0], x)

    batch = max((each.batch_size for each in config.synthesis.values()), default=_FIRST_BATCH)
    return Throughput(
        grad_steps=_images_per_second(step_pixels, batch, size, compute),
        train_samples=seeds * _images_per_second(train_batch, recipe.batch_size, size, compute),
        forward_samples=_images_per_second(predict_batch, config.evaluation.batch_size, size, compute),
    )


def _images_per_second(
    work: Callable[[Tensor, Tensor], None], batch: int, size: DatasetSize, compute: ComputeSpec
) -> float:
    """A few images are tried first; only work that is quick is tried with more."""
    images, seconds = min(_FIRST_BATCH, batch), 0.0
    while True:
        x = torch.full((images, *size.image_shape), 0.5, device=compute.device)
        y = torch.arange(images, device=compute.device) % size.classes
        # The second time counts, since the first one also loads libraries and plans.
        seconds = [seconds_for(partial(work, x, y), compute.device) for _ in range(2)][1]
        if images == batch or seconds > _LONG_SECONDS:
            return images / seconds
        images = min(batch, 4 * images)


def _dataset_rows(config: Config, size: DatasetSize) -> list[int]:
    return [recipe.rows or size.train_rows for recipe in config.synthesis.values()]


def _peak_memory(config: Config, size: DatasetSize, compute: ComputeSpec) -> int:
    """Bytes that one process needs at most."""
    channels, height, width = size.image_shape
    image, largest = channels * height * width, max(_dataset_rows(config, size), default=0)
    model = untrained_model(config, size.image_shape, size.classes)
    folded = folded_copy(model.to(compute.device), compute)
    # uint8 as read and float32 as used, then the largest dataset twice: as read, and as trained on.
    images = 5 * image * (size.train_rows + size.test_rows) + 8 * image * largest if size.in_memory else 0
    recipes = [config.sources.standard, config.sources.robust, *config.fresh.values()]
    trained = max(recipe.batch_size * (2 if recipe.alpha else 1) for recipe in recipes)
    attacked = min(config.evaluation.batch_size, config.evaluation.rows or size.test_rows)
    moved = max([attacked, *(recipe.batch_size for recipe in config.synthesis.values())])
    training, moving = trained * bytes_per_image(model.train()), moved * bytes_per_image(folded)
    # The forward pass keeps this much, and gradients on their way as much again.
    working = 2 * max(training, moving) + 24 * count_parameters(model)
    return _PROCESS_BYTES + round(_ALLOCATOR_OVERHEAD * (images + working))


def _disk_bytes(config: Config, size: DatasetSize) -> int:
    channels, height, width = size.image_shape
    item = {"uint8": 1, "float16": 2, "float32": 4}
    rows = _dataset_rows(config, size)
    pixels = [
        item[recipe.dtype] * channels * height * width * count
        for recipe, count in zip(config.synthesis.values(), rows, strict=True)
    ]
    parameters = count_parameters(untrained_model(config, size.image_shape, size.classes))
    return sum(pixels) + 4 * parameters * (2 + config.evaluation.seeds * (len(rows) + 1))
