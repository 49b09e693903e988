"""One config, one base set, one folder: models trained once, datasets made once, both found again by their settings."""

from __future__ import annotations

import hashlib
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from featuregen.config import (
    Config,
    Synthesis,
    Training,
    canonical_json,
    did_you_mean,
    fresh_recipe,
    to_dict,
)
from featuregen.data import BaseDataset, balanced_rows, load_images
from featuregen.errors import UserError
from featuregen.evaluation import Accuracy, evaluate
from featuregen.experiment.dataset_job import Job, Shard, fill, header_of, job_of
from featuregen.experiment.numerics import load_or_autotune
from featuregen.experiment.paths import check_writable, import_model
from featuregen.experiment.records import (
    LabelledImages,
    TrainedModel,
    check_base,
    init_models,
    is_trained_as,
    training_record,
)
from featuregen.interop import is_checkpoint, load_checkpoint
from featuregen.models import Classifier, load_model, save_model
from featuregen.runtime import (
    LOCK_TIMEOUT,
    SINGLE_PROCESS,
    ComputeSpec,
    DistInfo,
    configure_process,
    locked,
    log,
    resolve_device,
)
from featuregen.storage import (
    DatasetInfo,
    FeatureDataset,
    Header,
    Writer,
    check_compatible,
    read_info,
)
from featuregen.synthesis import RULES, RowPlan, make_plan
from featuregen.training import TrainingState, can_group, train_many

# Fresh models start from other weights than any source model, or the two would share more than the data.
FRESH_SEED = 1000


class Experiment:
    """Where the models and datasets of one config are made and kept: `out/models` and `out/*.h5`.

    With `ranks`, several processes train each model together; the first one measures and keeps it.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        base: BaseDataset | None = None,
        compute: ComputeSpec | None = None,
        dist: DistInfo = SINGLE_PROCESS,
    ) -> None:
        self.config = config
        self.out = Path(out)
        self.base = base or load_images(config.data)
        self._check_rows("evaluation.rows", config.evaluation.rows, len(self.base.test), "test")
        self.device = resolve_device(config.runtime.device)
        configure_process(config.runtime.threads)
        self._machine, self.dist = compute, dist

    @cached_property
    def compute(self) -> ComputeSpec:
        """Settled when first needed, since it may take a measurement."""
        if self._machine:
            return self._machine
        shape, classes = self.base.image_shape, len(self.base.classes)
        found = (
            load_or_autotune(self.config, shape, classes, self.out / "models").arithmetic if self.dist.is_main else None
        )
        return ComputeSpec.computing(self.device, self.dist.broadcast_object(found))

    @cached_property
    def train_set(self) -> LabelledImages:
        split, device = self.base.train, self.device
        return LabelledImages(self.base.name, split.to(device), split.labels_tensor(device), split.sha256)

    @cached_property
    def test_set(self) -> LabelledImages:
        split, device = self.base.test, self.device
        return LabelledImages(f"{self.base.name} test", split.to(device), split.labels_tensor(device), split.sha256)

    # Models --------------------------------------------------------------------------------------

    def source(self, which: str) -> TrainedModel:
        """The standard or robust model that makes datasets."""
        return self.sources(which, 1)[0]

    def sources(self, which: str, count: int) -> list[TrainedModel]:
        """The source model, trained on its own so that it never depends on `count`, then others of its recipe."""
        recipe, chosen = self._source_recipe(which), self.config.sources
        first, seed, title = [self.config.seed], self.config.seed, f"{which} model"
        others = list(range(seed + 1, seed + count))
        if given := chosen.robust_from if which == "robust" else chosen.standard_from:
            source = [self._measured(import_model(self.load_source(Path(given)), self.out / "models"))]
        else:
            source = self.trained(self.train_set, recipe, first, title)
        return source + self.trained(self.train_set, recipe, others, title)

    def _source_recipe(self, which: str) -> Training:
        return self.config.sources.robust if which == "robust" else self.config.sources.standard

    def fresh(self, data: LabelledImages, recipe: Training, count: int, title: str) -> list[TrainedModel]:
        """Models that have seen nothing but the given data."""
        start = self.config.seed + FRESH_SEED
        return self.trained(data, recipe, list(range(start, start + count)), f"{title}: fresh model")

    def trained(self, data: LabelledImages, recipe: Training, seeds: list[int], title: str) -> list[TrainedModel]:
        """Found by their settings, or trained together, saved, measured, saved again with their accuracies."""
        if not seeds or (
            len(seeds) > 1 and (self.dist.world_size > 1 or not can_group(self.config.model.architecture, recipe))
        ):
            return [found for seed in seeds for found in self.trained(data, recipe, [seed], title)]
        settings = [self._model_settings(data, recipe, seed, seeds) for seed in seeds]
        paths = [self._model_path(each) for each in settings]
        in_training, state_file = (paths[0].with_suffix(ending) for ending in (".training", ".halfway"))
        # The first two may be all that a run stopped at its very end has left.
        if self.dist.broadcast_object(
            in_training.exists() or state_file.exists() or not all(path.exists() for path in paths)
        ):
            models = init_models(self.config.model, data, len(self.base.classes), seeds)
            with self._only_here(in_training):
                # Another run may have finished them between the first look and the lock.
                if self.dist.broadcast_object(not all(path.exists() for path in paths)):
                    self._train(models, data, recipe, seeds, title, settings, paths, state_file)
                if self.dist.is_main:
                    state_file.unlink(missing_ok=True)
        with self.dist.main_first():
            return [self._measured(path) for path in paths]

    def _only_here(self, mark: Path) -> AbstractContextManager[None]:
        """No other run trains these models meanwhile; of several processes of one run, the first sees to that."""
        if not self.dist.is_main:
            return nullcontext()
        check_writable(mark.parent)
        return locked(mark, LOCK_TIMEOUT)

    def _measured(self, path: Path) -> TrainedModel:
        model, record = load_model(path, self.device)
        wanted = to_dict(self.config.evaluation) | {"test": self.base.test.sha256, "seed": self.config.seed}
        # How many models there are, and which eps is talked about, changes no model's accuracy.
        wanted = {name: value for name, value in wanted.items() if name not in ("seeds", "headline")}
        if record.get("accuracy", {}).get("settings") != wanted:
            started = time.perf_counter()
            record["accuracy"] = {"settings": wanted, **self.evaluate(model).to_dict()}
            record["seconds"]["evaluation"] = time.perf_counter() - started
            save_model(path, model, record)
        return TrainedModel(model, record, path)

    def evaluate(self, model: Classifier) -> Accuracy:
        """Clean and attacked accuracy on the untouched test set."""
        self.check_fits(model, "The model")
        test, settings = self.test_set, self.config.evaluation
        seed, convolution = self.config.seed, self.compute.convolution
        attacked = self.attacked_rows if settings.rows else None
        return evaluate(model, test.images, test.labels, settings, seed, convolution, attacked)

    @cached_property
    def attacked_rows(self) -> torch.Tensor:
        """The test images that are attacked, the same for every model."""
        rows = balanced_rows(self.base.test.labels, self.config.evaluation.rows, self.config.seed)
        return torch.from_numpy(rows).to(self.device)

    def check_output_free(self, path: Path, data: LabelledImages, recipe: Training, seed: int) -> None:
        """Say early that the place is taken, before the model is trained."""
        if path.exists() and not is_trained_as(path, self._model_settings(data, recipe, seed, [])):
            raise UserError(f"{path} holds something else; choose another --out, or replace it with --force.")

    def load_source(self, path: Path) -> TrainedModel:
        """A given model, ours or a checkpoint of robustness, which must fit the base set."""
        model, record = (load_checkpoint if is_checkpoint(path) else load_model)(path, self.device)
        self.check_fits(model, str(path))
        return TrainedModel(model, record, Path(path))

    def validate(self) -> None:
        """Say at once, and not after hours, that rows or a source from elsewhere are missing or do not fit."""
        for kind, recipe in self.config.synthesis.items():
            self._check_rows(f"synthesis.{kind}.rows", recipe.rows, len(self.base.train), "training")
        chosen = self.config.sources
        for given in (chosen.standard_from, chosen.robust_from):
            if given:
                self.load_source(Path(given))

    def _check_rows(self, name: str, rows: int, available: int, which: str) -> None:
        if rows > available:
            raise UserError(f"{name} is {rows}, but {self.base.name} has {available} {which} images; 0 means all.")

    def check_fits(self, model: Classifier, name: str) -> None:
        wanted = (self.base.image_shape, len(self.base.classes))
        if (model.image_shape, model.classes) != wanted:
            raise UserError(
                f"{name} takes images of shape {model.image_shape} in {model.classes} classes, but {self.base.name} "
                f"has {wanted[0]} in {wanted[1]}; choose the image set it was trained on with --data."
            )

    def _train(
        self,
        models: list[Classifier],
        data: LabelledImages,
        recipe: Training,
        seeds: list[int],
        title: str,
        settings: list[dict[str, Any]],
        paths: list[Path],
        state_file: Path,
    ) -> None:
        log(f"training {title} {', '.join(str(seed) for seed in seeds)}")
        trainings = train_many(
            models, data.images, data.labels, recipe, seeds=seeds, compute=self.compute, title=title,
            state_file=TrainingState(state_file, self.config.runtime.save_every), dist=self.dist,
        )  # fmt: skip
        if not self.dist.is_main:
            return
        for model, training, own, path in zip(models, trainings, settings, paths, strict=True):
            record = training_record(training, own, data, self.base, self.config, self.compute, title)
            save_model(path, model, record)

    def _model_settings(self, data: LabelledImages, recipe: Training, seed: int, seeds: list[int]) -> dict[str, Any]:
        settings = {
            "model": to_dict(self.config.model),
            "training": to_dict(recipe),
            "seed": seed,
            "data": data.sha256,
            "classes": len(self.base.classes),
            **self.compute.arithmetic,
        }
        # Sums over parts of a batch, and with batch norm the parts themselves, make another model.
        if self.dist.world_size > 1:
            settings["processes"] = self.dist.world_size
        # Grouped arithmetic rounds differently, so a model's last bits depend on who learnt beside it.
        return settings | ({"beside": seeds} if len(seeds) > 1 else {})

    def _model_path(self, settings: dict[str, Any]) -> Path:
        key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
        return self.out / "models" / f"{self.config.model.architecture}-{key}.safetensors"

    # Datasets ------------------------------------------------------------------------------------

    def recipe(self, kind: str) -> Synthesis:
        if kind not in RULES:
            raise UserError(f"'{kind}' is no kind of dataset; {did_you_mean(kind, RULES)}")
        if kind not in self.config.synthesis:
            raise UserError(f"config '{self.config.name}' has no recipe for {kind}; add one under synthesis.{kind}.")
        return self.config.synthesis[kind]

    def fresh_recipe(self, kind: str) -> Training:
        return fresh_recipe(self.config, kind)

    def plan(self, kind: str, rows: int) -> RowPlan:
        split, seed = self.base.train, self.config.seed
        index = balanced_rows(split.labels, rows, seed)
        return make_plan(kind, split.labels, index, len(self.base.classes), seed)

    def dataset_exists(self, kind: str, path: Path, source: TrainedModel | None, shard: Shard | None = None) -> bool:
        """Whether the file is there already; another one in its place is refused. No source stands for any."""
        return check_compatible(path, self._header(self.job(kind, shard), source))

    def make(
        self,
        kind: str,
        path: Path,
        source: TrainedModel | None = None,
        force: bool = False,
        shard: Shard | None = None,
        beside: int = 1,
        batch: int = 0,
    ) -> DatasetInfo:
        """Synthesise a dataset into a file, or find it there, or go on where an interrupted run stopped.

        A `shard` is a part of it; `beside` is how many are made on this machine at once. `batch` rows at once, where it
        matters that they are as many as elsewhere.
        """
        job = self.job(kind, shard)
        job = replace(job, batch=job.batch or batch)
        if not force:
            check_compatible(path, self._header(job, source))
        maker = source or self.source(RULES[kind].source)
        with Writer.open(path, self._header(job, maker), force) as writer:
            if not writer.complete:
                fill(writer, job, maker, self.base, self.config.seed, self.compute, beside)
        return read_info(path)

    def job(self, kind: str, shard: Shard | None) -> Job:
        """What a file of that kind, or a part of it, will hold."""
        recipe = self.recipe(kind)
        return job_of(kind, recipe, self.plan(kind, recipe.rows), shard)

    def _header(self, job: Job, maker: TrainedModel | None) -> Header:
        return header_of(job, self.base, self.config, self.compute, maker)

    def examples(self, path: Path) -> LabelledImages:
        """A dataset file, ready to train on; it must come from this base set."""
        data = FeatureDataset(path)
        check_base(data.info, self.base)
        device = self.device
        # Where the base set is not in memory, a dataset as large as that would not be at home there either.
        images = data.images.to(device) if self.base.in_memory else data.lazy_images(device)
        return LabelledImages(
            f"{data.info.kind} ({path.name})", images, data.labels.to(device), data.info.content_sha256
        )
