"""An experiment: one config, one base dataset and one output folder."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from featuregen.compute.autotune import load_or_autotune
from featuregen.config.loader import did_you_mean, load_config, with_overrides
from featuregen.config.recipes import fresh_recipe, source_recipe
from featuregen.config.schema import Config, Synthesis, Training
from featuregen.config.serialize import shown_name
from featuregen.data.base_dataset import BaseDataset, balanced_rows
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import evaluate
from featuregen.experiment.dataset_job import DatasetJob, Shard, dataset_path, shard_job
from featuregen.experiment.model_cache import LabelledImages, ModelCache, is_found
from featuregen.interop.load import load_model
from featuregen.models.classifier import Classifier, check_images, check_logits
from featuregen.models.io import Accuracy, TrainedModel, read_model_record
from featuregen.runtime.device import ComputeSpec, configure_process, resolve_device
from featuregen.runtime.distributed import SINGLE_PROCESS, DistInfo
from featuregen.runtime.paths import check_output_folder, check_utf8
from featuregen.runtime.torch_files import is_checkpoint
from featuregen.storage.reader import DatasetInfo
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.synthesis.generate import RowPlan, make_plan
from featuregen.synthesis.kinds import find_kind

# Fresh models start from other weights than any source model, or the two would share more than the data.
FRESH_SEED = 1000


class Experiment:
    """Makes datasets and trains models from one config, and keeps both in one folder.

    Whatever is finished is found again: a model by its settings, a dataset by its path and its header.

    Args:
        config: The name of a shipped config, the path of a YAML file, or a `Config`.
        out: The output folder; models go to `models/` in it.
        overrides: Settings to replace, as `key=value`.
        base: The base dataset, where it is loaded already.
        compute: Device and arithmetic, where they are chosen already; by default they are autotuned when first needed.
        dist: The processes that train each model together, where `torchrun` started several.

    Example:
        >>> import featuregen as fg
        >>> exp = fg.Experiment("digits", out="out", overrides=["synthesis.det.eps=1.0"])
        >>> exp.base.name, len(exp.base.train)
        ('digits', 1438)
    """

    def __init__(
        self,
        config: Config | str | Path = "digits",
        out: str | Path = "datasets_out",
        overrides: list[str] | tuple[str, ...] = (),
        *,
        base: BaseDataset | None = None,
        compute: ComputeSpec | None = None,
        dist: DistInfo = SINGLE_PROCESS,
    ) -> None:
        named = load_config(str(config)) if isinstance(config, (str, Path)) else config
        self.config = with_overrides(named, overrides) if overrides else named
        self.out = Path(out)
        self.base = base or load_images(self.config.data)
        self._check_rows("evaluation.rows", self.config.evaluation.rows, len(self.base.test), "test")
        self.device = resolve_device(self.config.runtime.device)
        configure_process(self.config.runtime.threads)
        self._compute, self.dist = compute, dist

    def __repr__(self) -> str:
        return f"Experiment({self.config.name!r}, out={str(self.out)!r})"

    # Datasets ------------------------------------------------------------------------------------

    def make_dataset(
        self, kind: str, path: str | Path | None = None, *, source: TrainedModel | None = None, force: bool = False
    ) -> FeatureDataset:
        """Make a dataset, resume one that was interrupted, or open it where it is finished.

        Args:
            kind: `robust`, `nonrobust`, `robust-noise`, `nonrobust-noise`, `rand`, `det`, or a registered kind.
            path: The HDF5 file; by default `BASE-KIND.h5` in the output folder.
            source: The source model; by default it is trained, or found trained.
            force: Whether to replace a file that was made with other settings.

        Returns:
            The dataset, a torch `Dataset` of images and stored labels.

        Raises:
            UserError: A different dataset is at the path, or the kind is unknown.

        Example:
            >>> import featuregen as fg
            >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
            >>> det = fg.Experiment("digits", out="out", overrides=tiny).make_dataset("det")
            >>> image, label = det[0]
            >>> len(det), tuple(image.shape)
            (20, (1, 8, 8))
        """
        target = Path(path) if path else dataset_path(self.out, self.base.name, kind)
        return self.write_dataset(self.dataset_job(kind), target, source, force)

    def dataset_job(self, kind: str, shard: Shard | None = None, batch: int = 0) -> DatasetJob:
        """What a dataset of this kind, or a shard of it, will hold; `batch` fixes how many rows are made at once."""
        recipe = self.synthesis_recipe(kind)
        whole = DatasetJob(kind, recipe, self.row_plan(kind, recipe.rows), self.config, self.base, self.compute, batch)
        return shard_job(whole, shard) if shard else whole

    def write_dataset(
        self, job: DatasetJob, path: Path, source: TrainedModel | None = None, force: bool = False, processes: int = 1
    ) -> FeatureDataset:
        """Run a job; `processes` is how many run on this machine at once."""
        if not force:
            job.is_done(path, source)
        return job.run(path, source or self.source_model(job.source), force, processes)

    def row_plan(self, kind: str, rows: int) -> RowPlan:
        """Targets and starts of a class-balanced sample of the training rows; 0 rows mean all."""
        labels, seed = self.base.train.labels, self.config.seed
        return make_plan(kind, labels, balanced_rows(labels, rows, seed), len(self.base.classes), seed)

    def synthesis_recipe(self, kind: str) -> Synthesis:
        """How datasets of this kind are made."""
        find_kind(kind)
        if kind not in self.config.synthesis:
            raise UserError(f"config '{self.config.name}' has no recipe for {kind}; add one under synthesis.{kind}.")
        return self.config.synthesis[kind]

    # Models --------------------------------------------------------------------------------------

    def source_model(self, role: str) -> TrainedModel:
        """The `robust` or `standard` model that datasets are made with: trained, or found trained."""
        return self.source_models(role, 1)[0]

    def source_models(self, role: str, count: int) -> list[TrainedModel]:
        """The source model, trained alone so that it never depends on `count`, then others of its recipe."""
        if role not in ("robust", "standard"):
            raise UserError(f"'{role}' is no source model; {did_you_mean(role, ('robust', 'standard'))}")
        (recipe, imported), seed = source_recipe(self.config, role), self.config.seed
        title, others = f"{role} model", list(range(seed + 1, seed + count))
        if imported:
            source = [self.models.add(self.load_model(Path(imported)))]
        else:
            source = self.models.get_or_train(self.train_set, recipe, [seed], title)
        return source + self.models.get_or_train(self.train_set, recipe, others, title)

    def train_fresh(
        self,
        data: FeatureDataset | LabelledImages,
        seeds: int | None = None,
        recipe: Training | None = None,
        title: str = "",
    ) -> list[TrainedModel]:
        """Train fresh models on a dataset alone and evaluate them on the untouched test set.

        Args:
            data: The dataset.
            seeds: How many models; by default as many as the config says.
            recipe: The training recipe; by default the config's for the dataset's kind.
            title: What progress is reported as.

        Returns:
            The models, each with its `accuracy`.

        Example:
            >>> import featuregen as fg
            >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2",
            ...         "fresh.det.epochs=1", "evaluation.steps=1"]
            >>> exp = fg.Experiment("digits", out="out", overrides=tiny)
            >>> models = exp.train_fresh(exp.make_dataset("det"), seeds=2)
            >>> [0 <= model.accuracy.clean <= 1 for model in models]
            [True, True]
        """
        if isinstance(data, FeatureDataset):
            recipe, title = recipe or self.fresh_recipe(data.info.kind), title or data.info.kind
            data = self.training_images(data)
        elif recipe is None:
            raise UserError(f"{data.name} is not a dataset file, so no recipe goes with it; give one as recipe=.")
        first = self.config.seed + FRESH_SEED
        count = self.config.evaluation.seeds if seeds is None else seeds
        return self.models.get_or_train(data, recipe, list(range(first, first + count)), f"{title}: fresh model")

    def fresh_recipe(self, kind: str) -> Training:
        """How fresh models of this kind are trained."""
        return fresh_recipe(self.config, kind)

    def evaluate(self, model: Classifier) -> Accuracy:
        """Clean and robust accuracy on the untouched test set."""
        self.check_fits(model, "The model")
        test, settings = self.test_set, self.config.evaluation
        attacked = self.attacked_rows if settings.rows else None
        return evaluate(model, test.images, test.labels, settings, self.config.seed, self.compute.convolution, attacked)

    def load_model(self, path: Path) -> TrainedModel:
        """A saved model, ours or a checkpoint of robustness, which must fit the base dataset."""
        model = load_model(path, self.device)
        self.check_fits(model, str(path))
        check_logits(model, str(path))
        digest = "" if is_checkpoint(path) else read_model_record(path)["weights_sha256"]
        return TrainedModel(model, model.record, Path(path), digest, is_found(digest, model.record))

    @cached_property
    def models(self) -> ModelCache:
        """The models in the output folder."""
        return ModelCache(self.config, self.base, self._models_folder, self.compute, self.dist, self.evaluate)

    @property
    def _models_folder(self) -> Path:
        """A folder in the output folder, which is no link: it may be part of a folder that somebody sent."""
        check_output_folder(self.out / "models")
        check_utf8(self.out, "the folder of models")
        return self.out / "models"

    @cached_property
    def compute(self) -> ComputeSpec:
        """Device and arithmetic, chosen when first needed, since that may take a measurement."""
        if self._compute:
            return self._compute
        base, numerics = self.base, None
        if self.dist.is_main:
            numerics = load_or_autotune(self.config, base.image_shape, len(base.classes), self._models_folder).numerics
        return ComputeSpec.from_numerics(self.device, self.dist.broadcast_object(numerics))

    # Images --------------------------------------------------------------------------------------

    @cached_property
    def train_set(self) -> LabelledImages:
        """The base dataset's training images on the device."""
        split, device = self.base.train, self.device
        return LabelledImages(self.base.name, split.to(device), split.labels_tensor(device), split.sha256)

    @cached_property
    def test_set(self) -> LabelledImages:
        """The base dataset's test images on the device."""
        split, device = self.base.test, self.device
        return LabelledImages(f"{self.base.name} test", split.to(device), split.labels_tensor(device), split.sha256)

    @cached_property
    def attacked_rows(self) -> torch.Tensor:
        """The test images that are attacked, the same for every model."""
        rows = balanced_rows(self.base.test.labels, self.config.evaluation.rows, self.config.seed)
        return torch.from_numpy(rows).to(self.device)

    def training_images(self, data: FeatureDataset) -> LabelledImages:
        """A dataset's images on the device, ready to train on; they must have been made from this base dataset."""
        self.check_made_from_base(data.info)
        data.check_content()
        # Where the base dataset does not fit into memory, a dataset as large as that would not fit either.
        images = data.images.to(self.device) if self.base.in_memory else data.lazy_images(self.device)
        name = f"{data.info.kind} ({shown_name(data.path.name)})"
        return LabelledImages(name, images, data.labels.to(self.device), data.info.content_sha256)

    def validate(self) -> None:
        """Check before hours of work that rows and imported source models are there and fit."""
        for kind, recipe in self.config.synthesis.items():
            self._check_rows(f"synthesis.{kind}.rows", recipe.rows, len(self.base.train), "training")
        for imported in filter(None, (self.config.sources.standard_from, self.config.sources.robust_from)):
            self.load_model(Path(imported))

    def check_fits(self, model: Classifier, name: str) -> None:
        """Refuse a model of other images than the base dataset's."""
        check_images(model, name, self.base.name, self.base.image_shape, len(self.base.classes))

    def check_made_from_base(self, info: DatasetInfo) -> None:
        """Refuse a dataset of other images: models trained on it are tested on this base dataset's test images."""
        name, base = info.base.get("name"), self.base
        recorded, digest = info.base.get("sha256"), base.train.sha256
        if info.base.get("split", "train") != "train":
            raise UserError(
                f"{info.path} was made from {name}, {info.base.get('split')}; fresh models and their test need a "
                "dataset made from the training images of a base set."
            )
        if recorded != digest:
            raise UserError(
                f"{info.path} was made from {name} (sha256 {str(recorded)[:12]}), which is not {base.name} here "
                f"(sha256 {digest[:12]}); choose its base set with --data."
            )
        if info.base.get("test_sha256", base.test.sha256) != base.test.sha256:
            raise UserError(f"{info.path} goes with another test set than {base.name} has here; choose it with --data.")

    def _check_rows(self, name: str, rows: int, available: int, which: str) -> None:
        if rows > available:
            raise UserError(f"{name} is {rows}, but {self.base.name} has {available} {which} images; 0 means all.")

    def with_model(self, **changes: Any) -> Experiment:
        """The same experiment with another architecture or other settings of the config."""
        return Experiment(replace(self.config, **changes), self.out, base=self.base)
