"""What it costs that another process reads an HDF5 file first, before this one opens it.

    python -m benchmarks.open_cost [--mb 0.2,150] [--runs 20] [--before FOLDER] [--folder DIR] [--out open_cost.json]

Claim: a file costs some milliseconds once, whatever its size, and the first one of a process the start of another.
Method: datasets of random uint8 images of 3×32×32 with about as many megabytes as each of `--mb`, written by `Writer`,
and a copy of each. A process that has imported everything calls `read_info` on a file (`first`), on its copy
(`second`) and on the file again (`again`). Another process does so later, when the files are known from the first one
(`later`: its first call). Each call is timed alone, in milliseconds; both processes are started anew for each of
`--runs`, with lists of known files of their own. The files are in the page cache. `--before` is a folder with another
state of the code, measured in turn with this one.
Needs: three times the largest size of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import device

import featuregen
from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.errors import UserError
from featuregen.runtime.console import log
from featuregen.storage.schema import Header
from featuregen.storage.writer import Writer

SHAPE, CLASSES, BLOCK = (3, 32, 32), 10, 5000
PROGRAM = """
import json, sys, time
from pathlib import Path
try:
    from featuregen.storage.reader import read_info
except ImportError:
    # Its name at first.
    from featuregen.store.reader import read_info
found = []
for path in sys.argv[1:]:
    begun = time.perf_counter()
    read_info(Path(path))
    found.append(1000 * (time.perf_counter() - begun))
print(json.dumps(found))
"""
CALLS = ("first", "second", "again", "later")
Times = dict[str, list[float]]


def write_dataset(path: Path, megabytes: float) -> None:
    draw, rows = np.random.default_rng(0), max(1, math.ceil(megabytes * 1e6 / math.prod(SHAPE)))
    head = Header(
        kind="det", rows=rows, image_shape=SHAPE, dtype="uint8", classes=tuple(map(str, range(CLASSES))),
        recipe={"seed": 0, "synthesis": {"norm": "l2", "eps": 1.0, "steps": 1}},
        base={"name": "noise", "split": "train", "rows": rows, "sha256": "00"},
        source_model={"architecture": "convnet", "weights_sha256": "00"}, software={}, citation="None.",
    )  # fmt: skip
    with Writer.open(path, head) as writer:
        for start in range(writer.rows_done, rows, BLOCK):
            index = np.arange(start, min(rows, start + BLOCK))
            labels, floats = index % CLASSES, np.zeros(len(index), np.float32)
            images = draw.integers(0, 256, (len(index), *SHAPE), np.uint8)
            writer.append({
                "images": images, "index": index, "labels": labels, "source_labels": labels, "source_pred": labels,
                "start_index": index, "norm": floats, "objective": floats,
            })  # fmt: skip
        writer.finish()


def calls(code: Path, paths: Sequence[Path], state: Path) -> list[float]:
    """The milliseconds of one call after the other, in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(code), "XDG_STATE_HOME": str(state), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-P", "-c", PROGRAM, *map(str, paths)]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines()
        raise UserError(f"The code in {code} cannot be measured: {lines[-1] if lines else ran.returncode}.")
    found: list[float] = json.loads(ran.stdout)
    return found


def measured(codes: Mapping[str, Path], sizes: Sequence[float], runs: int, room: Path) -> dict[str, dict[str, Times]]:
    """Milliseconds by code, size and call. The codes take turns."""
    found: dict[str, dict[str, Times]] = {name: {} for name in codes}
    for size in sizes:
        log(f"writing {size:g} MB")
        path, copy = room / "one.h5", room / "other.h5"
        write_dataset(path, size)
        shutil.copy(path, copy)
        for number in range(runs):
            for name, code in codes.items():
                state = room / f"state-{name}-{number}"
                each = calls(code, (path, copy, path), state) + calls(code, (path,), state)
                for call, milliseconds in zip(CALLS, each, strict=True):
                    times = found[name].setdefault(f"{size:g}", {}).setdefault(call, [])
                    times.append(round(milliseconds, 3))
                shutil.rmtree(state, ignore_errors=True)
            log(f"{size:g} MB, run {number + 1} of {runs}")
        path.unlink()
        copy.unlink()
    return found


def show(found: Mapping[str, Mapping[str, Times]]) -> None:
    print(f"{'ms, median (range)':18}" + "".join(f"{call:>26}" for call in CALLS))
    for name, sizes in found.items():
        for size, times in sizes.items():
            cells = (f"{statistics.median(ms):.1f} ({min(ms):.1f}–{max(ms):.1f})" for ms in times.values())
            print(f"{f'{name}, {size} MB':18}" + "".join(f"{cell:>26}" for cell in cells))


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--mb", default="0.2,150", help="sizes of the files (default: 0.2,150)")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--before", type=Path, help="a folder with another state of the code")
    parser.add_argument("--folder", type=Path, help="on a disk with room; default: the system's for such files")
    parser.add_argument("--out", type=Path, help="JSON with every time")
    options = parser.parse_args(words)
    try:
        options.sizes = [float(size) for size in options.mb.split(",")]
    except ValueError:
        raise UserError(f"--mb is '{options.mb}'; give sizes such as 0.2,150.") from None
    if not all(0 < size < math.inf for size in options.sizes) or options.runs < 1:
        raise UserError(f"--mb {options.mb} --runs {options.runs}: give sizes above 0, and at least one run.")
    if options.before and not (options.before / "featuregen").is_dir():
        raise UserError(f"--before {options.before} has no folder featuregen; give a checkout of this repository.")
    return options


def compare(options: argparse.Namespace) -> int:
    codes = {"now": Path(featuregen.__file__).parents[1]}
    if options.before:
        codes["before"] = options.before.resolve()
    with tempfile.TemporaryDirectory(prefix="open-cost-", dir=options.folder) as room:
        found = measured(codes, options.sizes, options.runs, Path(room))
    command = f"python -m benchmarks.open_cost --mb {options.mb} --runs {options.runs}"
    about: dict[str, Any] = {"command": command, "hardware": hardware(device("cpu"), ())}
    save(options.out, about | {"milliseconds": found})
    show(found)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    sys.exit(main())
