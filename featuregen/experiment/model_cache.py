"""The models of an experiment: trained once, kept in a folder, found again by their settings."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.compute.grouped import MOST_GROUPED
from featuregen.config.schema import Config, Model, Training
from featuregen.config.serialize import canonical_json, to_dict, to_record
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.lazy import ImageSource
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import Accuracy, TrainedModel, load_model, read_model_record, save_model, weights_sha256
from featuregen.models.registry import build_classifier
from featuregen.runtime.atomic import LOCK_TIMEOUT, check_writable, locked, remove_partial
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, versions
from featuregen.runtime.distributed import DistInfo
from featuregen.runtime.ledger import is_remembered, remember
from featuregen.training.loop import TrainingLog, can_group, train_many
from featuregen.training.resume import TrainingState


@dataclass(frozen=True)
class LabelledImages:
    """Images and labels of the device, and the digest that names them."""

    name: str
    images: ImageSource
    labels: Tensor
    sha256: str


# Rows, and numbers, of which a few copies are in memory at once.
_BLOCK, _BLOCK_NUMBERS = 1000, 1 << 22


class ModelCache:
    """Trained models in a folder, each in a file whose name is a digest of its settings.

    With several processes, all of them train each model together; the main one evaluates and saves it.
    """

    def __init__(
        self,
        config: Config,
        base: BaseDataset,
        folder: Path,
        compute: ComputeSpec,
        dist: DistInfo,
        evaluate: Callable[[Classifier], Accuracy],
    ) -> None:
        self.folder = folder
        self._config, self._base, self._compute, self._dist, self._evaluate = config, base, compute, dist, evaluate

    def get_or_train(self, data: LabelledImages, recipe: Training, seeds: list[int], title: str) -> list[TrainedModel]:
        """One model per seed: loaded where it is in the folder, else trained, evaluated and saved."""
        grouped = self._dist.world_size == 1 and can_group(self._config.model.architecture, recipe)
        if not seeds or (len(seeds) > 1 and not grouped):
            return [model for seed in seeds for model in self.get_or_train(data, recipe, [seed], title)]
        if len(seeds) > MOST_GROUPED:
            groups = (seeds[first : first + MOST_GROUPED] for first in range(0, len(seeds), MOST_GROUPED))
            return [model for group in groups for model in self.get_or_train(data, recipe, group, title)]
        settings = [self._settings(data, recipe, seed, seeds) for seed in seeds]
        paths = [self._path(each) for each in settings]
        lock, state = (paths[0].with_suffix(ending) for ending in (".training", ".halfway"))
        # A run that was stopped at its very end leaves the lock or the state beside finished models.
        if self._dist.broadcast_object(lock.exists() or state.exists() or not _all_exist(paths)):
            models = _init_models(self._config.model, data, len(self._base.classes), seeds)
            with self._exclusive(lock):
                # Another run may have finished them between the first check and the lock.
                if self._dist.broadcast_object(not _all_exist(paths)):
                    self._train(models, data, recipe, seeds, title, dict(zip(paths, settings, strict=True)), state)
                if self._dist.is_main:
                    state.unlink(missing_ok=True)
                    remove_partial(state)
        with self._dist.main_first():
            return [self._load_evaluated(path) for path in paths]

    def add(self, trained: TrainedModel) -> TrainedModel:
        """Copy a model from elsewhere into the folder, so that it is evaluated once and found again."""
        model = trained.model
        path = self.folder / f"{model.architecture}-{trained.weights_sha256[:16]}.safetensors"
        if not path.exists():
            unknown = {"settings": {"seed": None}, "train_accuracy": None, "seconds": {}}
            save_model(model, path, {**unknown, **trained.record})
        return self._load_evaluated(path)

    def check_output_free(self, path: Path, data: LabelledImages, recipe: Training, seed: int) -> None:
        """Refuse, before a model is trained, an output file that holds another one."""
        if path.exists() and not _was_trained_with(path, self._settings(data, recipe, seed, [seed])):
            raise UserError(f"{path} holds something else; choose another --out, or replace it with --force.")

    def _exclusive(self, lock: Path) -> AbstractContextManager[None]:
        """Keep other runs from training the same models; of several processes, the main one holds the lock."""
        if not self._dist.is_main:
            return nullcontext()
        check_writable(lock.parent)
        return locked(lock, LOCK_TIMEOUT)

    def _train(
        self,
        models: list[Classifier],
        data: LabelledImages,
        recipe: Training,
        seeds: list[int],
        title: str,
        outputs: Mapping[Path, dict[str, Any]],
        state: Path,
    ) -> None:
        log(f"training {title} {', '.join(str(seed) for seed in seeds)}")
        trainings = train_many(
            models, data.images, data.labels, recipe, seeds=seeds, compute=self._compute, title=title,
            state_file=TrainingState(state, self._config.runtime.save_every), dist=self._dist,
        )  # fmt: skip
        if self._dist.is_main:
            for model, training, (path, settings) in zip(models, trainings, outputs.items(), strict=True):
                _log_early_stopping(training, f"{title} {settings['seed']}")
                save_model(model, path, self._record(training, settings, data))
                remember("training", [weights_sha256(model), training.train_accuracy])

    def _record(self, training: TrainingLog, settings: Mapping[str, Any], data: LabelledImages) -> dict[str, Any]:
        """What a model's file says about its training."""
        record = {
            "settings": settings,
            "trained_on": {"name": data.name, "sha256": data.sha256},
            "base": {"name": self._base.name, "train_sha256": self._base.train.sha256},
            "config": to_record(self._config),
            "train_accuracy": training.train_accuracy,
            "loss": [round(epoch.loss, 6) for epoch in training.epochs],
            "seconds": {"training": training.seconds},
            "software": versions(self._compute),
        }
        if errors := [round(epoch.error, 6) for epoch in training.epochs if epoch.error is not None]:
            record["early_stop"] = {"errors": errors, "kept": training.kept, "ended": training.ended}
        return record

    def _load_evaluated(self, path: Path) -> TrainedModel:
        model = load_model(path, self._compute.device)
        record = model.record
        settings = to_dict(self._config.evaluation) | {"test": self._base.test.sha256, "seed": self._config.seed}
        # The number of models and the headline radius change no model's accuracy.
        settings = {name: value for name, value in settings.items() if name not in ("seeds", "headline")}
        digest, accuracy = read_model_record(path)["weights_sha256"], record.get("accuracy")
        found = not is_remembered("training", [digest, record.get("train_accuracy")])
        measured = isinstance(accuracy, dict) and accuracy.get("settings") == settings
        believed = measured and is_remembered("accuracy", [digest, accuracy])
        if measured and not believed:
            log(f"note: {path} was not made on this machine, so its accuracy is measured again")
        if not believed:
            started = time.perf_counter()
            record["accuracy"] = {"settings": settings, **self._evaluate(model).to_dict()}
            record["seconds"]["evaluation"] = time.perf_counter() - started
            save_model(model, path, record)
            remember("accuracy", [digest, record["accuracy"]])
        return TrainedModel(model, record, path, digest, found)

    def _settings(self, data: LabelledImages, recipe: Training, seed: int, group: Sequence[int]) -> dict[str, Any]:
        settings = {
            "model": to_dict(self._config.model),
            "training": to_dict(recipe),
            "seed": seed,
            "data": data.sha256,
            "classes": len(self._base.classes),
            **self._compute.numerics,
        }
        # Each process sums over a part of the batch, and without synchronised batch norm normalises that part alone.
        if self._dist.world_size > 1:
            settings["processes"] = self._dist.world_size
        # Grouped convolutions round differently, so a model's last bits depend on the seeds trained with it.
        if len(group) > 1:
            settings["beside"] = list(group)
        return settings

    def _path(self, settings: dict[str, Any]) -> Path:
        key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
        return self.folder / f"{self._config.model.architecture}-{key}.safetensors"


def _all_exist(paths: Sequence[Path]) -> bool:
    return all(path.exists() for path in paths)


def _was_trained_with(path: Path, settings: Mapping[str, Any]) -> bool:
    try:
        return bool(read_model_record(path)["record"].get("settings") == settings)
    except UserError:
        return False


def _init_models(chosen: Model, data: LabelledImages, classes: int, seeds: list[int]) -> list[Classifier]:
    """Untrained models, which normalise by the statistics of the training images unless the config says how."""
    mean, std = (chosen.mean, chosen.std) if chosen.mean else channel_statistics(data.images)
    channels, height, width = data.images.shape[1:]
    shape, device = (channels, height, width), data.images.device
    return [build_classifier(chosen, shape, classes, mean, std, seed).to(device) for seed in seeds]


def channel_statistics(images: ImageSource) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel.

    They are summed in blocks: in float64 the whole set would take four times its own memory.
    """
    step = max(1, min(_BLOCK, _BLOCK_NUMBERS // math.prod(images.shape[1:])))
    blocks = [slice(first, first + step) for first in range(0, len(images), step)]
    count = math.prod(images.shape) / images.shape[1]
    # Allocated before any block: a small result kept behind each block would keep the C library from reusing that
    # block's memory.
    sums = torch.empty((len(blocks), images.shape[1]), dtype=torch.float64, device=images.device)
    for total, block in zip(sums, blocks, strict=True):
        total.copy_(images[block].sum((0, 2, 3), dtype=torch.float64))
    mean = sums.sum(0) / count
    centre = mean.view(-1, 1, 1)
    for total, block in zip(sums, blocks, strict=True):
        total.copy_((images[block].double() - centre).square_().sum((0, 2, 3)))
    squares = sums.sum(0)
    # A constant channel has no spread to divide by.
    return mean.tolist(), (squares / (count - 1)).sqrt().clamp_min(1e-3).tolist()


def _log_early_stopping(training: TrainingLog, title: str) -> None:
    errors = [epoch.error for epoch in training.epochs if epoch.error is not None]
    if errors:
        log(
            f"note: {title}: the weights of epoch {training.kept} of {len(errors)} are kept, "
            f"{errors[training.kept - 1]:.1%} error on the images held out; {training.ended}"
        )
