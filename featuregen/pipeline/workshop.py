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

from featuregen.config import Config, Synthesis, Training, canonical_json, closest, fresh_recipe, to_dict
from featuregen.errors import UserError
from featuregen.evaluation import Scores, score
from featuregen.halfway import Halfway
from featuregen.images import Base, balanced_rows, load_images
from featuregen.interop import is_checkpoint, load_checkpoint
from featuregen.models import Classifier, load_model, save_model
from featuregen.pipeline.arithmetic import settled
from featuregen.pipeline.jobs import Job, Shard, fill, header_of, job_of
from featuregen.pipeline.places import adopted, check_writable
from featuregen.pipeline.records import (
    Examples,
    Trained,
    beginners,
    check_base,
    is_trained_as,
    training_record,
)
from featuregen.ranks import ALONE, Ranks
from featuregen.runtime import Machine, note, resolve_device, set_up
from featuregen.store import FeatureDataset, Header, Info, Writer, read_info, refuse_another
from featuregen.synthesis import RULES, Plan, make_plan
from featuregen.training import learn_together, train_together
from featuregen.whole import PATIENCE, locked

# Fresh models start from other weights than any source model, or the two would share more than the data.
FRESH_SEED = 1000


class Workshop:
    """Where the models and datasets of one config are made and kept: `out/models` and `out/*.h5`.

    With `ranks`, several processes train each model together; the first one measures and keeps it.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        base: Base | None = None,
        machine: Machine | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.out = Path(out)
        self.base = base or load_images(config.data)
        self._check_rows("evaluation.rows", config.evaluation.rows, len(self.base.test), "test")
        self.device = resolve_device(config.runtime.device)
        set_up(config.runtime.threads)
        self._machine, self.ranks = machine, ranks

    @cached_property
    def machine(self) -> Machine:
        """Settled when first needed, since it may take a measurement."""
        if self._machine:
            return self._machine
        shape, classes = self.base.image_shape, len(self.base.classes)
        found = settled(self.config, shape, classes, self.out / "models").arithmetic if self.ranks.first else None
        return Machine.computing(self.device, self.ranks.told(found))

    @cached_property
    def train_set(self) -> Examples:
        split, device = self.base.train, self.device
        return Examples(self.base.name, split.on(device), split.label_tensor(device), split.sha256)

    @cached_property
    def test_set(self) -> Examples:
        split, device = self.base.test, self.device
        return Examples(f"{self.base.name} test", split.on(device), split.label_tensor(device), split.sha256)

    # Models --------------------------------------------------------------------------------------

    def source(self, which: str) -> Trained:
        """The standard or robust model that makes datasets."""
        return self.sources(which, 1)[0]

    def sources(self, which: str, count: int) -> list[Trained]:
        """The source model, trained on its own so that it never depends on `count`, then others of its recipe."""
        recipe, chosen = self._source_recipe(which), self.config.sources
        first, seed, title = [self.config.seed], self.config.seed, f"{which} model"
        others = list(range(seed + 1, seed + count))
        if given := chosen.robust_from if which == "robust" else chosen.standard_from:
            source = [self._measured(adopted(self.load_source(Path(given)), self.out / "models"))]
        else:
            source = self.trained(self.train_set, recipe, first, title)
        return source + self.trained(self.train_set, recipe, others, title)

    def _source_recipe(self, which: str) -> Training:
        return self.config.sources.robust if which == "robust" else self.config.sources.standard

    def fresh(self, data: Examples, recipe: Training, count: int, title: str) -> list[Trained]:
        """Models that have seen nothing but the given data."""
        start = self.config.seed + FRESH_SEED
        return self.trained(data, recipe, list(range(start, start + count)), f"{title}: fresh model")

    def trained(self, data: Examples, recipe: Training, seeds: list[int], title: str) -> list[Trained]:
        """Found by their settings, or trained together, saved, measured, saved again with their accuracies."""
        if not seeds or (
            len(seeds) > 1 and (self.ranks.count > 1 or not learn_together(self.config.model.architecture, recipe))
        ):
            return [found for seed in seeds for found in self.trained(data, recipe, [seed], title)]
        settings = [self._model_settings(data, recipe, seed, seeds) for seed in seeds]
        paths = [self._model_path(each) for each in settings]
        in_training, halfway = (paths[0].with_suffix(ending) for ending in (".training", ".halfway"))
        # The first two may be all that a run stopped at its very end has left.
        if self.ranks.told(in_training.exists() or halfway.exists() or not all(path.exists() for path in paths)):
            models = beginners(self.config.model, data, len(self.base.classes), seeds)
            with self._only_here(in_training):
                # Another run may have finished them between the first look and the lock.
                if self.ranks.told(not all(path.exists() for path in paths)):
                    self._train(models, data, recipe, seeds, title, settings, paths, halfway)
                if self.ranks.first:
                    halfway.unlink(missing_ok=True)
        with self.ranks.in_turn():
            return [self._measured(path) for path in paths]

    def _only_here(self, mark: Path) -> AbstractContextManager[None]:
        """No other run trains these models meanwhile; of several processes of one run, the first sees to that."""
        if not self.ranks.first:
            return nullcontext()
        check_writable(mark.parent)
        return locked(mark, PATIENCE)

    def _measured(self, path: Path) -> Trained:
        model, record = load_model(path, self.device)
        wanted = to_dict(self.config.evaluation) | {"test": self.base.test.sha256, "seed": self.config.seed}
        # How many models there are, and which eps is talked about, changes no model's accuracy.
        wanted = {name: value for name, value in wanted.items() if name not in ("seeds", "headline")}
        if record.get("accuracy", {}).get("settings") != wanted:
            started = time.perf_counter()
            record["accuracy"] = {"settings": wanted, **self.score(model).to_dict()}
            record["seconds"]["evaluation"] = time.perf_counter() - started
            save_model(path, model, record)
        return Trained(model, record, path)

    def score(self, model: Classifier) -> Scores:
        """Clean and attacked accuracy on the untouched test set."""
        self.check_fits(model, "The model")
        test, settings = self.test_set, self.config.evaluation
        seed, convolution = self.config.seed, self.machine.convolution
        attacked = self.attacked_rows if settings.rows else None
        return score(model, test.images, test.labels, settings, seed, convolution, attacked)

    @cached_property
    def attacked_rows(self) -> torch.Tensor:
        """The test images that are attacked, the same for every model."""
        rows = balanced_rows(self.base.test.labels, self.config.evaluation.rows, self.config.seed)
        return torch.from_numpy(rows).to(self.device)

    def refuse_another_model(self, path: Path, data: Examples, recipe: Training, seed: int) -> None:
        """Say early that the place is taken, before the model is trained."""
        if path.exists() and not is_trained_as(path, self._model_settings(data, recipe, seed, [])):
            raise UserError(f"{path} holds something else; choose another --out, or replace it with --force.")

    def load_source(self, path: Path) -> Trained:
        """A given model, ours or a checkpoint of robustness, which must fit the base set."""
        model, record = (load_checkpoint if is_checkpoint(path) else load_model)(path, self.device)
        self.check_fits(model, str(path))
        return Trained(model, record, Path(path))

    def check_ahead(self) -> None:
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
        data: Examples,
        recipe: Training,
        seeds: list[int],
        title: str,
        settings: list[dict[str, Any]],
        paths: list[Path],
        halfway: Path,
    ) -> None:
        note(f"training {title} {', '.join(str(seed) for seed in seeds)}")
        logs = train_together(
            models, data.images, data.labels, recipe, seeds=seeds, machine=self.machine, title=title,
            halfway=Halfway(halfway, self.config.runtime.save_every), ranks=self.ranks,
        )  # fmt: skip
        if not self.ranks.first:
            return
        for model, log, own, path in zip(models, logs, settings, paths, strict=True):
            record = training_record(log, own, data, self.base, self.config, self.machine, title)
            save_model(path, model, record)

    def _model_settings(self, data: Examples, recipe: Training, seed: int, seeds: list[int]) -> dict[str, Any]:
        settings = {
            "model": to_dict(self.config.model),
            "training": to_dict(recipe),
            "seed": seed,
            "data": data.sha256,
            "classes": len(self.base.classes),
            **self.machine.arithmetic,
        }
        # Sums over parts of a batch, and with batch norm the parts themselves, make another model.
        if self.ranks.count > 1:
            settings["processes"] = self.ranks.count
        # Grouped arithmetic rounds differently, so a model's last bits depend on who learnt beside it.
        return settings | ({"beside": seeds} if len(seeds) > 1 else {})

    def _model_path(self, settings: dict[str, Any]) -> Path:
        key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
        return self.out / "models" / f"{self.config.model.architecture}-{key}.safetensors"

    # Datasets ------------------------------------------------------------------------------------

    def recipe(self, kind: str) -> Synthesis:
        if kind not in RULES:
            raise UserError(f"'{kind}' is no kind of dataset; {closest(kind, RULES)}")
        if kind not in self.config.synthesis:
            raise UserError(f"config '{self.config.name}' has no recipe for {kind}; add one under synthesis.{kind}.")
        return self.config.synthesis[kind]

    def fresh_recipe(self, kind: str) -> Training:
        return fresh_recipe(self.config, kind)

    def plan(self, kind: str, rows: int) -> Plan:
        split, seed = self.base.train, self.config.seed
        index = balanced_rows(split.labels, rows, seed)
        return make_plan(kind, split.labels, index, len(self.base.classes), seed)

    def is_made(self, kind: str, path: Path, source: Trained | None, shard: Shard | None = None) -> bool:
        """Whether the file is there already; another one in its place is refused. No source stands for any."""
        return refuse_another(path, self._header(self.job(kind, shard), source))

    def make(
        self,
        kind: str,
        path: Path,
        source: Trained | None = None,
        force: bool = False,
        shard: Shard | None = None,
        beside: int = 1,
        batch: int = 0,
    ) -> Info:
        """Synthesise a dataset into a file, or find it there, or go on where an interrupted run stopped.

        A `shard` is a part of it; `beside` is how many are made on this machine at once. `batch` rows at once, where it
        matters that they are as many as elsewhere.
        """
        job = self.job(kind, shard)
        job = replace(job, batch=job.batch or batch)
        if not force:
            refuse_another(path, self._header(job, source))
        maker = source or self.source(RULES[kind].source)
        with Writer.open(path, self._header(job, maker), force) as writer:
            if not writer.complete:
                fill(writer, job, maker, self.base, self.config.seed, self.machine, beside)
        return read_info(path)

    def job(self, kind: str, shard: Shard | None) -> Job:
        """What a file of that kind, or a part of it, will hold."""
        recipe = self.recipe(kind)
        return job_of(kind, recipe, self.plan(kind, recipe.rows), shard)

    def _header(self, job: Job, maker: Trained | None) -> Header:
        return header_of(job, self.base, self.config, self.machine, maker)

    def examples(self, path: Path) -> Examples:
        """A dataset file, ready to train on; it must come from this base set."""
        data = FeatureDataset(path)
        check_base(data.info, self.base)
        device = self.device
        # Where the base set is not in memory, a dataset as large as that would not be at home there either.
        images = data.images.to(device) if self.base.in_memory else data.on(device)
        return Examples(f"{data.info.kind} ({path.name})", images, data.labels.to(device), data.info.content_sha256)
