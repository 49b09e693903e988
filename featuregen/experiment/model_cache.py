"""The models of an experiment: trained once, kept in a folder, found again by their settings."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from featuregen.compute.grouped import MOST_GROUPED
from featuregen.config.record_schemas import CachedModelRecord
from featuregen.config.records import check_record
from featuregen.config.schema import Config, Model, Training
from featuregen.config.serialize import canonical_json, to_dict, to_record
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.lazy import ImageSource, channel_statistics
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import radius_text
from featuregen.models.classifier import Classifier
from featuregen.models.io import Accuracy, TrainedModel, load_model, read_model_record, save_model, weights_sha256
from featuregen.models.registry import build_classifier
from featuregen.runtime.atomic import LOCK_TIMEOUT, check_writable, locked, remove_partial
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, versions
from featuregen.runtime.distributed import DistInfo
from featuregen.runtime.kept_files import is_kept, set_aside
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
        outputs = {self._path(each): each for each in settings}
        lock, state = (next(iter(outputs)).with_suffix(ending) for ending in (".training", ".halfway"))
        found = self._find(outputs)
        # A run that was stopped at its very end leaves the lock or the state beside finished models.
        if self._dist.broadcast_object(not found or lock.exists() or state.exists()):
            models = _init_models(self._config.model, data, len(self._base.classes), seeds)
            with self._exclusive(lock):
                # Another run may have finished them between the first check and the lock.
                found = self._find(outputs)
                if not found:
                    self._train(models, data, recipe, seeds, title, outputs, state)
                if self._dist.is_main:
                    state.unlink(missing_ok=True)
                    remove_partial(state)
        found = found or self._find(outputs)
        if not found:
            raise UserError(f"The models just saved in {self.folder} cannot be read again; check the disk.")
        return found

    def add(self, trained: TrainedModel) -> TrainedModel:
        """Copy a model from elsewhere into the folder, so that it is evaluated once and found again."""
        model = trained.model
        path = self.folder / f"{model.architecture}-{trained.weights_sha256[:16]}.safetensors"
        kept = self._load_kept(path, weights=trained.weights_sha256)
        if kept is None:
            record = {"settings": {"seed": None}, "train_accuracy": None, "seconds": {}, **trained.record}
            # What somebody else has measured, and how long that took, is not told in any one way.
            if not isinstance(record["seconds"], dict):
                record["seconds"] = {}
            if not isinstance(accuracy := record.get("accuracy", {}), dict) or "settings" not in accuracy:
                record.pop("accuracy", None)
            check_record(record, CachedModelRecord, str(trained.path))
            save_model(model, path, record)
            kept = load_model(path, self._compute.device)
        return self._evaluated(kept, path)

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
                # One of several that was whole keeps what was measured of it.
                if not path.exists():
                    # Before it is saved, or a run killed in between would not know it for its own.
                    remember("training", [weights_sha256(model), training.train_accuracy])
                    save_model(model, path, self._record(training, settings, data))

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

    def _find(self, outputs: Mapping[Path, dict[str, Any]]) -> list[TrainedModel] | None:
        """The models in the folder, evaluated; in every process none, where one of them is missing or damaged."""
        found: list[TrainedModel] | None = []
        if self._dist.is_main:
            kept = {path: self._load_kept(path, settings) for path, settings in outputs.items()}
            found = [self._evaluated(model, path) for path, model in kept.items() if model]
            found = found if len(found) == len(outputs) else None
        if self._dist.broadcast_object(found is None):
            return None
        return found or [self._evaluated(load_model(path, self._compute.device), path) for path in outputs]

    def _load_kept(
        self, path: Path, settings: Mapping[str, Any] | None = None, weights: str | None = None
    ) -> Classifier | None:
        """The model at a path, trained with these settings; a damaged one, or another, is set aside."""
        # A link to a model that is kept elsewhere may stand for it.
        if not is_kept(path, links=True):
            return None
        try:
            model = load_model(path, self._compute.device)
            check_record(model.record, CachedModelRecord, str(path))
            if settings and canonical_json(model.record["settings"]) != canonical_json(settings):
                raise UserError(f"{path} was trained with other settings than its name stands for.")
            if weights and weights_sha256(model) != weights:
                raise UserError(f"{path} holds other weights than its name stands for.")
            if settings and (model.image_shape, model.classes) != (self._base.image_shape, len(self._base.classes)):
                raise UserError(f"{path} takes other images than those it was trained on.")
        except UserError as error:
            set_aside(path, error)
            return None
        return model

    def _evaluated(self, model: Classifier, path: Path) -> TrainedModel:
        record = model.record
        settings = to_dict(self._config.evaluation) | {"test": self._base.test.sha256, "seed": self._config.seed}
        # The number of models and the headline radius change no model's accuracy.
        settings = {name: value for name, value in settings.items() if name not in ("seeds", "headline")}
        digest, accuracy = read_model_record(path)["weights_sha256"], record.get("accuracy")
        measured = self._is_measured(accuracy, settings)
        believed = measured and is_remembered("accuracy", [digest, accuracy])
        if measured and not believed:
            log(f"note: {path} was not made on this machine, so its accuracy is measured again")
        if not believed:
            started = time.perf_counter()
            record["accuracy"] = {"settings": settings, **self._evaluate(model).to_dict()}
            record["seconds"]["evaluation"] = time.perf_counter() - started
            remember("accuracy", [digest, record["accuracy"]])
            save_model(model, path, record)
        return TrainedModel(model, record, path, digest, is_found(digest, record))

    def _is_measured(self, accuracy: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> bool:
        if not accuracy or accuracy.get("settings") != settings:
            return False
        evaluation = self._config.evaluation
        wanted = {"l2": evaluation.l2, "linf": evaluation.linf}
        return all(accuracy[norm].keys() == {radius_text(eps) for eps in radii} for norm, radii in wanted.items())

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


def is_found(digest: str, record: Mapping[str, Any]) -> bool:
    """Whether the weights of this digest were not trained on this machine to what the record says."""
    return not is_remembered("training", [digest, record.get("train_accuracy")])


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


def _log_early_stopping(training: TrainingLog, title: str) -> None:
    errors = [epoch.error for epoch in training.epochs if epoch.error is not None]
    if errors:
        log(
            f"note: {title}: the weights of epoch {training.kept} of {len(errors)} are kept, "
            f"{errors[training.kept - 1]:.1%} error on the images held out; {training.ended}"
        )
