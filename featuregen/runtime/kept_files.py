"""Files that a run keeps for the next one: one that is damaged is set aside, and what it held is made again."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from featuregen.config.records import MAX_BYTES, RecordError, read_record
from featuregen.errors import UserError, out_of_memory
from featuregen.runtime.atomic import os_errors_as_user_errors
from featuregen.runtime.console import log
from featuregen.runtime.paths import is_file, kind_of, open_file

_T = TypeVar("_T")
# What the system says to a position that a damaged file names.
_OF_CONTENT = (None, errno.EINVAL, errno.EOVERFLOW)


def read_kept(path: Path, schema: type[_T]) -> _T | None:
    """The record that an earlier run has kept; None where there is none, or a damaged one, which is set aside."""
    if not is_kept(path):
        return None
    try:
        return load_kept(path, schema)
    except RecordError as error:
        set_aside(path, error)
        return None


def load_kept(path: Path, schema: type[_T]) -> _T:
    """The record at a path.

    Raises:
        RecordError: It is damaged.
    """
    if path.is_dir():
        raise RecordError(f"{path} is a folder; move it away.")
    with open_file(path) as file:
        return read_record(file.read(MAX_BYTES + 1), schema, str(path))


def is_kept(path: Path, links: bool = False) -> bool:
    """Whether a file, or a folder in its place, is there and can be read; anything else there is refused."""
    try:
        status = os.stat(path) if links and is_file(path) else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if (kind := kind_of(status)) not in ("", "a folder"):
        raise UserError(f"{path} is {kind} where featuregen keeps a file of its own; move it away.")
    if not os.access(path, os.R_OK):
        raise UserError(f"Cannot read {path}: you have no permission; give it, or move it away.")
    return True


def set_aside(path: Path, error: Exception, reason: str = "") -> None:
    """Rename a damaged file or folder to a free name, and say why; nothing is deleted or overwritten.

    By default the reason is the message of the error, up to its advice, which is being followed.

    Raises:
        Exception: The error itself, where it does not come from the content of the file.
    """
    if not _is_damage(error):
        raise error
    with os_errors_as_user_errors(path):
        for name in _names(path.name):
            place = path.with_name(name)
            try:
                # Making the name first, since renaming alone would overwrite a file that has come meanwhile.
                place.mkdir() if path.is_dir() else place.touch(exist_ok=False)
            except FileExistsError:
                continue
            try:
                os.rename(path, place)
            except OSError as problem:
                place.rmdir() if place.is_dir() else place.unlink()
                # Another process has set it aside.
                if isinstance(problem, FileNotFoundError):
                    return
                raise
            break
    reason = reason or str(error).rpartition("; ")[0] or str(error).rstrip(".")
    log(f"note: {reason}; it is set aside as {place.name}, and made again")


def _names(name: str) -> Iterator[str]:
    yield f"{name}.damaged"
    for number in itertools.count(2):
        yield f"{name}.{number}.damaged"


def _is_damage(error: BaseException | None) -> bool:
    """Whether it is the content that caused an error, and not the system, a lack of memory or Ctrl-C."""
    while error:
        of_system = isinstance(error, OSError) and error.errno not in _OF_CONTENT
        if of_system or isinstance(error, KeyboardInterrupt) or out_of_memory(error):
            return False
        error = error.__cause__ or error.__context__
    return True
