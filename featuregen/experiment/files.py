"""Commands on files that exist: evaluate them, verify them, find the settings and the base set they came from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featuregen.config import (
    Config,
    Data,
    Training,
    check_consistency,
    fresh_recipe,
    from_dict,
    to_dict,
    with_overrides,
)
from featuregen.data import SPLITS, BaseDataset, load_images, needs_download
from featuregen.errors import UserError
from featuregen.evaluation import predict
from featuregen.experiment.experiment import FRESH_SEED, Experiment
from featuregen.experiment.records import LabelledImages, TrainedModel
from featuregen.interop import is_checkpoint, load_checkpoint
from featuregen.models import load_model, read_model_record, weights_sha256
from featuregen.runtime import SINGLE_PROCESS, DistInfo, configure_process, log, resolve_device
from featuregen.storage import (
    Check,
    DatasetInfo,
    FeatureDataset,
    check_against_base,
    check_file,
    check_sums,
    read_columns,
    read_info,
)

MODEL_SUFFIX = ".safetensors"
# Around a recipe's own rate: a tenth, a third and three times as much.
LR_FACTORS = (0.1, 1 / 3, 1, 3)


def is_model(path: Path) -> bool:
    """Ours, or a checkpoint of robustness."""
    return path.suffix == MODEL_SUFFIX or is_checkpoint(path)


def describe_model_file(path: Path) -> dict[str, Any]:
    """What a saved model, or a checkpoint of robustness, says of itself."""
    if not is_checkpoint(path):
        return read_model_record(path)
    model, record = load_checkpoint(path)
    return {
        "architecture": model.architecture,
        "image_shape": model.image_shape,
        "classes": model.classes,
        "weights_sha256": weights_sha256(model),
        "record": record,
    }


def recorded_config(path: Path) -> Config:
    """The settings a dataset or model was made with, as it records them."""
    if is_checkpoint(path):
        raise UserError(f"{path} was not made by featuregen and records no settings; name them with --config.")
    tree = read_model_record(path)["record"].get("config") if is_model(path) else dict(read_info(path).config)
    if not tree:
        raise UserError(f"{path} records no settings to go by; name a config with --config, or make the file again.")
    config = from_dict(Config, tree, f"{path}, recorded settings")
    check_consistency(config)
    # A dataset made on a GPU is read on a laptop; and no file says where on it a download is written.
    own = {"data.folder": Data().folder} if needs_download(config.data) else {}
    return with_overrides(config, values={"runtime.device": "auto", **own})


def experiment_of(path: Path, data: str | None, out: Path | None = None) -> Experiment:
    """A workshop with the file's own settings, on its own base set or the one given."""
    config = with_overrides(recorded_config(path), (), {"data.name": data} if data else {})
    return Experiment(config, out or path.parent)


# Evaluating ----------------------------------------------------------------------------------------


def evaluate_path(
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
    settings = with_overrides(config or recorded_config(path), overrides, values or {})
    if is_model(path):
        if recipe:
            raise UserError(
                f"{path} is a trained model; --epochs, --lr and --sweep are for datasets, on which fresh models train."
            )
        return _evaluate_model(path, Experiment(settings, out))
    kind = read_info(path).kind
    return _evaluate_dataset(path, kind, Experiment(_with_recipe(settings, kind, recipe or {}), out))


def _with_recipe(settings: Config, kind: str, recipe: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """The settings with parts of the kind's training recipe replaced."""
    given = {f"fresh.{kind}": to_dict(fresh_recipe(settings, kind))}
    given |= {f"fresh.{kind}.{name}": value for name, value in recipe.items()}
    return with_overrides(settings, overrides, given)


def fresh_training_of(
    path: Path,
    config: Config | None = None,
    *,
    values: Mapping[str, Any],
    overrides: Iterable[str],
    recipe: Mapping[str, Any],
    out: Path,
    dist: DistInfo = SINGLE_PROCESS,
) -> tuple[Experiment, LabelledImages, Training, int]:
    """What trains a fresh model on a dataset alone: the place, the examples, the recipe, and the first model's seed.

    `recipe` replaces parts of the recipe, `overrides` any setting.
    """
    kind = read_info(path).kind
    settings = with_overrides(config or recorded_config(path), (), values)
    experiment = Experiment(_with_recipe(settings, kind, recipe, overrides), out, dist=dist)
    return experiment, experiment.examples(path), experiment.fresh_recipe(kind), experiment.config.seed + FRESH_SEED


def sweep_path(
    path: Path, sweep: Mapping[str, Sequence[Any]], config: Config | None = None, **options: Any
) -> list[dict[str, Any]]:
    """A row for every combination of the values, all of them told; `lr` without values is tried around the recipe's.

    The test set does the telling, so a rate chosen from these rows is chosen on it.
    """
    if "lr" in sweep and not sweep["lr"]:
        settings = with_overrides(
            config or recorded_config(path), options.get("overrides", ()), options.get("values") or {}
        )
        lr = fresh_recipe(settings, read_info(path).kind).lr
        sweep = {**sweep, "lr": [float(f"{lr * factor:.3g}") for factor in LR_FACTORS]}
    rows = []
    for combination in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, combination, strict=True))
        row = evaluate_path(path, config, **options | {"recipe": {**(options.get("recipe") or {}), **chosen}})
        if chosen:
            title = ", ".join([row["title"], *(f"{name} {value}" for name, value in chosen.items())])
            row |= {"title": title, "sweep": chosen}
        rows.append(row)
    return rows


def _evaluate_model(path: Path, experiment: Experiment) -> dict[str, Any]:
    found = experiment.load_source(path)
    record = found.record
    run = {
        "seed": record.get("settings", {}).get("seed"),
        "train_accuracy": record.get("train_accuracy"),
        **experiment.evaluate(found.model).to_dict(),
    }
    return {
        "key": "model",
        "title": path.name,
        "file": str(path),
        "evaluation": to_dict(experiment.config.evaluation),
        "runs": [run],
    }


def _evaluate_dataset(path: Path, kind: str, experiment: Experiment) -> dict[str, Any]:
    data, recipe = experiment.examples(path), experiment.fresh_recipe(kind)
    runs = [run_record(trained) for trained in experiment.fresh(data, recipe, experiment.config.evaluation.seeds, kind)]
    return {
        "key": kind,
        "title": path.name,
        "file": str(path),
        "content_sha256": data.sha256,
        "training": to_dict(recipe),
        "evaluation": to_dict(experiment.config.evaluation),
        "test_rows": len(experiment.base.test),
        "runs": runs,
    }


def run_record(trained: TrainedModel) -> dict[str, Any]:
    """One seed's numbers, as tables and results.json hold them."""
    record = trained.record
    return {
        "seed": record["settings"]["seed"],
        **{name: record["accuracy"][name] for name in ("clean", "l2", "linf")},
        "train_accuracy": record["train_accuracy"],
        "seconds": sum(record["seconds"].values()),
    }


# Verifying -----------------------------------------------------------------------------------------


def verify_file(path: Path, data: str | None = None, source: Path | None = None) -> list[Check]:
    """What the file and a SHA256SUMS beside it can prove, then against its base set, then against its source model."""
    checks = check_file(path) + check_sums(path)
    if all(check.ok for check in checks):
        config = with_overrides(recorded_config(path), (), {"data.name": data} if data else {})
        try:
            base = load_images(config.data)
        except UserError as error:
            if data:
                raise
            # Nobody asked for it, and the rest can be checked without.
            base = None
            log(f"note: {path} is not held against its base images; with --data it will be. {error}")
            checks.append(Check("base images", True, "not looked at, since they are not here"))
        checks += verify_origin(path, config, base, source)
    return checks


def verify_origin(path: Path, config: Config, base: BaseDataset | None, source: Path | None) -> list[Check]:
    """An undamaged file against its base set where that is here, then against its source model."""
    info = read_info(path)
    checks = _check_base(path, info, config, base) if base else []
    return checks + (_check_success(path, info, config, source) if source else [])


def _check_base(path: Path, info: DatasetInfo, config: Config, base: BaseDataset) -> list[Check]:
    part = info.base.get("split", "train")
    if part not in SPLITS:
        return [Check("base rows", True, f"made from rows of {info.base.get('name')}, which is not looked at")]
    split = base.split(part)
    if split.sha256 != info.base.get("sha256"):
        raise UserError(
            f"{path} was made from {info.base.get('name')} with digest {str(info.base.get('sha256'))[:12]}, but "
            f"{config.data.name} has {split.sha256[:12]}; name its base set with --data."
        )
    return check_against_base(path, split.images, split.labels)


def _check_success(path: Path, info: DatasetInfo, config: Config, source: Path) -> list[Check]:
    if not info.source_model:
        raise UserError(f"{path} records no source model to compare with; leave out --source.")
    device = resolve_device(config.runtime.device)
    configure_process(config.runtime.threads)
    model, _ = (load_checkpoint if is_checkpoint(source) else load_model)(source, device)
    if (model.image_shape, model.classes) != (info.image_shape, len(info.classes)):
        raise UserError(
            f"{source} takes images of shape {model.image_shape} in {model.classes} classes, but {path} has "
            f"{info.image_shape} in {len(info.classes)}; give its source model."
        )
    digest, recorded = weights_sha256(model), info.source_model.get("weights_sha256")
    columns = read_columns(path, ["labels", "source_pred"])
    seen = predict(model, FeatureDataset(path).images.to(device)).cpu().numpy()
    differ = int((seen != columns["source_pred"]).sum())
    success = float(np.mean(seen == columns["labels"]))
    # Another machine may round a prediction on the border the other way: one row in two hundred, and no more.
    return [
        Check("source model", digest == recorded, f"weights {digest[:12]}, recorded {str(recorded)[:12]}"),
        Check(
            "success recomputed",
            differ <= max(1, info.rows // 200) and abs(success - info.success_rate) <= 0.005,
            f"{success:.4f}, recorded {info.success_rate:.4f}; {differ} of {info.rows} predictions differ",
        ),
    ]
