"""Where results lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from featuregen.errors import UserError
from featuregen.models import read_model_record
from featuregen.runtime import atomic_path


def dataset_path(folder: Path, base: str, kind: str) -> Path:
    return folder / f"{base}-{kind}.h5"


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
