"""Stops every job at random moments, runs the same command again, and compares the results.

    python -m reliability.kills [--jobs train,make] [--stops 20] [--seed 0] [--out kills.json]

Claim: however often a job is stopped, its results are those of an undisturbed run, and no other file is left.
Method: every job runs to its end once. Then it runs in an empty folder again and again, and each run is stopped in a
randomly drawn way. Five of seven ways are signals (SIGKILL in three, SIGTERM, and SIGINT, which is Ctrl-C): half of
them right before a random file operation, so that the first lock, every stage and the last rename come up, half at a
random moment of the time that the undisturbed run took. The other two are a disk on which no file gets larger than a
random size, and a system that gives no more memory than a random share of what the undisturbed run took. Where a job
can work in several processes, half of its runs do, and there the signal (also SIGHUP and SIGSEGV) goes to one of the
workers, half of the time within its first second: the command must end by itself, with exit code 2 and none of its
workers left. Only SIGINT, which the parent alone answers, must change nothing. When a run ends by itself, its files,
arrays, weights, records and numbers are compared, except times and seconds. Then the folder is emptied, and so on until
`--stops` runs have been stopped; the last one is finished. At last two runs start together in an empty folder, five
times: one may refuse, the result is the same. Imports are over before the clock starts, except those of workers. All
jobs use scikit-learn's digits with tiny recipes and save every training after every epoch. With `--out`, every stop is
a line in the file of that name that ends in .log, and the jobs that an earlier run with the same `--stops` and `--seed`
has finished are not repeated.
Needs: Linux, minutes for each job, and two CPUs, or there are no workers.
Exit code: 1 if any result differs, any file is left, or a run hangs or ends with another exit code than it should
(without memory it may be any).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from torch import device

from benchmarks.processes import Command, Limits
from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.config.loader import did_you_mean
from featuregen.errors import UserError
from featuregen.runtime.console import log
from reliability.stoppable import JOBS, Job, differences, make_inputs, results_of, run_to_end

_WAYS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "full disk", "out of memory")
# Before featuregen answers a signal, typer does.
_CODES = {"SIGKILL": {-signal.SIGKILL}, "SIGTERM": {143, 130}, "SIGINT": {130}, "full disk": {2}}
_WORKER_WAYS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGSEGV", "SIGINT")
# Seconds that a command has to end once a worker of it got a signal. It takes about one; this ends a hang.
_WORKER_TIMEOUT = 120.0
# Room for what a command says, which goes to files as well.
_SMALLEST_FILE = 2000
# So often two runs are started together.
RACES = 5


@dataclass
class Record:
    """The first five are the undisturbed run's, the last what differed, was left over or ended as it should not."""

    seconds: float = 0.0
    seconds_with_workers: float = 0.0
    operations: int = 0
    memory: int = 0
    largest_file: int = 0
    stopped: dict[str, int] = field(default_factory=dict)
    before_operations: int = 0
    workers_stopped: dict[str, int] = field(default_factory=dict)
    workers_in_first_second: int = 0
    workers_went_on: int = 0
    finished: int = 0
    refused_of_two: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def stops(self) -> int:
        return sum(self.stopped.values()) + sum(self.workers_stopped.values())


@dataclass(frozen=True)
class Stop:
    """One run that was stopped, or was to be; `moment` is that of the signal in seconds, or the number of a change."""

    way: str
    to: str
    moment: float
    code: int
    seconds: float


Note = Callable[[Stop], None]


def stop_repeatedly(
    job: Job, inputs: Path, folder: Path, stops: int, draw: Random, note: Note = lambda stop: None
) -> Record:
    undisturbed, out, record = folder / "undisturbed", folder / "out", Record()
    undisturbed.mkdir()
    started = time.perf_counter()
    run = run_to_end(Command(folder, *job.words(undisturbed, inputs)))
    record.seconds, record.operations, record.memory = time.perf_counter() - started, run.operations, run.memory
    record.largest_file = max(path.stat().st_size for path in undisturbed.rglob("*"))
    expected = results_of(undisturbed)
    if job.workers:
        side_by_side = folder / "side by side"
        side_by_side.mkdir()
        started = time.perf_counter()
        run_to_end(Command(folder, *job.words(side_by_side, inputs), *job.workers))
        record.seconds_with_workers = time.perf_counter() - started
        record.wrong += differences(expected, results_of(side_by_side))
    while True:
        out.mkdir(exist_ok=True)
        last = record.stops >= stops
        words = job.words(out, inputs)
        if not last:
            if job.workers and draw.random() < 0.5:
                stopped = _worker_was_stopped(folder, [*words, *job.workers], record, draw, note)
            else:
                stopped = _was_stopped(folder, words, record, draw, note)
            if stopped:
                continue
        if last:
            run_to_end(Command(folder, *words))
        record.finished += 1
        record.wrong += differences(expected, results_of(out))
        shutil.rmtree(out)
        if last:
            break
    for _ in range(RACES):
        out.mkdir()
        _race(folder, job.words(out, inputs), record)
        record.wrong += differences(expected, results_of(out))
        shutil.rmtree(out)
    return record


def _race(folder: Path, words: list[str | Path], record: Record) -> None:
    runs = [Command(folder, *words) for _ in range(2)]
    codes = sorted(run.wait() for run in runs)
    if codes not in ([0, 0], [0, 2]):
        record.wrong.append(f"exit codes {codes} of two at once: {' '.join(run.err for run in runs)}")
    record.refused_of_two += codes == [0, 2]


def _was_stopped(folder: Path, words: list[str | Path], record: Record, draw: Random, note: Note) -> bool:
    """Whether one run was stopped, in a randomly drawn way, before it ended."""
    way, at_operation, moment, started = draw.choice(_WAYS), False, 0.0, time.perf_counter()
    if way == "full disk":
        moment = _SMALLEST_FILE * max(1, record.largest_file / _SMALLEST_FILE) ** draw.random()
        run = Command(folder, *words, limits=Limits(file=int(moment)))
        code = run.wait()
    elif way == "out of memory":
        moment = 1 + int(draw.random() * record.memory)
        run = Command(folder, *words, limits=Limits(memory=int(moment)))
        code = run.wait()
    elif at_operation := draw.random() < 0.5:
        moment = draw.randrange(record.operations)
        run = Command(folder, *words, stop=(int(moment), signal.Signals[way]))
        code = run.wait()
    else:
        moment = draw.random() * record.seconds
        run = Command(folder, *words)
        code = run.stop_after(moment, signal.Signals[way])
    note(Stop(way, "file operation" if at_operation else "the command", moment, code, time.perf_counter() - started))
    if code == 0:
        return False
    if run.hung:
        record.wrong.append(f"it hung after {way}: {' '.join(run.err.split())}")
    elif way in _CODES and code not in _CODES[way]:
        record.wrong.append(f"exit code {code} after {way}: {_last_line(run)}")
    record.stopped[way] = record.stopped.get(way, 0) + 1
    record.before_operations += at_operation
    return True


def _worker_was_stopped(folder: Path, words: list[str | Path], record: Record, draw: Random, note: Note) -> bool:
    """Whether one run ended early after a signal to one of its workers."""
    way, early, started = draw.choice(_WORKER_WAYS), draw.random() < 0.5, time.perf_counter()
    moment = draw.random() * (1 if early else record.seconds_with_workers)
    run = Command(folder, *words)
    seen: list[int] = []

    def pick(workers: list[int]) -> int:
        seen.extend(workers)
        return draw.choice(workers)

    code = run.stop_worker(pick, moment, signal.Signals[way], _WORKER_TIMEOUT)
    note(Stop(way, "worker", moment, code, time.perf_counter() - started))
    if left := [worker for worker in seen if Path(f"/proc/{worker}").exists()]:
        record.wrong.append(f"{len(left)} workers outlived the command after {way}")
    if run.hung:
        record.wrong.append(f"it hung after {way} to a worker: {' '.join(run.err.split())}")
    elif code not in (0, 2) or (code == 2 and (way == "SIGINT" or "A worker process ended early" not in run.err)):
        record.wrong.append(f"exit code {code} after {way} to a worker: {_last_line(run)}")
    if code == 0:
        record.workers_went_on += bool(seen) and way == "SIGINT"
        return False
    record.workers_stopped[way] = record.workers_stopped.get(way, 0) + 1
    record.workers_in_first_second += early
    return True


def _last_line(run: Command) -> str:
    return (run.err.strip().splitlines() or ["nothing"])[-1]


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
    report: dict[str, Any] = {"command": command, "stops": options.stops, "seed": options.seed}
    report |= {"hardware": hardware(device("cpu"), ()), "jobs": _finished_jobs(options)}
    print(f"{'job':10} {'seconds':>8} {'stopped':>8} {'workers':>8} {'finished':>9}  wrong", flush=True)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        inputs = make_inputs(Path(folder) / "given")
        for name in options.jobs:
            if name not in report["jobs"]:
                log(f"stopping {name}")
                job_folder = Path(folder) / name
                job_folder.mkdir()
                draw = Random(f"{options.seed} {name}")
                record = stop_repeatedly(
                    JOBS[name], inputs, job_folder, options.stops, draw, partial(_write, options.out, name)
                )
                report["jobs"][name] = asdict(record) | {"stops": record.stops}
                save(options.out, report)
            _print_row(name, report["jobs"][name])
    return 1 if any(job["wrong"] for job in report["jobs"].values()) else 0


def _finished_jobs(options: argparse.Namespace) -> dict[str, Any]:
    """Those in the file of an earlier run with the same settings."""
    if not options.out or not options.out.exists():
        return {}
    earlier = json.loads(options.out.read_text(encoding="utf-8"))
    if (earlier.get("stops"), earlier.get("seed")) != (options.stops, options.seed):
        raise UserError(f"{options.out} is of a run with other --stops or --seed; give another --out.")
    return dict(earlier["jobs"])


def _write(out: Path | None, job: str, stop: Stop) -> None:
    if out:
        with out.with_suffix(".log").open("a", encoding="utf-8") as file:
            file.write(
                f"{job} {stop.way} to {stop.to} at {stop.moment:.2f}: exit code {stop.code} in {stop.seconds:.1f} s\n"
            )


def _print_row(name: str, job: Mapping[str, Any]) -> None:
    wrong = "; ".join(dict.fromkeys(job["wrong"])) or "nothing"
    workers = sum(job["workers_stopped"].values())
    row = f"{name:10} {job['seconds']:8.1f} {job['stops']:8} {workers:8} {job['finished']:9}  {wrong}"
    print(row, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    sys.exit(main())
