"""Files and folders that appear whole or not at all: no reader, killed run or full disk ever leaves half of one.

While something is written it stands beside its place under the same name and `.partial`, locked. So two runs never
write one file at once, and what a killed run has left is taken over by the next that writes there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from featuregen.errors import UserError

# Seconds: small files are written in no time, so another run that is at one is waited for.
LOCK_TIMEOUT = 5.0


def check_writable(folder: Path) -> None:
    """Asked before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {error.strerror}; choose another --out.") from None


def partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place to write to, in the same folder; when the block ends it takes the path's name."""
    target = Path(path)
    partial = partial_path(target)
    with os_errors_as_user_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(partial, LOCK_TIMEOUT):
            yield partial
            # Without this, a power cut could leave the name without the content.
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, target)
            sync_folder(target.parent)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends it takes the place of the one that is there, if any."""
    partial, old = partial_path(target), target.with_name(f"{target.name}.old")
    with os_errors_as_user_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{target.name}.lock")):
            # A run killed between the two renames below has left its place empty.
            if old.exists() and not target.exists():
                os.rename(old, target)
            for left in (partial, old):
                _remove_folder(left)
            partial.mkdir()
            try:
                yield partial
                # Once for all: that every file waits for the disk by itself would take minutes.
                os.sync()
                if target.exists():
                    os.rename(target, old)
                os.rename(partial, target)
            finally:
                if old.exists() and not target.exists():
                    os.rename(old, target)
                for left in (partial, old):
                    _remove_folder(left)


def _remove_folder(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def os_errors_as_user_errors(target: Path, consequence: str = "what is finished is kept") -> Iterator[None]:
    """What the system refuses, in a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {target}: {error.strerror or error}; {consequence}.") from None


@contextmanager
def locked(path: Path, patience: float = 0.0, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Nobody else is in such a block for this file, which is there as long as the block lasts and gone afterwards.

    Who finds somebody there waits for so many seconds; `waiting` is called once, by who has to.
    """
    handle = lock(path, patience, waiting)
    try:
        yield
    finally:
        # Still under the lock, or another run that has just taken it would lose its file; renamed, it is not there.
        if is_at(handle, path):
            path.unlink()
        unlock(handle)
        os.close(handle)


def lock(path: Path, patience: float = 0.0, waiting: Callable[[], None] | None = None) -> int:
    """Open and lock a file; the lock ends with the process, however that ends."""
    deadline = time.monotonic() + patience
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if time.monotonic() < deadline:
                if waiting:
                    waiting()
                    waiting = None
                time.sleep(0.02)
                continue
            raise UserError(f"{path} is being written by another run; wait for it or choose another output.") from None
        # Another run may have finished and removed or renamed it in between.
        if is_at(handle, path):
            return handle
        os.close(handle)


def unlock(handle: int) -> None:
    """Said outright, since a forked child may still hold the file open and must not keep the lock."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that lies there now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
