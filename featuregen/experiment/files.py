"""Files of earlier runs: the settings and rows they record, and models found by their weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from featuregen.config.loader import from_dict, with_overrides
from featuregen.config.schema import Config, Data, check_consistency
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.sources import NAMED_SETS
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.interop.load import is_model_file
from featuregen.models.io import read_model_record
from featuregen.runtime.atomic import atomic_path
from featuregen.runtime.torch_files import is_checkpoint
from featuregen.storage.reader import read_info
from featuregen.storage.schema import Array, CorruptFile


def find_by_weights(weights: str, folders: Iterable[Path]) -> Path | None:
    """The file of featuregen's with these weights, in one of the folders."""
    for file in (file for folder in dict.fromkeys(folders) for file in sorted(folder.glob("*.safetensors"))):
        # Another file of that ending, or a damaged one, is not what is looked for.
        with suppress(UserError):
            if read_model_record(file)["weights_sha256"] == weights:
                return file
    return None


def check_base_rows(path: Path, columns: Mapping[str, Array], base: BaseDataset) -> None:
    """Refuse a dataset whose columns name rows that the training images do not have."""
    rows = len(base.train)
    for name, values in columns.items():
        if (beyond := values >= rows).any():
            row = int(beyond.argmax())
            raise CorruptFile(
                f"{path}: column '{name}' is damaged: row {row} holds {values[row]}, and {base.name} has {rows} "
                "training images."
            )


def copy_model(cached: Path, path: Path, force: bool) -> Path:
    """The trained model under the name its user asked for."""
    if path.exists() and not force and not _same_training(path, cached):
        raise UserError(f"{path} exists and holds something else; choose another --out, or replace it with --force.")
    with atomic_path(path) as partial:
        shutil.copyfile(cached, partial)
    return path


def _same_training(path: Path, cached: Path) -> bool:
    """Whether two files hold the same model, whatever machine it was trained on and however long that took."""
    try:
        there, here = read_model_record(path), read_model_record(cached)
    except UserError:
        return False
    for header in (there, here):
        for name in ("seconds", "software", "config"):
            header["record"].pop(name, None)
    return there == here


def recorded_config(path: Path, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """The settings a dataset or model was made with, as it records them, some of them replaced.

    A path in the record is that of another machine, or a stranger's, and is never followed: a base set that featuregen
    does not know by name must be given.
    """
    if is_checkpoint(path):
        raise UserError(f"{path} was not made by featuregen and records no settings; name them with --config.")
    tree = read_model_record(path)["record"].get("config") if is_model_file(path) else dict(read_info(path).config)
    if not tree:
        raise UserError(f"{path} records no settings to go by; name a config with --config, or make the file again.")
    recorded = from_dict(Config, tree, f"{path}, recorded settings")
    check_consistency(recorded)
    known = recorded.data.name in NAMED_SETS
    own = {
        "data.name": recorded.data.name if known else "",
        "data.folder": Data().folder,
        "sources.standard_from": "",
        "sources.robust_from": "",
        # A dataset made on a GPU is read on a laptop.
        "runtime.device": "auto",
    }
    config = with_overrides(recorded, overrides, {**own, **(values or {})})
    if not config.data.name:
        name = PurePath(recorded.data.name).name
        raise UserError(
            f"{path} was made from the base set {name}, which featuregen cannot find by itself; name it with --data."
        )
    return config


def config_for(
    path: Path, config: Config | None, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """The settings to use with a file: the given ones, or else those it records; some of them replaced."""
    return with_overrides(config, overrides, values or {}) if config else recorded_config(path, overrides, values)


def experiment_of(path: Path, data: str | None, out: Path | None = None) -> Experiment:
    """An experiment with the file's own settings, on its own base set or the one given."""
    return Experiment(recorded_config(path, values={"data.name": data} if data else {}), out or path.parent)
