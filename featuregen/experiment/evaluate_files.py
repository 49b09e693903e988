"""Rows of the evaluation table from files: fresh models of a dataset, or a saved model as it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featuregen.config.loader import with_overrides
from featuregen.config.recipes import fresh_recipe
from featuregen.config.schema import Config
from featuregen.config.serialize import shown_name, to_dict
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import config_for
from featuregen.interop.load import is_model_file
from featuregen.models.io import TrainedModel
from featuregen.runtime.distributed import SINGLE_PROCESS, DistInfo
from featuregen.storage.reader import read_info
from featuregen.storage.torch_dataset import FeatureDataset

# A sweep of learning rates without values tries these factors of the recipe's rate.
LR_FACTORS = (0.1, 1 / 3, 1, 3)


def evaluate_file(
    path: Path,
    config: Config | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    recipe: Mapping[str, Any] | None = None,
    out: Path = Path("datasets_out"),
) -> dict[str, Any]:
    """One row of the evaluation table: fresh models of a dataset, or a saved model as it is.

    `recipe` replaces parts of the fresh models' training recipe, such as {"epochs": 10, "augment.crop": 4}.
    """
    settings = config_for(path, config, overrides, values)
    if is_model_file(path):
        if recipe:
            raise UserError(
                f"{path} is a trained model; --epochs, --lr and --sweep are for datasets, on which fresh models train."
            )
        return _evaluate_model(path, Experiment(settings, out))
    data = FeatureDataset(path)
    return _evaluate_dataset(data, Experiment(_with_recipe(settings, data.info.kind, recipe or {}), out))


def _with_recipe(settings: Config, kind: str, recipe: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """The settings with parts of the kind's training recipe replaced."""
    values = {f"fresh.{kind}": to_dict(fresh_recipe(settings, kind))}
    values |= {f"fresh.{kind}.{name}": value for name, value in recipe.items()}
    return with_overrides(settings, overrides, values)


def experiment_on(
    data: FeatureDataset,
    config: Config | None = None,
    *,
    values: Mapping[str, Any],
    overrides: Iterable[str],
    recipe: Mapping[str, Any],
    out: Path,
    dist: DistInfo = SINGLE_PROCESS,
) -> Experiment:
    """The experiment that trains fresh models on a dataset alone.

    `recipe` replaces parts of the kind's training recipe, `overrides` any setting.
    """
    settings = config_for(data.path, config, (), values)
    return Experiment(_with_recipe(settings, data.info.kind, recipe, overrides), out, dist=dist)


def sweep_file(
    path: Path, sweep: Mapping[str, Sequence[Any]], config: Config | None = None, **options: Any
) -> list[dict[str, Any]]:
    """A row for every combination of the values; `lr` without values is tried around the recipe's.

    The rows show accuracy on the test set, so a rate chosen from them is chosen on it.
    """
    if "lr" in sweep and not sweep["lr"]:
        settings = config_for(path, config, options.get("overrides", ()), options.get("values"))
        lr = fresh_recipe(settings, read_info(path).kind).lr
        sweep = {**sweep, "lr": [float(f"{lr * factor:.3g}") for factor in LR_FACTORS]}
    rows = []
    for combination in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, combination, strict=True))
        row = evaluate_file(path, config, **options | {"recipe": {**(options.get("recipe") or {}), **chosen}})
        if chosen:
            title = ", ".join([row["title"], *(f"{name} {value}" for name, value in chosen.items())])
            row |= {"title": title, "sweep": chosen}
        rows.append(row)
    return rows


def _evaluate_model(path: Path, experiment: Experiment) -> dict[str, Any]:
    trained = experiment.load_model(path)
    run = {
        "seed": trained.record.get("settings", {}).get("seed"),
        "train_accuracy": _train_accuracy(trained),
        **experiment.evaluate(trained.model).to_dict(),
    }
    return {
        "key": "model",
        "title": shown_name(path.name),
        "file": shown_name(path),
        "evaluation": to_dict(experiment.config.evaluation),
        "runs": [run],
    }


def _evaluate_dataset(data: FeatureDataset, experiment: Experiment) -> dict[str, Any]:
    kind = data.info.kind
    return {
        "key": kind,
        "title": shown_name(data.path.name),
        "file": shown_name(data.path),
        "content_sha256": data.info.content_sha256,
        "training": to_dict(experiment.fresh_recipe(kind)),
        "evaluation": to_dict(experiment.config.evaluation),
        "test_rows": len(experiment.base.test),
        "runs": [run_record(trained) for trained in experiment.train_fresh(data)],
    }


def run_record(trained: TrainedModel) -> dict[str, Any]:
    """One seed's numbers, as tables and results.json hold them."""
    record = trained.record
    return {
        "seed": record["settings"].get("seed"),
        **{name: record["accuracy"][name] for name in ("clean", "l2", "linf")},
        "train_accuracy": _train_accuracy(trained),
        "seconds": sum(record["seconds"].values()),
    }


def _train_accuracy(trained: TrainedModel) -> float | None:
    """What somebody else's file says of its training cannot be measured again."""
    return None if trained.found else trained.record.get("train_accuracy")
