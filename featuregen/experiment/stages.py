"""The stages of `reproduce`: one list that is run, run in parallel, and counted for `--dry-run`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featuregen.config.kinds import KINDS, MISLABELLED
from featuregen.config.recipes import fresh_recipe, source_models, source_recipe
from featuregen.config.record_schemas import KeptSeconds
from featuregen.config.schema import Config, Synthesis, Training
from featuregen.data.base_dataset import DatasetSize, ImageSplit
from featuregen.experiment.dataset_job import dataset_path
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.label_audit import audited_radii, load_or_audit
from featuregen.experiment.model_cache import LabelledImages
from featuregen.report.tables import KIND_NAMES
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.kept_files import read_kept
from featuregen.storage.reader import DatasetInfo
from featuregen.storage.torch_dataset import FeatureDataset

TITLES = {"standard": "D, standard", "adversarial": "D, adversarial", "sample": "D, same rows", **KIND_NAMES}


@dataclass(frozen=True)
class WorkCount:
    """Images times gradient steps of pixels, training passes, and forward passes."""

    grad_steps: float = 0
    train_samples: float = 0
    forward_samples: float = 0

    def __add__(self, other: WorkCount) -> WorkCount:
        return WorkCount(
            self.grad_steps + other.grad_steps,
            self.train_samples + other.train_samples,
            self.forward_samples + other.forward_samples,
        )

    def __mul__(self, times: int) -> WorkCount:
        return WorkCount(times * self.grad_steps, times * self.train_samples, times * self.forward_samples)


@dataclass(frozen=True)
class Stage:
    """`run(experiment, *arguments)` makes something, or finds it made; `work` counts that by title."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]
    work: Mapping[str, WorkCount]


def stages(config: Config, size: DatasetSize, folder: Path, force: bool = False) -> list[list[Stage]]:
    """Rounds of stages; those of one round need nothing of each other.

    First come the two source models, then what needs no more than them, then the label audit.
    """
    robust = source_models(config, "robust")
    sources = [
        _source_stage(config, size, "standard", 0, source_models(config, "standard")),
        _source_stage(config, size, "robust", 0, 1),
    ]
    others = [_source_stage(config, size, "robust", 1, robust)] if robust > 1 else []
    kinds = kinds_of(config)
    if "robust" in kinds and _rows(config.synthesis["robust"], size) < size.train_rows:
        others.append(_sample_stage(config, size))
    others += [_dataset_stage(config, size, kind, folder, force) for kind in kinds]
    audits = [
        _audit_stage(config, size, kind, eps, folder)
        for kind in kinds
        if kind in MISLABELLED
        for eps in audited_radii(config, kind)
    ]
    return [sources, others, audits]


def kinds_of(config: Config) -> list[str]:
    """The kinds of dataset that a config has recipes for, in the order of the paper's table."""
    return [kind for kind in KINDS if kind in config.synthesis]


# One stage -----------------------------------------------------------------------------------------


def _source_stage(config: Config, size: DatasetSize, role: str, first: int, count: int) -> Stage:
    """Source models `first` to `count`; an imported one need not be trained."""
    recipe, imported = source_recipe(config, role)
    trained = count - first - (1 if imported and first == 0 else 0)
    work = _training_work(recipe, size.train_rows) * trained + _evaluation_work(config, size) * (count - first)
    return Stage(_train_sources, (role, count), {f"{role} model × {source_models(config, role)}": work})


def _train_sources(experiment: Experiment, role: str, count: int) -> None:
    experiment.source_models(role, count)


def _sample_stage(config: Config, size: DatasetSize) -> Stage:
    seeds, rows = config.evaluation.seeds, _rows(config.synthesis["robust"], size)
    work = _training_work(fresh_recipe(config, "robust"), rows) + _evaluation_work(config, size)
    return Stage(_train_on_sample, (), {f"fresh models on the same rows of {size.name} × {seeds}": work * seeds})


def _train_on_sample(experiment: Experiment) -> None:
    if sample := base_sample(experiment):
        experiment.train_fresh(sample, recipe=experiment.fresh_recipe("robust"), title=TITLES["sample"])


def base_sample(experiment: Experiment) -> LabelledImages | None:
    """The unchanged images of the rows that D_R is made from, to compare D_R with; None where these are all."""
    recipe, train = experiment.config.synthesis.get("robust"), experiment.base.train
    if recipe is None or recipe.rows in (0, len(train)):
        return None
    index = experiment.row_plan("robust", recipe.rows).index
    split = ImageSplit(train.images[index], train.labels[index])
    name = f"{experiment.base.name}, {recipe.rows} rows"
    return LabelledImages(
        name, split.images_tensor(experiment.device), split.labels_tensor(experiment.device), split.sha256
    )


def _dataset_stage(config: Config, size: DatasetSize, kind: str, folder: Path, force: bool) -> Stage:
    made, seeds, rows = config.synthesis[kind], config.evaluation.seeds, _rows(config.synthesis[kind], size)
    fresh = _training_work(fresh_recipe(config, kind), rows) + _evaluation_work(config, size)
    work = {
        f"making {kind}": WorkCount(grad_steps=rows * made.steps, forward_samples=2 * rows),
        f"fresh models on {kind} × {seeds}": fresh * seeds,
    }
    return Stage(_make_and_train, (folder, kind, force), work)


def _make_and_train(experiment: Experiment, folder: Path, kind: str, force: bool) -> None:
    make_timed(experiment, folder, kind, force)
    data = FeatureDataset(dataset_path(folder, experiment.base.name, kind))
    experiment.train_fresh(data, title=TITLES.get(kind, kind))


def make_timed(experiment: Experiment, folder: Path, kind: str, force: bool = False) -> tuple[DatasetInfo, float]:
    """The dataset and the seconds it took; one that is finished keeps the seconds it once took."""
    path = folder / "seconds" / f"{kind}.json"
    before = read_kept(path, KeptSeconds)
    started = time.perf_counter()
    job = experiment.dataset_job(kind)
    info = experiment.write_dataset(job, dataset_path(folder, experiment.base.name, kind), force=force).info
    seconds = time.perf_counter() - started
    if before and before.content_sha256 == info.content_sha256:
        return info, before.seconds
    atomic_write(path, json.dumps({"seconds": seconds, "content_sha256": info.content_sha256}))
    return info, seconds


def _audit_stage(config: Config, size: DatasetSize, kind: str, eps: float, folder: Path) -> Stage:
    """At the dataset's own radius all its rows are audited, at others a sample that is made for it."""
    made = config.synthesis[kind]
    if eps == made.eps:
        work = WorkCount(forward_samples=3 * _rows(made, size))
    else:
        sample = min(config.honesty.rows, size.train_rows) or size.train_rows
        work = WorkCount(grad_steps=sample * made.steps, forward_samples=3 * sample)
    return Stage(_audit, (folder, kind, eps), {f"judging {kind}": work})


def _audit(experiment: Experiment, folder: Path, kind: str, eps: float) -> None:
    load_or_audit(experiment, folder, kind, eps)


# Counting ------------------------------------------------------------------------------------------


def work_by_title(rounds: list[list[Stage]]) -> dict[str, WorkCount]:
    """What all stages cost; attacks on models count in full, although misclassified images are not attacked again."""
    counts: dict[str, WorkCount] = {}
    for stage in (stage for round_ in rounds for stage in round_):
        for title, work in stage.work.items():
            counts[title] = counts.get(title, WorkCount()) + work
    return counts


def _rows(recipe: Synthesis, size: DatasetSize) -> int:
    return recipe.rows or size.train_rows


def _training_work(recipe: Training, rows: int) -> WorkCount:
    """Of all epochs, though early stopping may end sooner."""
    held_out = round(recipe.held_out * rows) if recipe.early_stop != "none" else 0
    trained, validated, steps = recipe.epochs * (rows - held_out), recipe.epochs * held_out, 0
    if recipe.attack:
        steps = recipe.attack.steps * recipe.attack.restarts
    grad_steps = steps * (trained + (validated if recipe.early_stop == "adversarial" else 0))
    # The mixed loss trains on every image twice, clean and attacked.
    return WorkCount(grad_steps, trained * (2 if recipe.alpha else 1), validated)


def _evaluation_work(config: Config, size: DatasetSize) -> WorkCount:
    evaluation = config.evaluation
    attacks, attacked = len(evaluation.l2) + len(evaluation.linf), evaluation.rows or size.test_rows
    grad_steps = attacked * attacks * evaluation.steps * evaluation.restarts
    return WorkCount(grad_steps=grad_steps, forward_samples=size.test_rows)
