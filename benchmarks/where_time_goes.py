"""The shares of a synthesis run's time: forward pass, gradient, and everything else.

    export GOMP_SPINCOUNT=10000  # as the commands of featuregen do
    python -m benchmarks.where_time_goes [--model resnet18] [--kind robust] [--images 128] [--steps 20] [--out FILE.txt]

Claim: a run of a ResNet-sized model spends at most 5 % of its time outside the model's forward and backward passes.
Method: three runs on the CPU of the public path: synthesis into the HDF5 writer, measuring and storing included. The
model is untrained, which changes no time. The clock is read around calls of the network and of `torch.autograd.grad`,
so everything else counts as outside: steps, projection, clamping, rounding, random numbers, files. The operators are
listed from a further run, since torch's profiler slows what it watches.
Needs: nothing.
Exit code: 1 if the claim does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.scoreboard import processor
from featuregen import __version__
from featuregen.compute.autotune import pick_compute_spec
from featuregen.config.schema import Config, Data, Model, Runtime, Synthesis
from featuregen.data.base_dataset import BaseDataset, ImageSplit
from featuregen.experiment.experiment import Experiment
from featuregen.models.classifier import Classifier
from featuregen.models.io import TrainedModel
from featuregen.models.registry import build_classifier
from featuregen.runtime.device import ComputeSpec

CLAIM = 0.05
RUNS = 3


class Clock:
    """Seconds inside the model, by part; nested calls count once, where they were entered."""

    def __init__(self) -> None:
        self.seconds = {"forward": 0.0, "backward": 0.0}
        self._busy = False

    def watched(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._busy:
                return call(*arguments, **named)
            self._busy, started = True, time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self._busy = False

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        kept = Classifier.features, Classifier.head, torch.autograd.grad
        changed: Any = Classifier
        changed.features = self.watched("forward", kept[0])
        changed.head = self.watched("forward", kept[1])
        torch.autograd.grad = self.watched("backward", kept[2])
        try:
            yield
        finally:
            changed.features, changed.head, torch.autograd.grad = kept


def shares(run: Callable[[], object]) -> dict[str, float]:
    """Of the time of one run: forward, backward, outside."""
    clock = Clock()
    with clock.watching():
        started = time.perf_counter()
        run()
        whole = time.perf_counter() - started
    found = {part: seconds / whole for part, seconds in clock.seconds.items()}
    return {**found, "outside": 1 - sum(found.values()), "seconds": whole}


def noise_set(images: int, side: int = 32) -> BaseDataset:
    draw = np.random.default_rng(0)
    parts = [
        ImageSplit(draw.integers(0, 256, (count, side, side, 3), dtype=np.uint8), np.arange(count) % 10)
        for count in (images, 10)
    ]
    return BaseDataset("noise", parts[0], parts[1], tuple("0123456789"), "none", "")


def synthesis_run(options: argparse.Namespace, folder: Path) -> tuple[Callable[[], object], ComputeSpec]:
    """One run of the public path with a model that is there already."""
    ball: dict[str, Any] = {} if options.kind == "robust" else {"norm": "l2", "eps": 0.5}
    recipe = Synthesis(steps=options.steps, step_size=0.1, batch_size=options.batch, **ball)
    net = build_classifier(Model(options.model), (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, 0).eval()
    compute, _ = pick_compute_spec(Runtime(device="cpu"), lambda: net)
    config = Config(data=Data("noise"), model=Model(options.model), synthesis={options.kind: recipe})
    experiment = Experiment(config, folder, base=noise_set(options.images), compute=compute)
    maker = TrainedModel(net, {"settings": {}, "accuracy": {}}, folder / "untrained")
    return lambda: experiment.make_dataset(options.kind, folder / "set.h5", source=maker, force=True), compute


def operators(run: Callable[[], object]) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        run()
    table: str = watched.key_averages().table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=40)
    return "\n".join(line[:101].rstrip() for line in table.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--kind", default="robust", choices=["robust", "det"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run, compute = synthesis_run(options, Path(name))
        run()
        found = []
        for number in range(RUNS):
            found.append(shares(run))
            print(f"run {number + 1}: {100 * found[-1]['outside']:.1f} % outside", file=sys.stderr)
        listing = operators(run)
    lines = [
        f"{options.kind} set of {options.images} images, {options.steps} steps, {options.model}, "
        f"batch {options.batch}, {compute.name};",
        f"featuregen {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}.",
        "",
        f"share of the time in %, median (smallest-largest) of {RUNS} runs:",
    ]
    for part in ("forward", "backward", "outside"):
        values = [100 * each[part] for each in found]
        lines.append(f"  {part:9} {statistics.median(values):5.1f}  ({min(values):.1f}-{max(values):.1f})")
    outside = statistics.median(each["outside"] for each in found)
    verdict = "holds" if outside <= CLAIM else "does not hold"
    lines += ["", f"claim: at most {100 * CLAIM:g} % outside: {verdict}", "", "operators of a further run:", listing]
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if outside <= CLAIM else 1


if __name__ == "__main__":
    sys.exit(main())
