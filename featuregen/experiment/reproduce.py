"""The whole experiment from one config: sources, datasets, fresh models, judges, and the numbers of them all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from featuregen.config import MISLABELLED, source_models, source_seeds, to_dict
from featuregen.data import ImageSplit
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import run_record
from featuregen.experiment.label_audit import honesty_of, judged_once, radii
from featuregen.experiment.parallel import Stage, run_parallel
from featuregen.experiment.paths import dataset_path
from featuregen.experiment.records import LabelledImages, TrainedModel
from featuregen.report import KIND_NAMES
from featuregen.runtime import atomic_write, versions
from featuregen.storage import DatasetInfo, read_columns
from featuregen.synthesis import RULES

TITLES = {
    "standard": "D, standard",
    "adversarial": "D, adversarial",
    "sample": "D, same rows",
    **KIND_NAMES,
}
Results = dict[str, Any]


def reproduce(experiment: Experiment, folder: Path, force: bool = False) -> Results:
    """Every stage is found done or is done now; the results are the same either way."""
    kinds = [kind for kind in RULES if kind in experiment.config.synthesis]
    experiment.validate()
    seeds, sources = experiment.config.evaluation.seeds, source_seeds(experiment.config)
    if run_parallel(experiment, stages(experiment, folder, kinds, force)):
        force = False  # it was heeded there
    models = [
        _row("standard", experiment.sources("standard", sources)),
        _row("adversarial", experiment.sources("robust", sources)),
    ]
    if sample := sample_of(experiment):
        models.append(
            _row("sample", experiment.fresh(sample, experiment.fresh_recipe("robust"), seeds, TITLES["sample"]))
        )
    datasets = []
    for kind in kinds:
        info, seconds = _made(experiment, folder, kind, force)
        datasets.append(_describe_dataset(info, seconds))
    for kind in kinds:
        data, recipe = (
            experiment.examples(dataset_path(folder, experiment.base.name, kind)),
            experiment.fresh_recipe(kind),
        )
        models.append(_row(kind, experiment.fresh(data, recipe, seeds, TITLES[kind])))
    honesty, judging = honesty_of(experiment, folder, kinds)
    return {
        "format": "featuregen-results",
        "version": 1,
        "config": to_dict(experiment.config),
        "base": describe_base(experiment),
        "software": versions(experiment.compute),
        "models": models,
        "datasets": datasets,
        "honesty": honesty,
        "timings": _timings(models, datasets) + judging,
    }


def stages(experiment: Experiment, folder: Path, kinds: list[str], force: bool) -> list[list[Stage]]:
    """What can be done side by side: first the two sources, then all that needs no more than them."""
    standard, robust = (source_models(experiment.config, which) for which in ("standard", "robust"))
    first = [Stage(_sources, ("robust", 1)), Stage(_sources, ("standard", standard))]
    others = [Stage(_sources, ("robust", robust))] if robust > 1 else []
    others += [Stage(_learn_sample, ())] if sample_of(experiment) else []
    made = [Stage(_make_and_learn, (folder, kind, force)) for kind in kinds]
    judged = [
        Stage(_judge, (folder, kind, eps)) for kind in kinds if kind in MISLABELLED for eps in radii(experiment, kind)
    ]
    return [first, others + made, judged]


def _sources(experiment: Experiment, which: str, count: int) -> None:
    experiment.sources(which, count)


def _learn_sample(experiment: Experiment) -> None:
    if sample := sample_of(experiment):
        experiment.fresh(
            sample, experiment.fresh_recipe("robust"), experiment.config.evaluation.seeds, TITLES["sample"]
        )


def _judge(experiment: Experiment, folder: Path, kind: str, eps: float) -> None:
    judged_once(experiment, folder, kind, eps)


def _make_and_learn(experiment: Experiment, folder: Path, kind: str, force: bool) -> None:
    _made(experiment, folder, kind, force)
    experiment.fresh(
        experiment.examples(dataset_path(folder, experiment.base.name, kind)),
        experiment.fresh_recipe(kind),
        experiment.config.evaluation.seeds,
        TITLES[kind],
    )


def sample_of(experiment: Experiment) -> LabelledImages | None:
    """The unchanged images of the rows that D_R is made from, unless these are all: what to hold D_R against."""
    recipe = experiment.config.synthesis.get("robust")
    if recipe is None or recipe.rows in (0, len(experiment.base.train)):
        return None
    index, train = experiment.plan("robust", recipe.rows).index, experiment.base.train
    split = ImageSplit(train.images[index], train.labels[index])
    name = f"{experiment.base.name}, {recipe.rows} rows"
    return LabelledImages(
        name, split.images_tensor(experiment.device), split.labels_tensor(experiment.device), split.sha256
    )


def describe_base(experiment: Experiment) -> dict[str, Any]:
    base = experiment.base
    return {
        "name": base.name,
        "train_rows": len(base.train),
        "test_rows": len(base.test),
        "train_sha256": base.train.sha256,
        "test_sha256": base.test.sha256,
        "classes": list(base.classes),
        "image_shape": list(base.image_shape),
    }


def _row(key: str, runs: list[TrainedModel]) -> dict[str, Any]:
    return {"key": key, "title": TITLES[key], "runs": [run_record(trained) for trained in runs]}


def _describe_dataset(info: DatasetInfo, seconds: float) -> dict[str, Any]:
    columns = read_columns(info.path, ["norm", "objective"])
    recipe = info.recipe["synthesis"]
    return {
        "kind": info.kind,
        "file": info.path.name,
        "rows": info.rows,
        "success_rate": info.success_rate,
        "objective": float(columns["objective"].astype(np.float64).mean()),
        "norm": float(columns["norm"].astype(np.float64).mean()),
        "content_sha256": info.content_sha256,
        "seconds": seconds,
        "norm_name": recipe["norm"],
        "eps": recipe["eps"],
        "steps": recipe["steps"],
    }


# Time ----------------------------------------------------------------------------------------------


def _made(experiment: Experiment, folder: Path, kind: str, force: bool) -> tuple[DatasetInfo, float]:
    """The dataset and the seconds it took; one found done keeps the seconds it once took."""
    path = folder / "seconds" / f"{kind}.json"
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    started = time.perf_counter()
    info = experiment.make(kind, dataset_path(folder, experiment.base.name, kind), force=force)
    spent = time.perf_counter() - started
    if before.get("content_sha256") == info.content_sha256:
        return info, float(before["seconds"])
    atomic_write(path, json.dumps({"seconds": spent, "content_sha256": info.content_sha256}))
    return info, spent


def _timings(models: list[dict[str, Any]], datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    trained = [
        {"stage": f"{row['title']}, seed {run['seed']}: train and evaluate", "seconds": run["seconds"]}
        for row in models
        for run in row["runs"]
    ]
    return trained + [{"stage": f"making {made['kind']}", "seconds": made["seconds"]} for made in datasets]
