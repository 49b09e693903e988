"""Accidents by hand: signals, full disks, folders that go away, damaged resume files, two runs at once, odd systems."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability.crafted_case import ANY, FINE, FINE_OR_REFUSED, REFUSED, STOPPED, Case, Place, Run, Step
from reliability.crafted_world import ATTACK, SOURCE

# Commands that write, each with the files it needs.
JOBS: dict[str, tuple[str, ...]] = {
    "train": ("train", "--robust", "--config", "tiny.yaml", "--set", "runtime.save_every=0", "--out", "t.safetensors"),
    "make": ("make-dataset", "det", "--config", "tiny.yaml", "--rows", "300", "--source", SOURCE, "--out", "o.h5"),
    "evaluate": ("evaluate", "det.h5", "--out", "out"),
    "reproduce": ("reproduce", "--config", "tiny.yaml", "--out", "out"),
    "attack": ("attack", SOURCE, *ATTACK, "--out", "k.h5"),
    "merge": ("merge", "shard-1.h5", "shard-2.h5", "--out", "m.h5"),
    "flips": ("flips", SOURCE, "--eps", "0.1", "--rows", "50", "--attacks", "fgsm,pgd", "--out", "out"),
    "transfer": ("transfer", "--config", "tiny.yaml", "--models", "convnet:4,convnet:2", "--seeds", "1", "--out",
        "out"),
    "share": ("share", "det.h5", "--source", SOURCE),
    "remake": ("remake", "det.h5", "--source", SOURCE, "--out", "again.h5"),
    "import": ("import", "released", "--kind", "det", "--config", "tiny.yaml", "--within", "5", "--out", "i.h5"),
    "imagefolder": ("export", "det.h5", "--format", "imagefolder"),
    "parquet": ("export", "det.h5", "--format", "parquet"),
    "preview": ("preview", "det.h5"),
}  # fmt: skip
_NEEDS = ("tiny.yaml", "workers.yaml", SOURCE, "det.h5", "shard-1.h5", "shard-2.h5", "released")
_WORKERS = ("reproduce", "--config", "workers.yaml", "--out", "out")
ALWAYS = frozenset({FINE})
# A second of a Python of its own is mostly imports.
_MOMENTS = (0.0, 0.05, 0.15, 0.3, 0.6, 1.0)


def needs(place: Place) -> None:
    for name in _NEEDS:
        place.give(name)


# Signals -------------------------------------------------------------------------------------------


def _send(number: int, seconds: float) -> Callable[[int, Place], None]:
    def send(pid: int, place: Place) -> None:
        time.sleep(seconds)
        os.kill(pid, number)

    return send


def _signals() -> Iterator[Case]:
    for job, words in JOBS.items():
        for name, codes in (STOPPED | {"SIGHUP": frozenset({0, -1, 129, 130, 143})}).items():
            # Before the command has set its handlers, the system's apply.
            early = codes | {-int(signal.Signals[name]), 130}
            for moment in _MOMENTS[1:]:
                stopped = Step(words, early, during=_send(signal.Signals[name], moment))
                again = Step(words, ALWAYS)
                yield Case(f"signals/{name} after {moment}/{job}", (stopped, again), needs, ("*",))


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for word in (task / "children").read_text(encoding="ascii").split():
                yield int(word)
                yield from _descendants(int(word))


def workers_of(pid: int) -> list[int]:
    """Processes that multiprocessing has spawned below one, and no helpers of other kinds."""
    found = []
    for child in _descendants(pid):
        with contextlib.suppress(OSError):
            # Between fork and exec, every child has its parent's words.
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def _hit_worker(number: int, seconds: float, all_of_them: bool = False) -> Callable[[int, Place], None]:
    """A signal to a worker, so many seconds after the first one is there."""

    def hit(pid: int, place: Place) -> None:
        deadline = time.monotonic() + 120
        while not workers_of(pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(seconds)
        for worker in workers_of(pid)[-1 if not all_of_them else 0 :]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)

    return hit


def _workers() -> Iterator[Case]:
    ends = frozenset({0, 1, 2, 130, 143})
    for name in ("SIGTERM", "SIGKILL", "SIGINT", "SIGSEGV", "SIGHUP", "SIGABRT"):
        for moment in (0.0, 5.0):
            for everyone in (False, True):
                hit = Step(
                    _WORKERS, ends, process=True, patience=2, during=_hit_worker(signal.Signals[name], moment, everyone)
                )
                again = Step(_WORKERS, ALWAYS, process=True, patience=2)
                who = "all workers" if everyone else "a worker"
                yield Case(f"workers/{name} to {who} after {moment}", (hit, again), needs, ("*",))
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"):
        for moment in (0.0, 5.0):
            number = signal.Signals[name]
            stop = Step(
                _WORKERS,
                frozenset({0, 130, 143, -number}),
                process=True,
                patience=2,
                during=_hit_parent(number, moment),
            )
            again = Step(_WORKERS, ALWAYS, process=True, patience=2)
            yield Case(f"workers/{name} to the parent after {moment}", (stop, again), needs, ("*",))


def _hit_parent(number: int, seconds: float) -> Callable[[int, Place], None]:
    def hit(pid: int, place: Place) -> None:
        deadline = time.monotonic() + 120
        while not workers_of(pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(pid, number)

    return hit


# Disks and folders ---------------------------------------------------------------------------------


def _disks() -> Iterator[Case]:
    for job, words in JOBS.items():
        for limit in (2500, 6000, 15_000, 30_000, 60_000, 200_000):
            full = Step(words, FINE_OR_REFUSED, file_limit=limit)
            yield Case(f"disks/no file above {limit}/{job}", (full, Step(words, ALWAYS)), needs, ("*",))
        no_locks = Step(words, FINE_OR_REFUSED, no_locks=True)
        yield Case(f"disks/no locks/{job}", (no_locks,), needs)
        for megabytes in (1, 30, 100, 300):
            starved = Step(words, frozenset({0, 1, 2}), memory_limit=megabytes << 20)
            yield Case(f"disks/{megabytes} MiB of memory/{job}", (starved, Step(words, ALWAYS)), needs, ("*",))


def _remove_soon(name: str, seconds: float) -> Callable[[int, Place], None]:
    def remove(pid: int, place: Place) -> None:
        time.sleep(seconds)
        for path in place.work.glob(name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    return remove


def _deleted() -> Iterator[Case]:
    for job, words in JOBS.items():
        for what in ("*", "out", "*.h5", "*.partial", "*.lock", "models"):
            for moment in (0.02, 0.2, 0.5):
                step = Step(words, ANY, during=_remove_soon(what, moment))
                yield Case(f"folders gone/{what} after {moment}/{job}".replace("*", "all"), (step,), needs, ("*",))


# Two at once ---------------------------------------------------------------------------------------

# Both may end well; one of them may refuse, but not both.
_TWICE = (
    '"$@" & first=$!; "$@"; second=$?; wait $first; first=$?; '
    "[ $first = 0 ] && exit $second; [ $second = 0 ] && exit $first; exit 9"
)


def _concurrency() -> Iterator[Case]:
    for job, words in JOBS.items():
        for number in range(4):
            step = Step(words, FINE_OR_REFUSED, process=True, prefix=("sh", "-c", _TWICE, "sh"), patience=2)
            yield Case(f"concurrency/twice at once {number}/{job}", (step, Step(words, ALWAYS)), needs, ("*",))


# Lost work -----------------------------------------------------------------------------------------

_LONG = (
    "make-dataset",
    "det",
    "--config",
    "tiny.yaml",
    "--source",
    SOURCE,
    "--rows",
    "1200",
    "--set",
    "synthesis.det.batch_size=20",
    "--out",
    "o.h5",
)


def _kill_with_rows(pid: int, place: Place) -> None:
    deadline, sizes = time.monotonic() + 60, set[int]()
    while len(sizes) < 4 and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            sizes.add((place.work / "o.h5.partial").stat().st_size)
    os.kill(pid, signal.SIGKILL)


def _rows_are_kept(place: Place, run: Run) -> str:
    kept = [
        path
        for path in place.work.rglob("*")
        if "partial" in path.name and path.is_file() and path.stat().st_size > 2000
    ]
    return "" if kept else "the finished rows of a stopped run are gone"


def _lost() -> Iterator[Case]:
    stopped = Step(_LONG, STOPPED["SIGKILL"], during=_kill_with_rows)
    for name, more in {
        "steps": ("--steps", "5"), "seed": ("--seed", "3"), "dtype": ("--dtype", "float32"), "eps": ("--eps", "0.7"),
        "kind": ("--set", "synthesis.det.momentum=0.5"),
    }.items():  # fmt: skip
        other = Step((*_LONG, *more), frozenset({REFUSED, FINE}), check=_rows_are_kept)
        yield Case(f"lost work/another {name}/make", (stopped, other), needs, ("*.lock",))


def by_hand() -> Iterator[Case]:
    yield from _workers()
    yield from _lost()
    yield from _signals()
    yield from _disks()
    yield from _deleted()
    yield from _concurrency()
