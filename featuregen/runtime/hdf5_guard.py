"""Opening HDF5 files that a stranger may have made: HDF5 reads them first in a process that may crash or hang.

With a few bytes changed, a file makes the library crash, loop for ever or take all memory, and no signal ends a loop in
it. So a program, `hdf5_probe`, reads each file before this process does, but only once: what a user has written or read
on this machine is opened at once.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import h5py

from featuregen.errors import UserError
from featuregen.runtime.ledger import is_remembered, remember

# Device, inode, size, time of the last change of the content and of the inode.
FileKey = tuple[int, int, int, int, int]

# A file takes milliseconds; a packed one, seconds for each hundred megabytes.
_CPU_SECONDS, _BYTES_PER_SECOND = 3, 1 << 22
_WAITING = 60
# Beyond the largest part of a file that is read at once, and beyond what the library takes for any file.
_MEMORY, _MAX_PART = 1 << 26, 1 << 26
# A change within one tick of a file system's clock may leave the times as they are.
_TICK = 100_000_000
_ATTEMPTS = 3


class Hdf5Error(RuntimeError):
    """What is wrong with a file, as a clause."""


def open_hdf5(path: Path, names: Sequence[str], known: FileKey | None = None) -> h5py.File:
    """An open file of which HDF5 has read, in another process, what will be read: attributes and the data sets `names`.

    Args:
        known: The key of a file that another process has opened so.

    Raises:
        Hdf5Error: HDF5 crashes, hangs or takes too much memory on this file, or finds something wrong.
        OSError: There is no such file, or it may not be read.
    """
    for _ in range(_ATTEMPTS):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Hdf5Error("it is no regular file")
        key = _key(status)
        if key != known and not is_known(key, names):
            _probe(path, names, key)
        root = h5py.File(path, "r", locking=False)
        if key_of(root) == key:
            return root
        root.close()
    raise Hdf5Error("it was replaced while it was opened")


def key_of(root: h5py.File) -> FileKey:
    """What tells an open file from one that replaces it or from a later state of it."""
    return _key(os.fstat(root.id.get_vfd_handle()))


def _key(status: os.stat_result) -> FileKey:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


# Which files are known -------------------------------------------------------------------------------

_problems: dict[tuple[FileKey, tuple[str, ...]], str] = {}


def is_known(key: FileKey, names: Sequence[str]) -> bool:
    """Whether HDF5 can read the file, and these data sets of it, in this process."""
    return is_remembered("HDF5 file", _entry(key, names))


def remember_known(key: FileKey, names: Sequence[str]) -> None:
    remember("HDF5 file", _entry(key, names))


def _entry(key: FileKey, names: Sequence[str]) -> list[str | int]:
    # Another version of the library may fail where this one does not.
    return [h5py.version.hdf5_version, *key, *names]


def remember_written(path: Path, names: Sequence[str]) -> None:
    """Note that this process has written the file, with these data sets."""
    # The kernel's clock ticks so slowly that a later change could leave the time as it is; it never has this one.
    now = time.time_ns()
    # Otherwise it is read like any other.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(now, now))
        status = os.stat(path)
        if status.st_mtime_ns == now:
            remember_known(_key(status), names)


# The other process -----------------------------------------------------------------------------------


class _Server:
    def __init__(self) -> None:
        program = [sys.executable, "-P", str(Path(__file__).with_name("hdf5_probe.py"))]
        # A session of its own, since Ctrl-C reaches all processes of one.
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
            env=_environment(), start_new_session=True,
        )  # fmt: skip

    def ask(self, request: dict[str, Any], seconds: float) -> str | None:
        """The answer.

        Raises:
            EOFError: The process has ended.
            TimeoutError: There is no answer after so many seconds.
        """
        stdin, stdout = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        said, deadline = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError
                data = os.read(stdout.fileno(), 1 << 16)
                if not data:
                    raise EOFError
                said += data
        problem: str | None = json.loads(said)
        return problem

    def end(self) -> None:
        # The process that reads a file is one of its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this process's ends of the pipes."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


_server: _Server | None = None
_lock = threading.Lock()


def _probe(path: Path, names: Sequence[str], key: FileKey) -> None:
    what = (key, tuple(names))
    if what in _problems:
        raise Hdf5Error(_problems[what])
    size, changed = key[2], max(key[3:])
    settled = time.time_ns() - changed > _TICK
    seconds = _CPU_SECONDS + size // _BYTES_PER_SECOND
    request = {
        "path": os.path.abspath(path),
        "names": list(names),
        "cpu_seconds": seconds,
        "seconds": _WAITING + 4 * seconds,
        "memory": _MEMORY + 3 * min(size, _MAX_PART),
    }
    with _lock:
        problem = _ask(request)
    if settled and problem:
        _problems[what] = problem
    elif settled:
        remember_known(key, names)
    if problem:
        raise Hdf5Error(problem)


def _ask(request: dict[str, Any]) -> str | None:
    global _server
    for _ in range(2):
        try:
            _server = _server or _Server()
            return _server.ask(request, request["seconds"] + _WAITING)
        except EOFError:
            # It was ended from outside, as by a system without memory.
            _end()
        except TimeoutError:
            _end()
            raise Hdf5Error("the process that reads it first gives no answer") from None
        except OSError as error:
            _end()
            # Which says nothing about the file.
            raise UserError(
                f"Python cannot be started to read HDF5 ({error.strerror}); install it where this user may run it."
            ) from None
        except BaseException:
            # Ctrl-C must not wait for HDF5.
            _end()
            raise
    raise Hdf5Error("the process that reads it first ended twice without an answer; is there too little memory?")


@atexit.register
def _end() -> None:
    global _server
    if _server:
        _server.end()
    _server = None


def _leave_to_parent() -> None:
    """A forked process starts a server of its own: two that read from one would mix up the answers."""
    global _server, _lock
    if _server:
        _server.forget()
        # Nobody's child here, so nothing to wait for.
        _server.process.returncode = 0
    _server, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_leave_to_parent)


def _environment() -> dict[str, str]:
    """This process's, with the folders it imports from save the current one, one thread, and no plugins of HDF5."""
    folders = [folder for folder in sys.path if os.path.isabs(folder) and not _is_here(folder)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(folders), "HDF5_PLUGIN_PRELOAD": "::"}


def _is_here(folder: str) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    # A folder of sys.path need not exist, nor need the current one any more.
    except OSError:
        return False
