"""Is every job, stopped at any moment, finished by the same command to the same result?

    python benchmarks/kills.py [--jobs train,make] [--stops 20] [--seed 0] [--out kills.json]

Claim to check: however often a job is stopped, its results are those of an undisturbed run, and no other file is left.
Every job is run to its end once. Then it is run in an empty folder again and again, each run stopped in a way drawn by
lot: in five of seven by a signal (SIGKILL in three, SIGTERM, SIGINT, which is Ctrl-C), half of them right before a file
operation drawn by lot, so that the first lock, every stage and the last rename come up, half at a moment drawn evenly
from the time that the undisturbed run took; or by a disk on which no file gets larger than a size drawn by lot, or a
system that gives no more memory than a share, drawn by lot, of what the undisturbed run took. A run that ends by itself
is looked at: the same files, and in them the same arrays, weights, records and numbers, whatever time and seconds they
tell. Then the folder is emptied, and on it goes until so many runs have been stopped; the last one is finished. At last
two runs are started together, in an empty folder: one may refuse, the result is the same. Imports
are over before the clock starts. All on scikit-learn's digits with tiny recipes, every training saved after every
epoch. Exit code 1 if any result differs, any file is left, or a run ends otherwise than with one sentence and its code
(a run without memory may end anyhow).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from processes import Command, Limits
from safetensors import safe_open
from scoreboard import exit_code, hardware
from side_by_side import save
from torch import device

from featuregen.config import closest
from featuregen.errors import UserError
from featuregen.runtime import note
from featuregen.store import read_info

CONFIG = """
model: {architecture: convnet, width: 8}
runtime: {device: cpu, precision: fp32, convolution: direct, threads: 1, save_every: 0}
sources:
  standard: {epochs: 3, batch_size: 64, lr: 0.1}
  robust: {epochs: 3, batch_size: 64, lr: 0.1, attack: {norm: l2, eps: 0.5, steps: 1}}
synthesis:
  robust: &features {steps: 3, step_size: 0.3, batch_size: 64, rows: 300}
  det: {steps: 3, step_size: 0.3, norm: l2, eps: 1.0, batch_size: 64, rows: 300}
fresh:
  robust: &fresh {epochs: 2, batch_size: 20, lr: 0.1}
  det: *fresh
evaluation: {seeds: 2, l2: [0.5], headline: 0.5, linf: [], steps: 2}
honesty: {eps: [1.0], rows: 50}
"""
# What a run of the same settings may say otherwise.
_PASSING = {"seconds", "timings", "software", "created", "file", "config"}
_WAYS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "full disk", "out of memory")
# Before featuregen answers a signal, typer does.
_CODES = {"SIGKILL": {-signal.SIGKILL}, "SIGTERM": {143, 130}, "SIGINT": {130}, "full disk": {2}}
# Room for what a command says, which goes to files as well.
_SMALLEST_FILE = 2000
# So often two runs are started together.
RACES = 5


@dataclass(frozen=True)
class Job:
    """A command, given the folder for what it makes and one with the files it needs."""

    words: Callable[[Path, Path], list[str | Path]]


JOBS: dict[str, Job] = {
    "train": Job(lambda out, given: ["train", "--robust", *_config(given), "--out", out / "robust.safetensors"]),
    "make": Job(lambda out, given: ["make-dataset", "det", *_config(given), "--out", out / "det.h5"]),
    "evaluate": Job(lambda out, given: ["evaluate", given / "det.h5", "--out", out]),
    "reproduce": Job(lambda out, given: ["reproduce", *_config(given), "--out", out]),
    "attack": Job(
        lambda out, given: [
            "attack", given / "standard.safetensors", "--attack", "pgd", "--eps", "0.5", "--rows", "300",
            "--out", out / "pgd.h5",
        ]
    ),
    "flips": Job(
        lambda out, given: [
            "flips", given / "standard.safetensors", "--attacks", "fgsm,pgd", "--eps", "0.5", "--rows", "200",
            "--out", out / "flips",
        ]
    ),
    "transfer": Job(
        lambda out, given: [
            "transfer", *_config(given), "--models", "convnet:8,convnet:4", "--seeds", "1", "--out", out,
        ]
    ),
    "merge": Job(lambda out, given: ["merge", *sorted(given.glob("shard-*.h5")), "--out", out / "det.h5"]),
    "share": Job(lambda out, given: ["share", given / "det.h5", "--out", out / "folder"]),
    "remake": Job(lambda out, given: ["remake", given / "det.h5", "--out", out / "again.h5"]),
    "import": Job(
        lambda out, given: [
            "import", given / "released", "--kind", "det", *_config(given), "--data", "digits", "--within", "1.1",
            "--out", out / "det.h5",
        ]
    ),
    "export": Job(
        lambda out, given: ["export", given / "det.h5", "--format", "imagefolder", "--out", out / "pictures"]
    ),
}  # fmt: skip


def _config(given: Path) -> list[str | Path]:
    return ["--config", given / "tiny.yaml"]


def given_files(folder: Path) -> Path:
    """The config, a model and a dataset, which several jobs need."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    _finished(Command(folder, "train", *_config(folder), "--out", folder / "standard.safetensors"))
    det = ["make-dataset", "det", *_config(folder), "--source", folder / "standard.safetensors", "--out"]
    _finished(Command(folder, *det, folder / "det.h5"))
    for number in (1, 2):
        _finished(Command(folder, *det, folder / f"shard-{number}.h5", "--shard", f"{number}/2"))
    _finished(Command(folder, "export", folder / "det.h5", "--format", "madry", "--out", folder / "released"))
    return folder


def _finished(run: Command) -> Command:
    if run.wait() != 0:
        raise UserError(f"A run ended with an error of its own: {run.err.strip().splitlines()[-1]}")
    return run


# Results -------------------------------------------------------------------------------------------


def results_of(folder: Path) -> dict[str, str]:
    """What lies there, by its name: whatever of it two equal runs have in common."""
    return {path.relative_to(folder).as_posix(): _essence(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _essence(path: Path) -> str:
    if path.suffix == ".h5":
        return read_info(path).content_sha256
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return _lasting(json.loads(file.metadata()["featuregen"]))
    if path.suffix == ".json":
        return _lasting(json.loads(path.read_text(encoding="utf-8")))
    # The page tells the timings.
    return "" if path.suffix == ".html" else path.read_bytes().hex()


def _lasting(tree: Any) -> str:
    return json.dumps(_without(tree), sort_keys=True)


def _without(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without(value) for key, value in tree.items() if key not in _PASSING}
    return [_without(value) for value in tree] if isinstance(tree, list) else tree


def differing(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    odd = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    odd += [f"{name} is left over" for name in sorted(found.keys() - wanted.keys())]
    return odd + [f"{name} differs" for name in sorted(wanted) if name in found and wanted[name] != found[name]]


# Killing -------------------------------------------------------------------------------------------


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
    run = _finished(Command(room, *job.words(undisturbed, given)))
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
            _finished(Command(room, *words))
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
    if way in _CODES and code not in _CODES[way]:
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
            raise UserError(f"--jobs has no '{name}'; {closest(name, JOBS)}")
    if options.stops < 1:
        raise UserError(f"--stops is {options.stops}; give at least 1.")
    return options


def compare(options: argparse.Namespace) -> int:
    command = (
        f"python benchmarks/kills.py --jobs {','.join(options.jobs)} --stops {options.stops} --seed {options.seed}"
    )
    told: dict[str, Any] = {"command": command, "hardware": hardware(device("cpu"), ()), "jobs": {}}
    print(f"{'job':10} {'seconds':>8} {'stopped':>8} {'finished':>9}  wrong", flush=True)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        given = given_files(Path(folder) / "given")
        for name in options.jobs:
            note(f"stopping {name}")
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
