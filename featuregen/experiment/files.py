"""Files of earlier runs: the settings they record, and models found by their weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from featuregen.config.loader import from_dict, with_overrides
from featuregen.config.schema import Config, Data, check_consistency
from featuregen.data.sources import needs_download
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.interop.load import is_model_file
from featuregen.models.io import read_model_record
from featuregen.runtime.atomic import atomic_path
from featuregen.runtime.torch_files import is_checkpoint
from featuregen.storage.reader import read_info


def find_by_weights(weights: str, folders: Iterable[Path]) -> Path | None:
    """The file of featuregen's with these weights, in one of the folders."""
    for file in (file for folder in dict.fromkeys(folders) for file in sorted(folder.glob("*.safetensors"))):
        # Another file of that ending, or a damaged one, is not what is looked for.
        with suppress(UserError):
            if read_model_record(file)["weights_sha256"] == weights:
                return file
    return None


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


def recorded_config(path: Path) -> Config:
    """The settings a dataset or model was made with, as it records them."""
    if is_checkpoint(path):
        raise UserError(f"{path} was not made by featuregen and records no settings; name them with --config.")
    tree = read_model_record(path)["record"].get("config") if is_model_file(path) else dict(read_info(path).config)
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
