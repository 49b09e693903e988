"""Throughput of two processes of torchrun that make one set, beside that of one process.

    python -m benchmarks.shard_throughput [--processes 2] [--rows 512] [--steps 40] [--rounds 3] [--threads 1]
        [--out shard_throughput.json]

Claim: the first two contenders make files of equal digests. The speed-up is reported, not claimed.
Method: D_R of random 32×32 images, by a ResNet-9 of width 16 (untrained: arithmetic takes as long with any weights),
through the command as a user types it. Rows per second count the steps alone: each command's time less that of the same
command with one step, which starts, writes, merges and verifies as well; beside it the ratio of whole times. Contenders
take turns, `--rounds` times; medians are reported with the smallest and largest ratio of a round. All processes take
`--threads` threads. The third row is one process with as many threads as all others together, which is what a user
would otherwise choose (it rounds sums differently, so its digest differs). `--out` keeps the seconds of every run.
Needs: as many cores as `--processes` times `--threads`.
Exit code: 1 if the digests of the first two differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import subjects
from benchmarks.scoreboard import exit_code, hardware, processor
from benchmarks.side_by_side import save
from featuregen.config.schema import Model
from featuregen.errors import UserError
from featuregen.models.io import save_model
from featuregen.models.registry import build_classifier
from featuregen.storage.reader import read_info

CONFIG = """
data: {{name: {data}}}
runtime: {{device: cpu, precision: fp32, convolution: direct}}
synthesis:
  robust: {{steps: 1, step_size: 1.0, schedule: polyak, momentum: 0.9, batch_size: {batch}}}
"""


@dataclass(frozen=True)
class Contender:
    name: str
    processes: int
    threads: int


@dataclass(frozen=True)
class Times:
    """Seconds of the whole command, and of its steps alone."""

    whole: float
    steps: float


def prepared(folder: Path, rows: int, batch: int) -> None:
    """Images, a model that is there already, and the settings."""
    images = subjects.smooth_images(rows)
    pixels = np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    labels = np.arange(rows) % 10
    few = min(rows, 10)
    np.savez(folder / "drawn.npz", x_train=pixels, y_train=labels, x_test=pixels[:few], y_test=labels[:few])
    model = build_classifier(Model("resnet9", 16), (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, seed=0)
    subjects.take_statistics(model, torch.from_numpy(images[:64]))
    save_model(model.eval(), folder / "source.safetensors")
    config = CONFIG.format(data=json.dumps(str(folder / "drawn.npz")), batch=batch)
    (folder / "settings.yaml").write_text(config, encoding="utf-8")


def seconds(folder: Path, contender: Contender, steps: int) -> float:
    """One run of the command, from nothing."""
    out = folder / f"{contender.processes}-{contender.threads}-{steps}.h5"
    out.unlink(missing_ok=True)
    start = [sys.executable, "-m"]
    if contender.processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(contender.processes), "-m"]
    words = ["featuregen", "make-dataset", "robust", "--config", str(folder / "settings.yaml"), "--steps", str(steps)]
    words += ["--source", str(folder / "source.safetensors"), "--out", str(out)]
    words += ["--set", f"runtime.threads={contender.threads}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(contender.threads)}
    started = time.perf_counter()
    done = subprocess.run([*start, *words], env=environment, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{contender.name} failed:\n{done.stderr}")
    return spent


def measured(folder: Path, contenders: list[Contender], steps: int, rounds: int) -> dict[str, list[Times]]:
    """In turn, so that whatever slows the machine for a while slows all."""
    found: dict[str, list[Times]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            idle, whole = (seconds(folder, contender, count) for count in (1, steps))
            found[contender.name].append(Times(whole, (whole - idle) * steps / (steps - 1)))
    return found


def digest(folder: Path, contender: Contender, steps: int) -> str:
    return read_info(folder / f"{contender.processes}-{contender.threads}-{steps}.h5").content_sha256


def told(found: dict[str, list[Times]], rows: int, steps: int) -> list[str]:
    lines = [f"{'':34}{'rows/s':>8}{'times as fast':>24}{'whole command':>15}"]
    first = next(iter(found.values()))
    for name, times in found.items():
        rate = rows / statistics.median(each.steps for each in times)
        ratios = [one.steps / own.steps for one, own in zip(first, times, strict=True)]
        whole = statistics.median(one.whole / own.whole for one, own in zip(first, times, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"{name:34}{rate:8.1f}{spread:>24}{whole:15.2f}")
    return [*lines, f"{rows} rows of {steps} steps, {len(first)} rounds; {processor()}, {os.cpu_count()} cores"]


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON with the seconds of every run")
    options = parser.parse_args(words)
    for name, least in (("processes", 2), ("threads", 1), ("rows", 10), ("batch", 1), ("steps", 2), ("rounds", 1)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name} is {value}; give at least {least}.")
    if (batches := -(-options.rows // options.batch)) % options.processes:
        raise UserError(
            f"{options.rows} rows in batches of {options.batch} are {batches} batches, which {options.processes} "
            "processes cannot share evenly; change --rows, --batch or --processes."
        )
    return options


def compare(options: argparse.Namespace) -> int:
    count, threads = options.processes, options.threads
    one = Contender(f"one process, {threads} thread{'s' * (threads > 1)}", 1, threads)
    several = Contender(f"{count} processes, {threads} thread{'s' * (threads > 1)} each", count, threads)
    wide = Contender(f"one process, {count * threads} threads", 1, count * threads)
    with tempfile.TemporaryDirectory(prefix="throughput-") as room:
        folder = Path(room)
        prepared(folder, options.rows, options.batch)
        found = measured(folder, [one, several, wide], options.steps, options.rounds)
        same = digest(folder, one, options.steps) == digest(folder, several, options.steps)
    names = ("processes", "threads", "rows", "batch", "steps", "rounds")
    save(
        options.out,
        {
            "command": " ".join(
                ["python -m benchmarks.shard_throughput", *(f"--{name} {getattr(options, name)}" for name in names)]
            ),
            "hardware": hardware(torch.device("cpu"), ()),
            "contenders": {name: [asdict(each) for each in times] for name, times in found.items()},
            "same_digest": same,
        },
    )
    print("\n".join(told(found, options.rows, options.steps)))
    print(f"the same content digest: {'yes' if same else 'NO'}")
    return 0 if same else 1


def main(words: Sequence[str] | None = None) -> int:
    return exit_code(lambda: compare(read_options(words)))


if __name__ == "__main__":
    raise SystemExit(main())
