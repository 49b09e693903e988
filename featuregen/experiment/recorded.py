"""The settings that files record."""

from __future__ import annotations

from pathlib import Path

from featuregen.config import (
    Config,
    Data,
    check_consistency,
    from_dict,
    with_overrides,
)
from featuregen.data import needs_download
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.interop import is_checkpoint, is_model_file
from featuregen.models import read_model_record
from featuregen.storage import (
    read_info,
)


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
