"""Atomic writes: a file or folder is complete or absent, also after a kill or on a full disk.

Content is first written under a temporary name in the same folder, and then renamed. The temporary name says that it is
featuregen's, and it is locked: two runs never write one file at the same time, and the next run takes over what a
killed one has left. Nothing is written through a link, and nothing is deleted that featuregen has not made.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from featuregen.errors import UserError
from featuregen.runtime.paths import check_output_file, check_output_folder, kind_of

# Seconds to wait for another run that is writing a small file.
LOCK_TIMEOUT = 5.0
# A temporary folder that holds this file is featuregen's own, and the next run may remove it.
_MARK = "made-by-featuregen"
_MARK_TEXT = b"featuregen writes a folder here, or was stopped while it did. The next run removes this.\n"


def check_writable(folder: Path) -> None:
    """Asked before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {error.strerror}; choose another --out.") from None


def partial_path(path: Path) -> Path:
    """Where a file or folder is written before it is complete."""
    return path.with_name(f".{path.name}.featuregen-partial")


def lock_path(path: Path) -> Path:
    """The empty file that is locked while a run works on `path`."""
    return path.with_name(f".{path.name}.featuregen-lock")


# Files ---------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | os.PathLike[str], consequence: str = "what is finished is kept") -> Iterator[Path]:
    """A path in the same folder to write to; when the block ends, the file is renamed to `path`."""
    target = Path(path)
    partial = partial_path(target)
    with os_errors_as_user_errors(target, consequence):
        check_output_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked_file(partial, LOCK_TIMEOUT, target) as handle:
            os.ftruncate(handle, 0)
            yield partial
            if not is_at(handle, partial):
                raise UserError(f"{partial} was replaced while it was written, so {target} is not; run it again.")
            # Otherwise a power cut could leave the name without the content.
            os.fsync(handle)
            os.replace(partial, target)
            sync_folder(target.parent)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def remove_partial(path: Path) -> None:
    """Remove what a killed run has left of writing a file."""
    partial = partial_path(path)
    if os.path.lexists(partial):
        # Whoever has locked the file last removes it.
        with _locked_file(partial, LOCK_TIMEOUT, path):
            pass


# Folders -------------------------------------------------------------------------------------------


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends, it replaces `target`."""
    with os_errors_as_user_errors(target):
        check_output_folder(target)
        # A name for the temporary folder is made from that of the target. Of a link to itself, Path.resolve raises what
        # is no OSError before Python 3.13.
        target = target if target.name not in ("", "..") else Path(os.path.realpath(target))
        work = partial_path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked_file(lock_path(target), 0.0, target, empty=True):
            _remove_work(work, target)
            work.mkdir()
            try:
                (work / _MARK).write_bytes(_MARK_TEXT)
                (work / "new").mkdir()
                yield work / "new"
                # Once for all files: one fsync each would take minutes.
                os.sync()
                if target.exists():
                    os.rename(target, work / "old")
                os.rename(work / "new", target)
            finally:
                _remove_work(work, target)


def _remove_work(work: Path, target: Path) -> None:
    """Remove a temporary folder; if a run was stopped between its two renames, the old folder goes back."""
    if not os.path.lexists(work):
        return
    names = os.listdir(work) if _is_real_folder(work) else []
    # A run may have been stopped before it had made the mark.
    if not _is_real_folder(work) or (names and not _is_mark(work / _MARK)):
        raise UserError(f"{work} is no temporary folder of featuregen's; move it away, or choose another output.")
    if _is_real_folder(work / "old") and not os.path.lexists(target):
        os.rename(work / "old", target)
    # The mark last: if this is stopped, the next run still knows the folder.
    for path in sorted((work / name for name in names), key=lambda path: path.name == _MARK):
        if _is_real_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    work.rmdir()


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_mark(path: Path) -> bool:
    """Also one that a stop or a full disk has cut short."""
    return path.is_file() and not path.is_symlink() and _MARK_TEXT.startswith(path.read_bytes()[: len(_MARK_TEXT) + 1])


@contextmanager
def os_errors_as_user_errors(target: Path, consequence: str = "what is finished is kept") -> Iterator[None]:
    """Report what the system refuses in one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {target}: {error.strerror or error}; {consequence}.") from None


# Locks ---------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, timeout: float = 0.0, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on an empty file that exists only during the block.

    If another run holds it, wait up to `timeout` seconds; `on_wait` is then called once.
    """
    with _locked_file(path, timeout, path, on_wait, empty=True):
        yield


@contextmanager
def _locked_file(
    path: Path, timeout: float, target: Path, on_wait: Callable[[], None] | None = None, empty: bool = False
) -> Iterator[int]:
    """An open and locked file that exists only during the block; `target` is what it is locked for."""
    handle = None
    try:
        for _ in _attempts(target, timeout, on_wait):
            # A signal between the file's creation and the assignment would leave the file behind.
            with _signals_deferred():
                handle = _try_lock(path, empty)
            if handle is not None:
                break
        if handle is None:
            _refuse_busy(target)
        yield handle
    finally:
        if handle is not None:
            # Before unlocking, or another run that has just got the lock would lose its file.
            if is_at(handle, path) and not (empty and os.fstat(handle).st_size):
                path.unlink()
            unlock(handle)
            os.close(handle)


def lock(path: Path) -> int:
    """Open and lock a file; the lock ends with the process, even if that is killed."""
    handle = _try_lock(path)
    return handle if handle is not None else _refuse_busy(path)


def _attempts(target: Path, timeout: float, on_wait: Callable[[], None] | None) -> Iterator[None]:
    deadline = time.monotonic() + timeout
    yield
    while time.monotonic() < deadline:
        if on_wait:
            on_wait()
            on_wait = None
        time.sleep(0.02)
        yield
    _refuse_busy(target)


def _refuse_busy(target: Path) -> NoReturn:
    raise UserError(f"{target} is being written by another run; wait for it or choose another output.")


def _try_lock(path: Path, empty: bool = False) -> int | None:
    """The open and locked file; None if another run holds the lock."""
    while True:
        handle = _open_own(path, empty)
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


def _open_own(path: Path, empty: bool) -> int:
    """A regular file, open for writing, made where nothing is; anything that may not be featuregen's is refused."""
    with suppress(FileNotFoundError):
        _check_own(path, os.lstat(path), empty)
    # Without following a link, and without waiting for a pipe, that may have come since.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        _check_own(path, os.fstat(handle), empty)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_own(path: Path, status: os.stat_result, empty: bool) -> None:
    kind = kind_of(status)
    if not kind and status.st_nlink > 1:
        kind = "one of several names of a file"
    if not kind and empty and status.st_size:
        kind = f"a file of {status.st_size} bytes"
    if kind:
        wanted = "an empty file of its own" if empty else "a file of its own"
        raise UserError(f"{path} is {kind} where featuregen needs {wanted}; move it away, or choose another output.")


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
    """Whether the open file itself, and no link to it, is at this path."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
