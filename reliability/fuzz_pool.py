"""A pool of worker processes that open inputs; any input may crash a worker, hang it or fill its memory."""

from __future__ import annotations

import codecs
import contextlib
import faulthandler
import importlib
import io
import multiprocessing
import os
import pkgutil
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import typer

import featuregen
from featuregen.cli.errors import with_exit_code
from reliability.fuzz_targets import Target, input_of
from reliability.fuzz_traps import ASKED, PER_BYTE, STARVED, TOUCHED, Memory, Traps, limit_memory, return_memory

# Seconds. An input takes milliseconds: this only ends a hang, however busy the machine is.
HANG_TIMEOUT = 300.0
# Letters of a sentence that somebody may still read.
_LONGEST = 1000
_CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Verdict:
    """How opening an input ended: `accepted`, `refused` with its sentence, or what must not be.

    `unmade` is an input that broke what was to make it.
    """

    number: int
    outcome: str
    words: str = ""
    size: int = 0
    touched: int = 0
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return self.outcome not in ("accepted", "refused", "unmade")


# In the worker -------------------------------------------------------------------------------------


def judged(target: Target, number: int, files: dict[str, bytes], place: Path, traps: Traps) -> Verdict:
    """The verdict on one input, alone in a folder."""
    folder = place / "input"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.chdir(folder)
    size = sum(map(len, files.values()))
    memory, started = Memory(), time.perf_counter()
    with traps.armed():
        outcome, words = _opened(target, folder)
    seconds, touched, asked = time.perf_counter() - started, memory.touched(), memory.asked()
    words = words.replace(str(place), "")
    if outcome == "refused" and (problem := _no_sentence(words)):
        outcome, words = problem, words[:_LONGEST]
    # HDF5 asks for as much as a lying header says, and gives it back untouched when it finds that nothing is there.
    greedy = not target.hdf5 and (asked > ASKED or (outcome == "refused" and STARVED.search(words)))
    if greedy or touched > TOUCHED + PER_BYTE * size:
        outcome, words = "memory", f"{touched >> 20} MiB touched, {asked >> 20} MiB asked for; {words}"
    if traps.caught:
        outcome, words = "trap", "; ".join(traps.caught[:5])
    return Verdict(number, outcome, words, size, touched, seconds)


def _opened(target: Target, folder: Path) -> tuple[str, str]:
    """Outcome and words, through the function that turns errors into sentences and exit codes for the commands."""
    stderr, stdout = io.StringIO(), io.StringIO()

    def open_it() -> None:
        target.open(folder)

    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            with_exit_code(open_it)()
    except typer.Exit as end:
        lines = [line for line in stderr.getvalue().split("\n") if line.startswith(("error: ", "failed: "))]
        return "refused", lines[0] if len(lines) == 1 and end.exit_code in (
            1,
            2,
        ) else f"no sentence: {stderr.getvalue()}"
    except Exception as error:
        places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        where = next((f"{file}:{line}" for file, line in reversed(places) if "featuregen/" in file), "nowhere")
        return "traceback", f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:200]}"
    text = stdout.getvalue().replace("\n", "")
    return ("accepted", "") if text.isprintable() else ("unprintable text", repr(text)[:_LONGEST])


def _no_sentence(words: str) -> str:
    if words.startswith("no sentence"):
        return "no sentence"
    if len(words) > _LONGEST:
        return "endless sentence"
    return "" if words.isprintable() else "unprintable sentence"


def _work(target: Target, seed: int, orders: Connection, place: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A crash is counted; its dump would only fill the screen.
    faulthandler.disable()
    # Threads do not come along into a forked process.
    torch.set_num_threads(1)
    return_memory()
    (place / "input").mkdir()
    decoys = place / "decoy"
    decoys.mkdir()
    for name, content in target.decoys().items():
        (decoys / name).write_bytes(content)
    traps = Traps(place / "input", decoys)
    # Whatever is imported late is so by now, and what errors import, and the names of zip archives and pickles.
    for module in pkgutil.walk_packages(featuregen.__path__, "featuregen."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("cp437", "idna", "raw_unicode_escape", "unicode_escape"):
        codecs.lookup(name)
    for files in (*target.seeds, {name: b"?" for name in target.seeds[0]}):
        judged(target, -1, files, place, traps)
    limit_memory()
    orders.send(None)
    while (number := orders.recv()) is not None:
        files = input_of(target, seed, number)
        # HDF5 may crash where a lie is told, which is no fault of who opens it.
        orders.send(None)
        orders.send(judged(target, number, files, place, traps))


# Beside it -----------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: BaseProcess
    orders: Connection
    place: Path
    number: int = -1
    made: bool = False
    deadline: float = 0.0

    def order(self, number: int, timeout: float) -> None:
        self.number, self.made, self.deadline = number, False, time.monotonic() + timeout
        with contextlib.suppress(BrokenPipeError):
            self.orders.send(number)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.orders.close()
        shutil.rmtree(self.place, ignore_errors=True)


def _start(target: Target, seed: int, folder: Path) -> _Worker:
    """A worker that has opened the unchanged inputs, so that an input's time is its own."""
    parent_end, child_end = _CONTEXT.Pipe()
    place = Path(tempfile.mkdtemp(dir=folder))
    process = _CONTEXT.Process(target=_work, args=(target, seed, child_end, place), daemon=True)
    process.start()
    child_end.close()
    # One that has died already is noticed with its first input.
    with contextlib.suppress(EOFError, ConnectionResetError):
        if parent_end.poll(HANG_TIMEOUT):
            parent_end.recv()
    return _Worker(process, parent_end, place)


def verdicts(
    target: Target, numbers: Sequence[int], seed: int, processes: int = 1, timeout: float = HANG_TIMEOUT
) -> Iterator[Verdict]:
    """The verdict on every input, in no order. A worker that an input has ended is replaced."""
    left = list(reversed(numbers))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        workers: list[_Worker] = []
        try:
            while left or workers:
                while left and len(workers) < min(processes, len(numbers)):
                    workers.append(_start(target, seed, Path(folder)))
                    workers[-1].order(left.pop(), timeout)
                ready = wait([worker.orders for worker in workers], timeout=0.5)
                for worker in list(workers):
                    verdict = _received(worker) if worker.orders in ready else _timed_out(worker)
                    if verdict is None:
                        continue
                    yield verdict
                    # Memory left by one allocation would hide the next one.
                    if verdict.outcome not in ("crash", "hang", "memory", "unmade") and left:
                        worker.order(left.pop(), timeout)
                    else:
                        worker.end()
                        workers.remove(worker)
        finally:
            for worker in workers:
                worker.end()


def _received(worker: _Worker) -> Verdict | None:
    try:
        verdict: Verdict | None = worker.orders.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Verdict(worker.number, "crash" if worker.made else "unmade", name)
    worker.made = True
    return verdict


def _timed_out(worker: _Worker) -> Verdict | None:
    if time.monotonic() < worker.deadline:
        return None
    return Verdict(worker.number, "hang" if worker.made else "unmade", "no end")
