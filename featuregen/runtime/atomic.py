"""Atomic writes: a file or folder is complete or absent, also after a kill or on a full disk.

Content is first written to a locked `.partial` file in the same folder, which is then renamed. So two runs never write
one file at the same time, and the next run overwrites what a killed one has left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from featuregen.errors import UserError

# Seconds to wait for another run that is writing a small file.
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
    """A path in the same folder to write to; when the block ends, the file is renamed to `path`."""
    target = Path(path)
    partial = partial_path(target)
    with os_errors_as_user_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(partial, LOCK_TIMEOUT):
            yield partial
            # Otherwise a power cut could leave the name without the content.
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, target)
            sync_folder(target.parent)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends, it replaces `target`."""
    partial, old = partial_path(target), target.with_name(f"{target.name}.old")
    with os_errors_as_user_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{target.name}.lock")):
            # A run killed between the two renames below has left no target.
            if old.exists() and not target.exists():
                os.rename(old, target)
            for leftover in (partial, old):
                _remove_folder(leftover)
            partial.mkdir()
            try:
                yield partial
                # Once for all files: one fsync each would take minutes.
                os.sync()
                if target.exists():
                    os.rename(target, old)
                os.rename(partial, target)
            finally:
                if old.exists() and not target.exists():
                    os.rename(old, target)
                for leftover in (partial, old):
                    _remove_folder(leftover)


def _remove_folder(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def os_errors_as_user_errors(target: Path, consequence: str = "what is finished is kept") -> Iterator[None]:
    """Report what the system refuses in one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {target}: {error.strerror or error}; {consequence}.") from None


@contextmanager
def locked(path: Path, timeout: float = 0.0, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file that exists only during the block.

    If another run holds it, wait up to `timeout` seconds; `on_wait` is then called once.
    """
    handle = None
    try:
        for _ in _attempts(path, timeout, on_wait):
            # A signal between the file's creation and the assignment would leave the file behind.
            with _signals_deferred():
                handle = _try_lock(path)
            if handle is not None:
                break
        yield
    finally:
        if handle is not None:
            # Before unlocking, or another run that has just got the lock would lose its file.
            if is_at(handle, path):
                path.unlink()
            unlock(handle)
            os.close(handle)


def lock(path: Path) -> int:
    """Open and lock a file; the lock ends with the process, even if that is killed."""
    handle = _try_lock(path)
    return handle if handle is not None else _refuse_busy(path)


def _attempts(path: Path, timeout: float, on_wait: Callable[[], None] | None) -> Iterator[None]:
    deadline = time.monotonic() + timeout
    yield
    while time.monotonic() < deadline:
        if on_wait:
            on_wait()
            on_wait = None
        time.sleep(0.02)
        yield
    _refuse_busy(path)


def _refuse_busy(path: Path) -> NoReturn:
    raise UserError(f"{path} is being written by another run; wait for it or choose another output.")


def _try_lock(path: Path) -> int | None:
    """The open and locked file; None if another run holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        # Another run may have removed or renamed it in between.
        if is_at(handle, path):
            return handle
        os.close(handle)


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM when the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unlock(handle: int) -> None:
    """Unlock explicitly: a forked child may still have the file open, which would keep the lock."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
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
