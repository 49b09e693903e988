"""The whole experiment from one config: source models, datasets, fresh models, label audit, and their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from featuregen.config.recipes import source_seeds
from featuregen.config.serialize import to_record
from featuregen.experiment.dataset_job import dataset_path
from featuregen.experiment.evaluate_files import run_record
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.label_audit import audit_experiment
from featuregen.experiment.parallel import run_stages
from featuregen.experiment.stages import TITLES, base_sample, kinds_of, make_timed, stages
from featuregen.models.io import TrainedModel
from featuregen.runtime.device import versions
from featuregen.runtime.paths import check_output_folder
from featuregen.storage.reader import DatasetInfo, read_columns
from featuregen.storage.torch_dataset import FeatureDataset

Results = dict[str, Any]


def reproduce(experiment: Experiment, folder: str | Path | None = None, force: bool = False) -> Results:
    """Run every stage, or find it done, and collect the numbers.

    Args:
        experiment: Its config says what is made.
        folder: Where the datasets go; by default the folder of the config's name in the experiment's output folder.
        force: Whether to replace datasets that were made with other settings.

    Returns:
        What `results.json` holds.

    Example:
        >>> import featuregen as fg
        >>> short = ["sources.standard.epochs=1", "sources.robust.epochs=1", "evaluation.seeds=1", "evaluation.steps=1"]
        >>> short += ["honesty.rows=20", "honesty.eps=[1.25]", "runtime.jobs=1"]
        >>> for kind in ("robust", "nonrobust", "robust-noise", "nonrobust-noise", "rand", "det"):
        ...     short += [f"synthesis.{kind}.rows=20", f"synthesis.{kind}.steps=2", f"fresh.{kind}.epochs=1"]
        >>> results = fg.reproduce(fg.Experiment("digits", out="short", overrides=short))
        >>> [row["title"] for row in results["models"]][:3]
        ['D, standard', 'D, adversarial', 'D, same rows']
    """
    folder = Path(folder) if folder else experiment.out / experiment.config.name
    for place in (folder, folder / "seconds", folder / "judged"):
        check_output_folder(place)
    experiment.validate()
    config = experiment.config
    run_stages(experiment, stages(config, experiment.base.size, folder, force))
    kinds, sources = kinds_of(config), source_seeds(config)
    models = [
        _row("standard", experiment.source_models("standard", sources)),
        _row("adversarial", experiment.source_models("robust", sources)),
    ]
    if sample := base_sample(experiment):
        recipe = experiment.fresh_recipe("robust")
        models.append(_row("sample", experiment.train_fresh(sample, recipe=recipe, title=TITLES["sample"])))
    datasets = []
    for kind in kinds:
        datasets.append(_describe_dataset(*make_timed(experiment, folder, kind)))
        data = FeatureDataset(dataset_path(folder, experiment.base.name, kind))
        models.append(_row(kind, experiment.train_fresh(data, title=TITLES.get(kind, kind))))
    honesty, audit_timings = audit_experiment(experiment, folder, kinds)
    return {
        "format": "featuregen-results",
        "version": 1,
        "config": to_record(config),
        "base": experiment.base.description(),
        "software": versions(experiment.compute),
        "models": models,
        "datasets": datasets,
        "honesty": honesty,
        "timings": _timings(models, datasets) + audit_timings,
    }


def _row(key: str, models: list[TrainedModel]) -> dict[str, Any]:
    return {"key": key, "title": TITLES.get(key, key), "runs": [run_record(trained) for trained in models]}


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


def _timings(models: list[dict[str, Any]], datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    trained = [
        {"stage": f"{row['title']}, seed {run['seed']}: train and evaluate", "seconds": run["seconds"]}
        for row in models
        for run in row["runs"]
    ]
    return trained + [{"stage": f"making {dataset['kind']}", "seconds": dataset["seconds"]} for dataset in datasets]
