"""Growth of time and memory with rows, image size and batch size.

    export GOMP_SPINCOUNT=10000  # as the commands of featuregen do
    python -m benchmarks.cost_growth [--out growth.json] [--plot growth.png] [--runs 3]

Claim: both grow linearly with rows, with pixels per image and with images per batch.
Method: D_R sets of noise, 2 steps, by an untrained convnet of width 16 in fp32 on the CPU, through the public path into
a file. Every run is a process of its own. Its time is that of making the set; its memory is the peak of the process
(VmHWM) above what it took before it had any images. Runs of all points are interleaved; a point is the median, its bar
the range. The line minimises relative errors; `off` is a point's distance from it. What is not varied stays at 2000
rows, 32 pixels a side and 256 images a batch.
Needs: Linux, for the peak of a process, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.processes import resident
from benchmarks.scoreboard import hardware
from benchmarks.where_time_goes import noise_set
from featuregen.config.schema import Config, Data, Model, Runtime, Synthesis
from featuregen.experiment.experiment import Experiment
from featuregen.models.io import TrainedModel
from featuregen.models.registry import build_classifier
from featuregen.report.canvas import BLUE, FAINT, drawing
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec


@dataclass(frozen=True)
class Point:
    rows: int = 2000
    side: int = 32
    batch: int = 256


ROWS = (1000, 2000, 5000, 10000, 20000, 50000)
SIDES = (28, 32, 48, 64, 80, 96)
BATCHES = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Axis:
    """One quantity that is varied: the points, what the line is drawn over, and what its cost is counted in."""

    name: str
    points: tuple[Point, ...]
    over: Callable[[Point], float]
    cost: Callable[[Point, float], float]
    unit: str


AXES = (
    Axis("rows", tuple(Point(rows=rows) for rows in ROWS), lambda p: p.rows, lambda p, s: s, "s"),
    Axis("pixels per image", tuple(Point(side=side) for side in SIDES), lambda p: p.side**2, lambda p, s: s, "s"),
    Axis(
        "images per batch",
        tuple(Point(batch=batch) for batch in BATCHES),
        lambda p: p.batch,
        # Every batch has the same shape, the last one padded.
        lambda p, s: 1000 * s / -(-p.rows // p.batch),
        "ms per batch",
    ),
)


def cost(point: Point) -> tuple[float, float]:
    """Seconds and peak MiB of one set, in this process."""
    shape = (3, point.side, point.side)
    net = build_classifier(Model("convnet", 16), shape, 10, [0.5] * 3, [0.25] * 3, 0).eval()
    # What libraries load at their first use is no part of the growth.
    torch.autograd.grad(net(torch.rand((2, *shape), requires_grad=True)).sum(), list(net.parameters()))
    before = resident("VmRSS") or 0
    recipe = Synthesis(steps=2, batch_size=point.batch)
    runtime = Runtime(device="cpu", precision="fp32", convolution="direct")
    config = Config(data=Data("noise"), model=Model("convnet", 16), synthesis={"robust": recipe}, runtime=runtime)
    with tempfile.TemporaryDirectory() as name:
        experiment = Experiment(
            config, name, base=noise_set(point.rows, point.side), compute=ComputeSpec(torch.device("cpu"))
        )
        maker = TrainedModel(net, {"settings": {}}, Path("untrained"))
        started = time.perf_counter()
        experiment.make_dataset("robust", Path(name) / "set.h5", source=maker)
        seconds = time.perf_counter() - started
    return seconds, ((resident("VmHWM") or 0) - before) / 2**20


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Offset and slope with the least relative errors."""
    weights = 1 / np.asarray(y)
    rows = np.stack([weights, weights * np.asarray(x)], 1)
    offset, value_and_grad = np.linalg.lstsq(rows, np.ones(len(y)), rcond=None)[0]
    return float(offset), float(value_and_grad)


def described(axis: Axis, found: dict[Point, list[tuple[float, float]]]) -> dict[str, Any]:
    """Points, lines and distances from them, of time and of memory."""
    x = [axis.over(point) for point in axis.points]
    record: dict[str, Any] = {"over": axis.name, "points": [asdict(point) for point in axis.points], "x": x}
    for part, unit in ((0, axis.unit), (1, "MiB")):
        runs = [[axis.cost(p, run[0]) if part == 0 else run[1] for run in found[p]] for p in axis.points]
        y = [statistics.median(values) for values in runs]
        offset, value_and_grad = line(x, y)
        off = [value / (offset + value_and_grad * at) - 1 for at, value in zip(x, y, strict=True)]
        name = "memory" if part else "time"
        record[name] = {"unit": unit, "runs": runs, "median": y, "offset": offset, "slope": value_and_grad, "off": off}
    return record


def show(record: dict[str, Any]) -> None:
    for part in ("time", "memory"):
        one = record[part]
        print(f"\n{part} ({one['unit']}) = {one['offset']:.4g} + {one['value_and_grad']:.4g} x {record['over']}")
        for x, y, off in zip(record["x"], one["median"], one["off"], strict=True):
            print(f"  {x:8g} {y:10.2f} {100 * off:+6.1f} % off")


def plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    with drawing(path, 900, 440) as figure:
        axes = figure.subplots(2, len(records), squeeze=False)
        for column, record in enumerate(records):
            for row, part in enumerate(("time", "memory")):
                panel, one = axes[row][column], record[part]
                low, high = min(record["x"]), max(record["x"])
                ends = [one["offset"] + one["slope"] * x for x in (low, high)]
                panel.plot([low, high], ends, color=FAINT, linewidth=1)
                spread = [[m - min(r), max(r) - m] for m, r in zip(one["median"], one["runs"], strict=True)]
                panel.errorbar(record["x"], one["median"], yerr=np.transpose(spread), fmt="o", color=BLUE, markersize=4)
                panel.set_xlim(0)
                panel.set_ylim(0)
                panel.set_ylabel(f"{part}, {one['unit']}")
                panel.set_xlabel(record["over"])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON with every run")
    parser.add_argument("--plot", type=Path, help="PNG")
    options = parser.parse_args(words)
    if options.runs < 1 or resident("VmHWM") is None:
        print("error: give at least one run, on a system that tells a process' peak (Linux).", file=sys.stderr)
        return 2
    points = list(dict.fromkeys(point for axis in AXES for point in axis.points))
    found: dict[Point, list[tuple[float, float]]] = {point: [] for point in points}
    context = multiprocessing.get_context("spawn")
    for number in range(options.runs):
        for point in points:
            log(f"run {number + 1} of {options.runs}: {point}")
            with context.Pool(1) as pool:
                found[point].append(pool.apply(cost, (point,)))
    records = [described(axis, found) for axis in AXES]
    about = hardware(torch.device("cpu"), [])
    print(f"{about['processor']}, {about['threads']} threads, torch {about['versions']['torch']}, {options.runs} runs")
    for record in records:
        show(record)
    if options.out:
        options.out.write_text(json.dumps({"hardware": about, "axes": records}, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot(options.plot, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
