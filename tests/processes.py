"""Commands in processes of their own, which can be killed: forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# The last two are otherwise imported when digits are first read, and an optimizer first made.
_CONTEXT.set_forkserver_preload(["featuregen.cli", "featuregen.pipeline", "sklearn.datasets", "torch._dynamo"])


def _command(words: list[str], out: Path, err: Path, largest_file: int) -> None:
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    # A shell that runs the tests in its background has them ignore it, and their children with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from featuregen.cli import app

    torch.set_num_threads(1)
    app(words)


class Command:
    """One run of featuregen; `out` and `err` are what it has said so far."""

    def __init__(self, folder: Path, *words: str | Path, largest_file: int = 0) -> None:
        said = Path(tempfile.mkdtemp(prefix="said-", dir=folder))
        self._out, self._err = said / "stdout.txt", said / "stderr.txt"
        texts = [str(word) for word in words]
        # No daemon, or it could have no children; joined or killed by whoever starts it.
        self.process: BaseProcess = _CONTEXT.Process(target=_command, args=(texts, self._out, self._err, largest_file))
        self.process.start()

    def stop_when(self, moment: Callable[[], bool], number: int) -> int:
        """The exit code after a signal sent as soon as the moment has come."""
        deadline = time.monotonic() + 120
        while not moment():
            assert self.process.is_alive(), f"it ended before the moment came: {self.err}"
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.001)
        assert self.process.pid
        os.kill(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        self.process.join(120)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")
