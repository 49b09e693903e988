"""Commands in separate processes that can be killed, forked from one that has imported everything already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

_OUT, _ERR, _COUNT, _BEGUN = "stdout.txt", "stderr.txt", "operations.txt", "begun"
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}
# Seconds; only a hang takes as long.
_HANG_TIMEOUT = 1800.0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CONTEXT = multiprocessing.get_context("forkserver")
# The last two are otherwise imported when digits are first read, and an optimizer first made.
_CONTEXT.set_forkserver_preload(["featuregen.cli", "featuregen.experiment", "sklearn.datasets", "torch._dynamo"])


Stop = tuple[int, signal.Signals]


@dataclass(frozen=True)
class Limits:
    """Limits in bytes, 0 for none; memory counts beyond what the process has once everything is imported."""

    file: int = 0
    memory: int = 0


def resident(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _command(
    words: list[str], said: Path, limits: Limits, stop: Stop | None, environment: dict[str, str], cwd: Path | None
) -> None:
    os.environ.update(environment)
    if cwd:
        os.chdir(cwd)
    for number, path in ((1, said / _OUT), (2, said / _ERR)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    base_memory = resident("VmSize") or 0
    if limits.file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file, limits.file))
    if limits.memory:
        resource.setrlimit(resource.RLIMIT_AS, (base_memory + limits.memory, base_memory + limits.memory))
    # A shell that runs the tests in its background has them ignore the first, nohup the second, and their children too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    import torch

    from featuregen.cli import main
    from featuregen.cli.errors import install_signal_handlers

    torch.set_num_threads(1)
    install_signal_handlers()
    (said / _BEGUN).touch()
    watch = _Watch(stop)
    sys.addaudithook(watch.look)
    try:
        sys.exit(main(words))
    finally:
        # The exit itself is not under test.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        (said / _COUNT).write_text(f"{watch.operations} {(resident('VmPeak') or 0) - base_memory}", encoding="utf-8")


class _Watch:
    """Counts the operations that change a file system, and sends itself a signal right before one of them."""

    def __init__(self, stop: Stop | None) -> None:
        self.operations = 0
        self._stop = stop

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES and not (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        ):
            return
        self.operations += 1
        if self._stop and self._stop[0] == self.operations - 1:
            os.kill(os.getpid(), self._stop[1])


class Command:
    """One run of featuregen; `out` and `err` are what it has said so far.

    With `stop`, it gets a signal right before so many-th of its changes to files, counted from 0. `environment` joins
    that of this process; `cwd` is the folder it runs in.
    """

    def __init__(
        self,
        folder: Path,
        *words: str | Path,
        limits: Limits = Limits(),
        stop: Stop | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        cwd: Path | None = None,
    ) -> None:
        self._said = Path(tempfile.mkdtemp(prefix="said-", dir=folder))
        texts = [str(word) for word in words]
        # No daemon, or it could have no children; joined or killed by whoever starts it.
        arguments = (texts, self._said, limits, stop, dict(environment), cwd)
        self.process: BaseProcess = _CONTEXT.Process(target=_command, args=arguments)
        self.process.start()
        # Whether it did not end by itself in all the time that it was given.
        self.hung = False

    def stop_when(self, moment: Callable[[], bool], number: int) -> int:
        """The exit code after a signal sent as soon as the moment has come."""
        deadline = time.monotonic() + _HANG_TIMEOUT
        while not moment():
            assert self.process.is_alive(), f"it ended before the moment came: {self.err}"
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.001)
        assert self.process.pid
        os.kill(self.process.pid, number)
        return self.wait()

    def stop_after(self, seconds: float, number: int) -> int:
        """The exit code, after a signal unless it has ended by then; imports are over when the clock starts."""
        while not (self._said / _BEGUN).exists() and self.process.is_alive():
            time.sleep(0.001)
        self.process.join(seconds)
        if self.process.exitcode is None:
            assert self.process.pid
            os.kill(self.process.pid, number)
        return self.wait()

    def stop_worker(self, pick: Callable[[list[int]], int], seconds: float, number: int, timeout: float) -> int:
        """The exit code, after a signal to one of its worker processes so long after the first of them was there.

        The command then has `timeout` seconds to end by itself.
        """
        while not (workers := self.workers()) and self.process.is_alive():
            time.sleep(0.001)
        self.process.join(seconds)
        if workers := self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pick(workers), number)
            return self.wait(timeout)
        return self.wait()

    def workers(self) -> list[int]:
        """The worker processes that it has now, where the system has /proc."""
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            return [int(child) for child in tasks.read_text(encoding="utf-8").split() if _is_worker(child)]
        return []

    def wait(self, timeout: float = _HANG_TIMEOUT) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.hung = True
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def out(self) -> str:
        return (self._said / _OUT).read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self._said / _ERR).read_text(encoding="utf-8")

    @property
    def operations(self) -> int:
        """How often it has changed files, once it has ended by itself."""
        return self._counted[0]

    @property
    def memory(self) -> int:
        """Bytes it took at its peak, beyond what it held at its start, once it has ended by itself."""
        return self._counted[1]

    @property
    def _counted(self) -> list[int]:
        return [int(word) for word in (self._said / _COUNT).read_text(encoding="utf-8").split()]


def _is_worker(process: str) -> bool:
    """Not the helper process that multiprocessing starts with the first of them."""
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def has_rows(journal: Path) -> Callable[[], bool]:
    """The moment when an unfinished file, seen empty or with its head alone, has got rows."""
    sizes = set[int]()

    def moment() -> bool:
        with contextlib.suppress(FileNotFoundError):
            sizes.add(journal.stat().st_size)
        return len(sizes) > 2

    return moment
