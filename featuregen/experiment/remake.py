"""Remaking a dataset from its own record, and comparing it with the file that is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featuregen.config.kinds import ATTACKED
from featuregen.config.loader import with_overrides
from featuregen.config.recipes import source_recipe
from featuregen.config.schema import Config
from featuregen.config.serialize import to_dict, to_record
from featuregen.data.base_dataset import SPLITS
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.evaluation.attack_run import AttackRun, attack_to_file, inputs_from_split
from featuregen.experiment.dataset_job import Shard
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import find_by_weights, recorded_config
from featuregen.models.io import TrainedModel
from featuregen.runtime.console import log
from featuregen.runtime.device import resolve_device
from featuregen.storage.diff import DatasetDiff, diff
from featuregen.storage.reader import DatasetInfo, read_info
from featuregen.synthesis.kinds import find_kind


@dataclass(frozen=True)
class RemakeResult:
    """Where the new file is, and how it compares with the old one."""

    path: Path
    comparison: DatasetDiff


def remake(
    path: Path,
    out: Path | None = None,
    *,
    data: str | None = None,
    source: Path | None = None,
    device: str | None = None,
    force: bool = False,
) -> RemakeResult:
    """Make a dataset again from its own record, and compare the two files.

    The record names the base dataset by its digest, the source model by its weights, and every setting and seed. A
    source model beside either file, or in a `models` folder there, is found by its weights; otherwise it is trained
    again. The new file is written beside the old one, unless `out` says where.
    """
    info = read_info(path)
    out = out or path.with_name(f"{path.stem}-remade.h5")
    if out.exists() and out.samefile(path):
        raise UserError(f"--out {out} is the file itself; choose another.")
    experiment = _recorded_experiment(info, out.parent, data, device)
    if info.kind == ATTACKED:
        _attack_again(info, experiment, out, source, force)
    else:
        _synthesize_again(info, experiment, out, source, force)
    return RemakeResult(out, diff(path, out))


def _recorded_experiment(info: DatasetInfo, folder: Path, data: str | None, device: str | None) -> Experiment:
    if "imported" in info.recipe:
        raise UserError(f"{info.path} was imported, so its record does not say how to make it; there is nothing to do.")
    if info.kind == ATTACKED and "attack" not in info.recipe:
        raise UserError(f"{info.path} does not record the attack that made it; get it again, or attack a model again.")
    split = _recorded_split(info)
    if split not in SPLITS:
        raise UserError(
            f"{info.path} was made from the rows of {info.base.get('name')}, another dataset; attack that one again."
        )
    config = _recorded_settings(info, data, device)
    base = load_images(config.data)
    digest = base.split(split).sha256
    if digest != info.base.get("sha256"):
        raise UserError(
            f"{info.path} was made from {info.base.get('name')} with digest {str(info.base.get('sha256'))[:12]}, but "
            f"{config.data.name} has {digest[:12]}; name its base set with --data."
        )
    return Experiment(config, folder, base=base)


def _recorded_split(info: DatasetInfo) -> str:
    return str(info.base.get("split", "train"))


def _recorded_settings(info: DatasetInfo, data: str | None, device: str | None) -> Config:
    """Every setting as recorded, with the recorded arithmetic and number of threads instead of the fastest here."""
    recipe, software = info.recipe, info.software
    made_on = str(software.get("device", "cpu")).partition(" ")[0]
    values: dict[str, Any] = {
        "seed": recipe.get("seed"),
        "runtime.device": device or made_on,
        "runtime.precision": recipe.get("precision"),
        "runtime.convolution": recipe.get("convolution"),
        "runtime.compile": recipe.get("compiled") == "yes",
        "runtime.threads": software.get("threads"),
        "data.name": data,
    }
    if info.kind != ATTACKED:
        values[f"synthesis.{info.kind}"] = recipe.get("synthesis")
    config = recorded_config(info.path, values={k: value for k, value in values.items() if value is not None})
    if resolve_device(config.runtime.device).type != made_on:
        log(f"note: {info.path} was made on {made_on}, so images may differ in their last bits")
        config = with_overrides(config, (), {"runtime.convolution": "direct"})
    return config


def _synthesize_again(info: DatasetInfo, experiment: Experiment, out: Path, source: Path | None, force: bool) -> None:
    role, config = find_kind(info.kind).source, experiment.config
    recipe, _ = source_recipe(config, role)
    trained = info.source_model.get("settings", {})
    model = _find_model(info, info.source_model.get("weights_sha256"), experiment, out, source)
    same_training = (trained.get("training"), trained.get("model")) == (to_dict(recipe), to_dict(config.model))
    if model is None and not same_training:
        raise UserError(
            f"{info.path} was made with a model that its record cannot train again (weights "
            f"{str(info.source_model.get('weights_sha256'))[:12]}); give it with --source."
        )
    mark = info.recipe.get("shard")
    shard = Shard(mark["number"], mark["of"]) if mark else None
    job = experiment.dataset_job(info.kind, shard, batch=_recorded_batch(info))
    experiment.write_dataset(job, out, model, force)


def _attack_again(info: DatasetInfo, experiment: Experiment, out: Path, source: Path | None, force: bool) -> None:
    chosen = dict(info.recipe["attack"])
    name, target_class = chosen.pop("name"), chosen.pop("target")
    target = _require_model(info, info.source_model.get("weights_sha256"), experiment, out, source)
    origin = (
        _require_model(info, found_on, experiment, out, None) if (found_on := info.recipe.get("found_on")) else None
    )
    config = experiment.config
    inputs = inputs_from_split(experiment.base, _recorded_split(info), info.rows, config.seed, experiment.device)
    attack_to_file(
        out, AttackRun(target, inputs, name, chosen, target_class, origin, info.dtype), seed=config.seed,
        batch_size=config.evaluation.batch_size, compute=experiment.compute, config=to_record(config), force=force,
    )  # fmt: skip


def _require_model(
    info: DatasetInfo, weights: str | None, experiment: Experiment, out: Path, path: Path | None
) -> TrainedModel:
    if model := _find_model(info, weights, experiment, out, path):
        return model
    raise UserError(
        f"{info.path} shows an attack on a model (weights {str(weights)[:12]}) that is neither beside it nor in a "
        "models folder there; put it there, or name the attacked one with --source."
    )


def _find_model(
    info: DatasetInfo, weights: str | None, experiment: Experiment, out: Path, path: Path | None
) -> TrainedModel | None:
    """The model of these weights: the one at the path, or one in a folder near either file."""
    if path:
        model = experiment.load_model(path)
        if (digest := model.weights_sha256) != weights:
            raise UserError(
                f"{path} has weights {digest[:12]}, and {info.path} was made with {str(weights)[:12]}; give that one."
            )
        return model
    folders = [file.parent / folder for file in (out, info.path) for folder in ("", "models", "../models")]
    found = find_by_weights(weights, folders) if weights else None
    return experiment.load_model(found) if found else None


def _recorded_batch(info: DatasetInfo) -> int:
    """As many rows at once as recorded; where memory ran out meanwhile, as many as the run began with."""
    words = str(info.software.get("batch", "0")).partition(",")[0]
    return int(words) if words.isdecimal() and len(words) < 10 else 0
