"""Worker processes that run functions, and that may die at any moment without leaving anyone waiting.

`concurrent.futures` writes what a process is given into a pipe that it holds open at both ends: a process that dies
before it has read more than the pipe holds leaves it waiting for ever. Here a process starts with a few bytes, asks for
the rest once it is up, and nobody else holds its end of the connection.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from typing import Any

# A function, which gets what the pool was prepared with, and its other arguments.
Task = tuple[Callable[..., object], tuple[Any, ...]]
# Seconds that a worker has to end before it is killed, and those after which workers are looked at without a sign of
# them: a process that a dead one has started may still hold its end of the connection.
_GRACE, _LOOK_AGAIN = 5.0, 1.0
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerLost(Exception):
    """A worker process has ended before its work was done."""


class WorkerTraceback(Exception):
    """Where in its worker an error was raised; the cause of the error that the pool raises."""


class WorkerPool:
    """So many processes that each call `prepare(*arguments)` once and pass what it returns to every task.

    An error of a task is raised as it is. When an error leaves the pool, what its workers are doing is given up.
    """

    def __init__(self, count: int, prepare: Callable[..., object], *arguments: Any) -> None:
        self._setup = pickle.dumps((prepare, arguments))
        self._workers = [_Worker() for _ in range(count)]

    def __enter__(self) -> WorkerPool:
        try:
            for worker in self._workers:
                worker.start()
        except BaseException:
            self._stop(at_once=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop(at_once=kind is not None)

    def run(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Run the tasks, in any order, and yield after each.

        Raises:
            WorkerLost: A worker has ended early.
        """
        waiting, unfinished = deque(tasks), len(tasks)
        while unfinished:
            for worker in self._workers:
                if waiting and worker.free:
                    worker.send(pickle.dumps(waiting.popleft()))
            for worker in self._answering():
                # The first answer says that the worker is up, and the second that it is prepared.
                worker.receive()
                if worker.answers == 1:
                    worker.send(self._setup)
                elif worker.answers > 2:
                    unfinished -= 1
                    yield

    def _answering(self) -> list[_Worker]:
        """The workers that have answered, once there are any."""
        while True:
            handles: list[Any] = [worker.connection for worker in self._workers]
            ready = connection.wait(handles + [worker.process.sentinel for worker in self._workers], _LOOK_AGAIN)
            if answering := [worker for worker in self._workers if worker.connection in ready]:
                return answering
            for worker in self._workers:
                if worker.process.sentinel in ready or worker.process.exitcode is not None:
                    raise worker.lost()

    def _stop(self, at_once: bool) -> None:
        """End every worker; by force where that takes long, or where a signal comes meanwhile."""
        started = [worker for worker in self._workers if worker.process.pid]
        try:
            for worker in self._workers:
                worker.connection.close()
            for worker in started if at_once else ():
                worker.process.terminate()
            deadline = time.monotonic() + _GRACE
            for worker in started:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in started:
                worker.process.kill()
                worker.process.join()


class _Worker:
    """One process, seen from its parent."""

    def __init__(self) -> None:
        self.connection, self._other_end = multiprocessing.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(self._other_end, os.getpid()))
        self.free, self.answers = False, 0

    def start(self) -> None:
        # Or it would be started with the first process, which lets Ctrl-C through again.
        resource_tracker.ensure_running()
        # Ctrl-C reaches every process of the terminal; the parent alone answers it, also while a worker starts. SIGTERM
        # is not held back, or it would end a worker only once that is up, seconds later.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            self.process.start()
            self._other_end.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, message: bytes) -> None:
        self.free = False
        try:
            self.connection.send_bytes(message)
        except OSError:
            raise self.lost() from None

    def receive(self) -> None:
        """Raise what the worker has raised."""
        try:
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            raise self.lost() from None
        self.answers += 1
        self.free = self.answers > 1
        if answer:
            error, where = pickle.loads(answer)
            raise error from WorkerTraceback(where)

    def lost(self) -> WorkerLost:
        self.process.join(_GRACE)
        code = self.process.exitcode or 0
        signals = {-number: number.name for number in signal.Signals}
        return WorkerLost(signals.get(code, f"exit code {code}"))


def _work(to_parent: connection.Connection, parent: int) -> None:
    """What a worker does: it says that it is up, then it answers every message with nothing, or with an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    prepared: tuple[Any, ...] = ()
    answer = b""
    # Until the parent closes the connection.
    with suppress(EOFError, OSError):
        while True:
            to_parent.send_bytes(answer)
            answer, prepared = _answer(to_parent.recv_bytes(), prepared)


def _answer(message: bytes, prepared: tuple[Any, ...]) -> tuple[bytes, tuple[Any, ...]]:
    try:
        function, arguments = pickle.loads(message)
        value = function(*prepared, *arguments)
    except Exception as error:
        return _pickled(error), prepared
    return b"", prepared or (value,)


def _pickled(error: Exception) -> bytes:
    """The error and its traceback; as a RuntimeError where it cannot be rebuilt from its arguments."""
    where = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps((error, where))
        pickle.loads(pickled)
    except Exception:  # what foreign classes raise has no common ancestor
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), where))
    return pickled


def _exit_with_parent(parent: int) -> None:
    """Without this, the workers of a killed parent would go on holding the locks of what they write."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
