"""Contenders in processes of their own, which live as long as a model is looked at and of which one works at a time.

So no two share an allocator, and what a process held at its peak is what its contender needed.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.contenders import Row
from benchmarks.peers import contender, kind_of
from benchmarks.processes import resident
from featuregen.models.io import load_model
from featuregen.runtime.console import log


@dataclass(frozen=True)
class Subject:
    """What every contender of one model works on: its file, images (NCHW in [0, 1]) and labels."""

    model_file: Path
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    batch: int
    epoch_images: int


@dataclass(frozen=True)
class About:
    """A contender when it is ready: its arithmetic, the bytes that building it took, its threads."""

    title: str
    built: int | None
    threads: int


@dataclass(frozen=True)
class Lap:
    """One timed run. `peak` is the most bytes held since the row began; `result` the images found, or the loss."""

    seconds: float
    peak: int | None
    result: NDArray[np.float32] | float


@dataclass
class Outcome:
    """What a contender did in one row. `level` is the bytes its process held before."""

    seconds: list[float] = field(default_factory=list[float])
    level: int | None = None
    peak: int | None = None
    result: NDArray[np.float32] | float | None = None
    failure: str = ""


class Failure(Exception):
    """A contender that cannot do what it was asked."""


class Memory:
    """What this process holds: the device's memory on CUDA, resident memory where Linux tells its peak."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self) -> int | None:
        """Let go of what is free, forget the peak, and say what is held."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        try:
            # Without it, the allocator would meet this row's needs from what the row before freed.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except (AttributeError, OSError):
            return None
        return resident("VmRSS")

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else resident("VmHWM")


class Stand:
    """The worker's side: one contender with its images on the device. `built` is the bytes that building it took."""

    def __init__(self, name: str, subject: Subject, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._subject, self._device, self._memory = subject, device, Memory(device)
        self._images = torch.from_numpy(subject.images).to(device)
        self._labels = torch.from_numpy(subject.labels).to(device)
        model = load_model(subject.model_file, device)
        self._weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        kind_of(name).packages()
        # So that what libraries load at their first use counts for nobody.
        pixels = self._images[:2].clone().requires_grad_(True)
        torch.autograd.grad(model(pixels).sum(), pixels)
        before = self._memory.begin()
        self.contender = contender(name, model, device)
        self._level = self._memory.begin()
        self.built = None if before is None or self._level is None else self._level - before

    def begin(self, row: Row) -> int | None:
        """Warm up; what was held before that."""
        self.contender.restore(self._weights)
        self._work(row, 2, 2)
        self.contender.restore(self._weights)
        self._level = self._memory.begin()
        self.lap(row)
        return self._level

    def lap(self, row: Row) -> Lap:
        if row.goal == "train":
            self.contender.restore(self._weights)
        self._wait()
        started = time.perf_counter()
        found = self._work(row, self._subject.batch, self._subject.epoch_images)
        self._wait()
        seconds = time.perf_counter() - started
        # A peak without the level before it would say nothing of this row.
        peak = None if self._level is None else self._memory.peak()
        return Lap(seconds, peak, found.cpu().numpy() if isinstance(found, Tensor) else found)

    def _work(self, row: Row, batch: int, epoch: int) -> Tensor | float:
        if row.goal == "train":
            return self.contender.learn(row, self._images[:epoch], self._labels[:epoch], batch)
        images = self._images[:batch]
        if row.goal == "features":
            return self.contender.invert(row, self._images[batch : 2 * batch], images)
        return self.contender.move(row, images, row.classes(self._labels[:batch], self.contender.model.classes))

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def serve(pipe: Connection, name: str, subject: Subject, device: str) -> None:
    """The worker's life: build the contender, then answer until the pipe is closed."""
    # Ctrl-C reaches the whole group; the process that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stand = Stand(name, subject, torch.device(device))
        pipe.send((True, About(stand.contender.title, stand.built, torch.get_num_threads())))
    except Exception as error:
        _report(pipe, error)
        return
    while True:
        try:
            verb, row = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, stand.begin(row) if verb == "begin" else stand.lap(row)))
        except Exception as error:
            _report(pipe, error)


def _report(pipe: Connection, error: Exception) -> None:
    traceback.print_exc()
    pipe.send((False, f"{type(error).__name__}: {' '.join(str(error).split())}"))


class Worker:
    """A contender's process, seen from the one that asks."""

    def __init__(self, name: str, subject: Subject, device: torch.device) -> None:
        self.name = name
        # Not fork, which a process with threads and CUDA does not survive.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, subject, str(device)), daemon=True)
        self._process.start()
        theirs.close()
        self.about = cast(About, self._answer())

    def begin(self, row: Row) -> int | None:
        return cast("int | None", self._ask("begin", row))

    def lap(self, row: Row) -> Lap:
        return cast(Lap, self._ask("lap", row))

    def _ask(self, verb: str, row: Row) -> Any:
        try:
            self._pipe.send((verb, row))
        except OSError:
            raise self._gone() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            done, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if not done:
            raise Failure(answer)
        return answer

    def _gone(self) -> Failure:
        self._process.join(10)
        return Failure(f"its process ended with exit code {self._process.exitcode}")

    def close(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def race(workers: Sequence[Worker], row: Row, rounds: int) -> dict[str, Outcome]:
    """A warm-up each, then `rounds` rounds in which each runs once; who fails is left out from then on."""
    outcomes = {worker.name: Outcome() for worker in workers}
    for number in range(-1, rounds):
        log(f"{row.name}: {'warm-up' if number < 0 else f'round {number + 1} of {rounds}'}")
        # Another begins every time, so that nobody always runs behind the same one.
        turn = max(number, 0) % len(workers)
        for worker in [*workers[turn:], *workers[:turn]]:
            outcome = outcomes[worker.name]
            if outcome.failure:
                continue
            try:
                if number < 0:
                    outcome.level = worker.begin(row)
                else:
                    lap = worker.lap(row)
                    outcome.seconds.append(lap.seconds)
                    outcome.peak, outcome.result = lap.peak, lap.result
            except Failure as failure:
                outcome.failure = str(failure)
    return outcomes
