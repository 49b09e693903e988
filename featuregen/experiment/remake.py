"""A dataset made again from nothing but its own record, and held against the one that is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featuregen.config import ATTACKED, Config, to_dict, with_overrides
from featuregen.data import SPLITS, load_images
from featuregen.errors import UserError
from featuregen.experiment.attack_run import AttackRun, attack_to_file, inputs_from_split
from featuregen.experiment.dataset_job import Shard
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import recorded_config
from featuregen.experiment.paths import find_by_weights
from featuregen.experiment.records import TrainedModel
from featuregen.models import weights_sha256
from featuregen.runtime import log, resolve_device
from featuregen.storage import DatasetDiff, DatasetInfo, read_info
from featuregen.storage.diff import diff
from featuregen.synthesis import RULES


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
    """Base set by its digest, source model by its weights or its settings, every setting and seed from the file.

    A source model that lies beside either file, or in a `models` folder there, is found by its weights; otherwise it
    is trained again. The new file comes beside the old one, unless `out` says where.
    """
    info = read_info(path)
    out = out or path.with_name(f"{path.stem}-remade.h5")
    if out.exists() and out.samefile(path):
        raise UserError(f"--out {out} is the file itself; choose another.")
    experiment = _experiment(info, out.parent, data, device)
    if info.kind == ATTACKED:
        _attack_again(info, experiment, out, source, force)
    else:
        _synthesize_again(info, experiment, out, source, force)
    return RemakeResult(out, diff(path, out))


def _experiment(info: DatasetInfo, folder: Path, data: str | None, device: str | None) -> Experiment:
    if "imported" in info.recipe:
        raise UserError(f"{info.path} was imported, so its record does not say how to make it; there is nothing to do.")
    part = info.base.get("split", "train")
    if part not in SPLITS:
        raise UserError(
            f"{info.path} was made from the rows of {info.base.get('name')}, another dataset; attack that one again."
        )
    config = _recorded(info, data, device)
    base = load_images(config.data)
    found = base.split(part).sha256
    if found != info.base.get("sha256"):
        raise UserError(
            f"{info.path} was made from {info.base.get('name')} with digest {str(info.base.get('sha256'))[:12]}, but "
            f"{config.data.name} has {found[:12]}; name its base set with --data."
        )
    return Experiment(config, folder, base)


def _recorded(info: DatasetInfo, data: str | None, device: str | None) -> Config:
    """Every setting as it was; the arithmetic too, rather than what is fastest here, and as many threads."""
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
    config = with_overrides(
        recorded_config(info.path), (), {k: value for k, value in values.items() if value is not None}
    )
    if resolve_device(config.runtime.device).type != made_on:
        log(f"note: {info.path} was made on {made_on}, so images may differ in their last bits")
        config = with_overrides(config, (), {"runtime.convolution": "direct"})
    return config


def _synthesize_again(info: DatasetInfo, experiment: Experiment, out: Path, source: Path | None, force: bool) -> None:
    which = RULES[info.kind].source
    recipe = experiment.config.sources.robust if which == "robust" else experiment.config.sources.standard
    trained = info.source_model.get("settings", {})
    maker = _found(info, info.source_model.get("weights_sha256"), experiment, out, source)
    if maker is None and (trained.get("training"), trained.get("model")) != (
        to_dict(recipe),
        to_dict(experiment.config.model),
    ):
        raise UserError(
            f"{info.path} was made with a model that its record cannot train again (weights "
            f"{str(info.source_model.get('weights_sha256'))[:12]}); give it with --source."
        )
    mark = info.recipe.get("shard")
    shard = Shard(mark["number"], mark["of"]) if mark else None
    experiment.make(info.kind, out, maker, force, shard, batch=_batch(info))


def _attack_again(info: DatasetInfo, experiment: Experiment, out: Path, source: Path | None, force: bool) -> None:
    chosen = dict(info.recipe["attack"])
    name, wanted = chosen.pop("name"), chosen.pop("target")
    target = _needed(info, info.source_model.get("weights_sha256"), experiment, out, source)
    origin = _needed(info, found_on, experiment, out, None) if (found_on := info.recipe.get("found_on")) else None
    inputs = inputs_from_split(experiment, info.base["split"], info.rows)
    attack_to_file(out, experiment, AttackRun(target, inputs, name, chosen, wanted, origin, info.dtype), force)


def _needed(
    info: DatasetInfo, weights: str | None, experiment: Experiment, out: Path, given: Path | None
) -> TrainedModel:
    if found := _found(info, weights, experiment, out, given):
        return found
    raise UserError(
        f"{info.path} shows an attack on a model (weights {str(weights)[:12]}) that lies neither beside it nor in a "
        "models folder there; put it there, or name the attacked one with --source."
    )


def _found(
    info: DatasetInfo, weights: str | None, experiment: Experiment, out: Path, given: Path | None
) -> TrainedModel | None:
    """The model of these weights."""
    if given:
        there = experiment.load_source(given)
        if (digest := weights_sha256(there.model)) != weights:
            raise UserError(
                f"{given} has weights {digest[:12]}, and {info.path} was made with {str(weights)[:12]}; give that one."
            )
        return there
    folders = [file.parent / folder for file in (out, info.path) for folder in ("", "models", "../models")]
    found = find_by_weights(weights, folders) if weights else None
    return experiment.load_source(found) if found else None


def _batch(info: DatasetInfo) -> int:
    """As many rows at once as then; where memory ran out meanwhile, as many as it began with."""
    words = str(info.software.get("batch", "0")).partition(",")[0]
    return int(words) if words.isdecimal() else 0
