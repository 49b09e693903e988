"""Is every job, stopped at any moment, finished by the same command to the same result?

    python -m reliability.kills [--jobs train,make] [--stops 20] [--seed 0] [--out kills.json]

Claim to check: however often a job is stopped, its results are those of an undisturbed run, and no other file is left.
Every job is run to its end once. Then it is run in an empty folder again and again, each run stopped in a way drawn by
lot: in five of seven by a signal (SIGKILL in three, SIGTERM, SIGINT, which is Ctrl-C), half of them right before a file
operation drawn by lot, so that the first lock, every stage and the last rename come up, half at a moment drawn evenly
from the time that the undisturbed run took; or by a disk on which no file gets larger than a size drawn by lot, or a
system that gives no more memory than a share, drawn by lot, of what the undisturbed run took. A run that ends by itself
is looked at: the same files, and in them the same arrays, weights, records and numbers, whatever time and seconds they
tell. Then the folder is emptied, and on it goes until so many runs have been stopped; the last one is finished. At last
two runs are started together in an empty folder, five times: one may refuse, the result is the same. Imports are over
before the clock starts. All on scikit-learn's digits with tiny recipes, every training saved after every epoch. Exit
code 1 if any result differs, any file is left, or a run hangs or ends with another exit code than it should (without
memory it may be any).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from torch import device

from benchmarks.processes import Command, Limits
from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.config import did_you_mean
from featuregen.errors import UserError
from featuregen.runtime import log
from reliability.stoppable import JOBS, Job, differing, finished, given_files, results_of

_WAYS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "full disk", "out of memory")
# Before featuregen answers a signal, typer does.
_CODES = {"SIGKILL": {-signal.SIGKILL}, "SIGTERM": {143, 130}, "SIGINT": {130}, "full disk": {2}}
# Room for what a command says, which goes to files as well.
_SMALLEST_FILE = 2000
# So often two runs are started together.
RACES = 5


@dataclass
class Record:
    """The first four are the undisturbed run's, the last what differed, was left over or ended as it should not."""

    seconds: float = 0.0
    operations: int = 0
    memory: int = 0
    largest_file: int = 0
    stopped: dict[str, int] = field(default_factory=dict)
    before_operations: int = 0
    finished: int = 0
    refused_of_two: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def stops(self) -> int:
        return sum(self.stopped.values())


def tried(job: Job, given: Path, room: Path, stops: int, draw: Random) -> Record:
    undisturbed, out, record = room / "undisturbed", room / "out", Record()
    undisturbed.mkdir()
    started = time.perf_counter()
    run = finished(Command(room, *job.words(undisturbed, given)))
    record.seconds, record.operations, record.memory = time.perf_counter() - started, run.operations, run.memory
    record.largest_file = max(path.stat().st_size for path in undisturbed.rglob("*"))
    wanted = results_of(undisturbed)
    while True:
        out.mkdir(exist_ok=True)
        last = record.stops >= stops
        words = job.words(out, given)
        if not last and _was_stopped(room, words, record, draw):
            continue
        if last:
            finished(Command(room, *words))
        record.finished += 1
        record.wrong += differing(wanted, results_of(out))
        shutil.rmtree(out)
        if last:
            break
    for _ in range(RACES):
        out.mkdir()
        _race(room, job.words(out, given), record)
        record.wrong += differing(wanted, results_of(out))
        shutil.rmtree(out)
    return record


def _race(room: Path, words: list[str | Path], record: Record) -> None:
    runs = [Command(room, *words) for _ in range(2)]
    codes = sorted(run.wait() for run in runs)
    if codes not in ([0, 0], [0, 2]):
        record.wrong.append(f"exit codes {codes} of two at once: {' '.join(run.err for run in runs)}")
    record.refused_of_two += codes == [0, 2]


def _was_stopped(room: Path, words: list[str | Path], record: Record, draw: Random) -> bool:
    """One run that is stopped in a way drawn by lot, unless it ends before."""
    way, at_operation = draw.choice(_WAYS), False
    if way == "full disk":
        largest = _SMALLEST_FILE * max(1, record.largest_file / _SMALLEST_FILE) ** draw.random()
        run = Command(room, *words, limits=Limits(file=int(largest)))
        code = run.wait()
    elif way == "out of memory":
        run = Command(room, *words, limits=Limits(memory=1 + int(draw.random() * record.memory)))
        code = run.wait()
    elif at_operation := draw.random() < 0.5:
        run = Command(room, *words, stop=(draw.randrange(record.operations), signal.Signals[way]))
        code = run.wait()
    else:
        run = Command(room, *words)
        code = run.stop_after(draw.random() * record.seconds, signal.Signals[way])
    if code == 0:
        return False
    if run.hung:
        record.wrong.append(f"it hung after {way}: {' '.join(run.err.split())}")
    elif way in _CODES and code not in _CODES[way]:
        record.wrong.append(f"exit code {code} after {way}: {(run.err.strip().splitlines() or ['nothing'])[-1]}")
    record.stopped[way] = record.stopped.get(way, 0) + 1
    record.before_operations += at_operation
    return True


# The command ---------------------------------------------------------------------------------------


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--jobs", default=",".join(JOBS), help="which (default: all)")
    parser.add_argument("--stops", type=int, default=25, help="of each job, at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with the counts, rewritten after every job")
    options = parser.parse_args(words)
    options.jobs = list(dict.fromkeys(name.strip() for name in options.jobs.split(",")))
    for name in options.jobs:
        if name not in JOBS:
            raise UserError(f"--jobs has no '{name}'; {did_you_mean(name, JOBS)}")
    if options.stops < 1:
        raise UserError(f"--stops is {options.stops}; give at least 1.")
    return options


def compare(options: argparse.Namespace) -> int:
    command = (
        f"python -m reliability.kills --jobs {','.join(options.jobs)} --stops {options.stops} --seed {options.seed}"
    )
    told: dict[str, Any] = {"command": command, "hardware": hardware(device("cpu"), ()), "jobs": {}}
    print(f"{'job':10} {'seconds':>8} {'stopped':>8} {'finished':>9}  wrong", flush=True)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        given = given_files(Path(folder) / "given")
        for name in options.jobs:
            log(f"stopping {name}")
            room = Path(folder) / name
            room.mkdir()
            record = tried(JOBS[name], given, room, options.stops, Random(f"{options.seed} {name}"))
            told["jobs"][name] = asdict(record)
            save(options.out, told)
            wrong = "; ".join(dict.fromkeys(record.wrong)) or "nothing"
            print(f"{name:10} {record.seconds:8.1f} {record.stops:8} {record.finished:9}  {wrong}", flush=True)
    return 1 if any(job["wrong"] for job in told["jobs"].values()) else 0


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    sys.exit(main())
