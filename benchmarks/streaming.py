"""Memory of the commands when a base set on disk is larger than the memory that a process may take.

    python -m benchmarks.streaming [--gib 0.5,2.5] [--limit 2] [--runs 1] [--folder DIR] [--out streaming.json]

Claim: a base set in HDF5 costs disk and no memory: a command's peak grows by at most a tenth of what the set does.
Method: random colour images of 64×64, half for training and half for testing, one set for each size in GiB; as
float32, which models take, they are four times as large. On each set run `train` (one epoch of a convnet of width 4),
`make-dataset` (500 rows of D_det drawn from all, with that model), `evaluate` (that set: a fresh model, tested on all
test images) and `attack` (200 test images). Every command is a process that may take `--limit` GiB of private memory
(RLIMIT_DATA), too little to read the largest set into memory, which is tried. The reported peak is that of the process,
with libraries (VmHWM).
Needs: Linux, as much disk as the largest set, and minutes.
Exit code: 1 if a command fails, or the claim does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import multiprocessing
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import device

from benchmarks.processes import resident
from benchmarks.scoreboard import exit_code, hardware
from benchmarks.side_by_side import save
from featuregen.errors import UserError
from featuregen.runtime.console import log

CONFIG = """
model: {architecture: convnet, width: 4}
runtime: {device: cpu, precision: fp32, convolution: direct, threads: 1}
sources: {standard: {epochs: 1, batch_size: 256, lr: 0.1}}
synthesis: {det: {steps: 1, step_size: 0.3, norm: l2, eps: 1.0, batch_size: 100, rows: 500}}
fresh: {det: {epochs: 1, batch_size: 100, lr: 0.1}}
evaluation: {seeds: 1, l2: [0.5], headline: 0.5, linf: [], steps: 2, rows: 200}
"""
SIDE, CLASSES, BLOCK = 64, 10, 1000
ROW_BYTES = SIDE * SIDE * 3
GIB = 2**30
SHARE = 0.1
# 500 rows are drawn of the half that is for training.
LEAST = 0.02


def write_set(path: Path, gib: float) -> None:
    draw, rows = np.random.default_rng(0), math.ceil(gib * GIB / ROW_BYTES / 2)
    with h5py.File(path, "w") as root:
        for part in ("train", "test"):
            root[f"y_{part}"] = (np.arange(rows) % CLASSES).astype(np.uint8)
            shape = (rows, SIDE, SIDE, 3)
            images = root.create_dataset(f"x_{part}", shape, np.uint8, chunks=(4, *shape[1:]))
            for first in range(0, rows, BLOCK):
                count = min(BLOCK, rows - first)
                images[first : first + count] = draw.integers(0, 256, (count, *shape[1:]), np.uint8)


def commands(data: Path, folder: Path) -> dict[str, list[str | Path]]:
    net, made = folder / "net.safetensors", folder / "det.h5"
    common: list[str | Path] = ["--config", folder / "settings.yaml", "--data", data]
    return {
        "train": ["train", "--standard", *common, "--out", net],
        "make-dataset": ["make-dataset", "det", *common, "--source", net, "--out", made],
        "evaluate": ["evaluate", made, "--data", data, "--out", folder],
        "attack": [
            *("attack", net, "--attack", "fgsm", "--eps", "0.1", "--rows", "200", "--data", data),
            *("--out", folder / "fgsm.h5"),
        ],
    }  # fmt: skip


def limited(words: list[str], limit: int) -> tuple[int, float]:
    """Exit code and peak MiB of a command in this process, which must have no other use."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from featuregen.cli import app

    code = 0
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            app(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
        except MemoryError:
            code = 1
    return code, (resident("VmHWM") or 0) / 2**20


def can_be_held(path: Path, limit: int) -> bool:
    """Whether a process so limited could read the images at once."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        with h5py.File(path, "r") as root:
            held = [root[f"x_{part}"][:] for part in ("train", "test")]
    except MemoryError:
        return False
    return len(held) > 0


def alone(job: Any, *values: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(job, values)


def measured(sizes: Sequence[float], limit: float, runs: int, room: Path) -> dict[str, Any]:
    """Peaks by command and size; the sets one after the other, so that the disk holds one."""
    peaks: dict[str, dict[str, list[float]]] = {}
    failed: list[str] = []
    held = True
    for gib in sizes:
        log(f"writing {gib:g} GiB")
        data = room / "large.h5"
        write_set(data, gib)
        held = alone(can_be_held, data, int(limit * GIB))
        for number in range(runs):
            folder = room / f"{gib:g}-{number}"
            folder.mkdir()
            (folder / "settings.yaml").write_text(CONFIG, encoding="utf-8")
            for name, words in commands(data, folder).items():
                code, peak = alone(limited, [str(word) for word in words], int(limit * GIB))
                log(f"{gib:g} GiB, run {number + 1} of {runs}: {name} {peak:.0f} MiB")
                peaks.setdefault(name, {}).setdefault(f"{gib:g}", []).append(round(peak, 1))
                failed += [f"{name} at {gib:g} GiB: exit code {code}"] if code else []
            shutil.rmtree(folder)
        data.unlink()
    return {"peak_mib": peaks, "failed": failed, "largest_can_be_held": held}


def grown(peaks: dict[str, list[float]]) -> float:
    """MiB from the smallest set's highest peak to the largest set's."""
    each = list(peaks.values())
    return max(each[-1]) - max(each[0])


def show(found: dict[str, Any], sizes: Sequence[float]) -> None:
    print(f"{'peak, MiB':14}" + "".join(f"{f'{gib:g} GiB':>20}" for gib in sizes) + f"{'grown':>10}")
    for name, peaks in found["peak_mib"].items():
        cells = [", ".join(f"{peak:.0f}" for peak in runs) for runs in peaks.values()]
        print(f"{name:14}" + "".join(f"{cell:>20}" for cell in cells) + f"{grown(peaks):10.0f}")
    for failure in found["failed"]:
        print(failure)
    fits = "could" if found["largest_can_be_held"] else "cannot"
    print(f"a process so limited {fits} read the largest set into memory")


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--gib", default="0.5,2.5", help="sizes of the set, ascending (default: 0.5,2.5)")
    parser.add_argument("--limit", type=float, default=2.0, help="GiB that a command may take (default: 2)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="on a disk with room; default: the system's for such files")
    parser.add_argument("--out", type=Path, help="JSON with every peak")
    options = parser.parse_args(words)
    try:
        options.sizes = [float(size) for size in options.gib.split(",")]
    except ValueError:
        raise UserError(f"--gib is '{options.gib}'; give sizes such as 0.5,2.5.") from None
    ascending = len(options.sizes) > 1 and sorted(set(options.sizes)) == options.sizes
    if not ascending or not all(LEAST <= size < math.inf for size in options.sizes):
        raise UserError(f"--gib is '{options.gib}'; give at least two sizes, ascending, from {LEAST} on.")
    if options.runs < 1 or not 0 < options.limit < math.inf:
        raise UserError(f"--runs {options.runs} --limit {options.limit:g}: give at least one run, and a limit above 0.")
    if resident("VmHWM") is None:
        raise UserError("This system does not tell a process' peak; Linux does.")
    if options.folder and not options.folder.is_dir():
        raise UserError(f"--folder {options.folder} is no folder; make it, or leave it out.")
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free / GIB
    if free < options.sizes[-1] + 1:
        raise UserError(f"{options.sizes[-1] + 1:g} GiB of disk are needed and {free:.1f} are free; choose a --folder.")
    return options


def compare(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="streaming-", dir=options.folder) as room:
        found = measured(options.sizes, options.limit, options.runs, Path(room))
    command = f"python -m benchmarks.streaming --gib {options.gib} --limit {options.limit:g} --runs {options.runs}"
    about = {"command": command, "hardware": hardware(device("cpu"), ()), "limit_gib": options.limit}
    save(options.out, about | found)
    show(found, options.sizes)
    allowed = SHARE * 1024 * (options.sizes[-1] - options.sizes[0])
    flat = all(grown(peaks) <= allowed for peaks in found["peak_mib"].values())
    return 0 if flat and not found["failed"] else 1


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    sys.exit(main())
