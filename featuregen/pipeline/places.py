"""Where results lie, and how they get there whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from featuregen.errors import UserError
from featuregen.models import read_model_record


def dataset_path(folder: Path, base: str, kind: str) -> Path:
    return folder / f"{base}-{kind}.h5"


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def copy_model(cached: Path, path: Path, force: bool) -> Path:
    """The trained model under the name its user asked for."""
    if path.exists() and not force and not _same_training(path, cached):
        raise UserError(f"{path} exists and holds something else; choose another --out, or replace it with --force.")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached, partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}; choose another --out.") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
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
