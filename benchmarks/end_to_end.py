"""Time to make D_R with featuregen and with robustness until the features of the images are equally near their targets.

    featuregen train --data cifar10.npz --model resnet9 --set model.width=16 --norm l2 --eps 0.5 --steps 3 --epochs 4 \\
        --lr 0.2 --set sources.robust.weight_decay=5e-4 --set sources.robust.augment.crop=4 \\
        --set sources.robust.augment.flip=true --out robust.safetensors
    export GOMP_SPINCOUNT=10000  # as the commands of featuregen do
    python -m benchmarks.end_to_end --data cifar10.npz --source robust.safetensors [--images 2000] [--steps 200]

Claim: featuregen is at least 15 times faster on two CPU cores.
Method: `robustness` takes `--steps` of the paper's steps of 0.1, and the distance that it reaches is the goal.
featuregen takes the fewest steps of its recipe `fast` whose median and 95th percentile are no worse; the number is
found on a first batch with 3 % to spare, and its search is not timed. Then both make all images, batch by batch in
turn, from the same starts, targets and weights. featuregen's time is that of its public path, rounding and the
measurement of the stored values included; that of `robustness` is its attack alone. Distances are relative, of the
values stored as uint8, measured by the unfolded fp32 model. The ratio is that of the sums; beside it the smallest and
largest ratio of a batch.
Needs: a base set as .npz and a robust model as above.
Exit code: 1 if the images are not as near, or the claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.contenders import Row
from benchmarks.peers import Robustness
from benchmarks.scoreboard import hardware
from featuregen.compute.autotune import pick_compute_spec
from featuregen.compute.optimize import quantize, to_unit_range
from featuregen.config.loader import from_dict
from featuregen.config.recipes import recipe_values
from featuregen.config.schema import Data, Runtime, Synthesis
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import load_model
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, resolve_device, tune_malloc
from featuregen.synthesis.generate import RowPlan, make_plan, synthesize

CLAIM = 15.0
# How near the first batch must be, so that all the others together are.
MARGIN = 0.97
Distances = NDArray[np.float64]


class Job:
    """The same rows for both: bases, starts, and the model that made them robust."""

    def __init__(self, model: Classifier, base: BaseDataset, device: torch.device, batch: int) -> None:
        self.model, self.base, self.device, self.batch = model, base, device, batch
        self.compute, _ = pick_compute_spec(Runtime(device=str(device)), lambda: model)
        self._peer = Robustness(model, frozen=False)

    def plan(self, first: int) -> RowPlan:
        rows = np.arange(first, first + self.batch)
        return make_plan("robust", self.base.train.labels, rows, len(self.base.classes), seed=0)

    def ours(self, first: int, recipe: Synthesis) -> tuple[float, Distances]:
        plan = self.plan(first)
        run = partial(synthesize, "robust", recipe, self.model, self.base.train, plan, seed=0, compute=self.compute)
        seconds, columns = self._timed(lambda: list(run()))
        return seconds, self._distances(plan, torch.from_numpy(columns[0]["images"]).to(self.device))

    def theirs(self, first: int, steps: int) -> tuple[float, Distances]:
        plan = self.plan(first)
        start, base = (self.base.train.images_tensor(self.device, rows) for rows in (plan.start_index, plan.index))
        row = Row("invert", "features", "l2", 0.0, steps, 0.1)
        self.model.requires_grad_(True)
        seconds, moved = self._timed(lambda: self._peer.invert(row, start, base))
        return seconds, self._distances(plan, quantize(moved.clamp(0, 1), "uint8", None))

    def _timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        started = time.perf_counter()
        found = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started, found

    @torch.no_grad()
    def _distances(self, plan: RowPlan, stored: torch.Tensor) -> Distances:
        """In fp32, from what is stored."""
        aim = self.model.features(self.base.train.images_tensor(self.device, plan.index))
        away = (self.model.features(to_unit_range(stored)) - aim).norm(dim=1) / aim.norm(dim=1)
        return np.asarray(away.cpu().numpy(), dtype=np.float64)


def summary(distances: Distances) -> tuple[float, float]:
    return float(np.median(distances)), float(np.quantile(distances, 0.95))


def fewest_steps(job: Job, goal: tuple[float, float], recipe: Synthesis) -> Synthesis:
    """The shortest walk that is safely at the goal; bisected, since more steps end nearer."""

    def arrives(steps: int) -> bool:
        reached = summary(job.ours(0, replace(recipe, steps=steps))[1])
        log(f"{steps} steps reach {reached[0]:.4f} and {reached[1]:.4f}")
        return all(own <= MARGIN * wanted for own, wanted in zip(reached, goal, strict=True))

    low, high = 0, recipe.steps
    if not arrives(high):
        raise UserError(f"{high} steps do not reach what robustness does; lower --steps.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if arrives(middle) else (middle, high)
    return replace(recipe, steps=high)


def race(options: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device(options.device)
    base = load_images(Data(str(options.data)))
    model = load_model(options.source, device)
    if model.image_shape != base.image_shape:
        raise UserError(f"{options.source} takes images of shape {model.image_shape}, {options.data} has others.")
    if len(base.train) < options.images + options.batch:
        raise UserError(f"{options.data} has {len(base.train)} training images, too few for --images {options.images}.")
    tune_malloc()
    job = Job(model.eval(), base, device, options.batch)
    goal = summary(job.theirs(0, options.steps)[1])
    log(f"the goal: median {goal[0]:.4f}, 95th percentile {goal[1]:.4f}")
    values = {name.rpartition(".")[2]: value for name, value in recipe_values("fast", "robust").items()}
    recipe = fewest_steps(job, goal, from_dict(Synthesis, values | {"batch_size": options.batch}, "fast"))
    seconds: dict[str, list[float]] = {"featuregen": [], "robustness": []}
    distances: dict[str, list[Distances]] = {"featuregen": [], "robustness": []}
    for number, first in enumerate(range(options.batch, options.batch + options.images, options.batch)):
        turns = [
            ("featuregen", partial(job.ours, first, recipe)),
            ("robustness", partial(job.theirs, first, options.steps)),
        ]
        for name, work in turns if number % 2 else turns[::-1]:
            spent, found = work()
            seconds[name].append(spent)
            distances[name].append(found)
        log(f"{first} of {options.images} images: {', '.join(f'{key} {sum(s):.0f} s' for key, s in seconds.items())}")
    return _record(options, job.compute, recipe, seconds, distances)


def _record(
    options: argparse.Namespace,
    compute: ComputeSpec,
    recipe: Synthesis,
    seconds: dict[str, list[float]],
    distances: dict[str, list[Distances]],
) -> dict[str, Any]:
    ratios = [theirs / ours for ours, theirs in zip(seconds["featuregen"], seconds["robustness"], strict=True)]
    reached = {name: summary(np.concatenate(found)) for name, found in distances.items()}
    steps = {"featuregen": recipe.steps, "robustness": options.steps}
    return {
        "hardware": hardware(compute.device, ["robustness"]),
        "arithmetic": compute.name,
        "images": options.images,
        "batch": options.batch,
        "contenders": {
            name: {
                "steps": steps[name],
                "seconds": sum(seconds[name]),
                "median": reached[name][0],
                "p95": reached[name][1],
                "seconds_by_batch": seconds[name],
            }
            for name in seconds
        },
        "ratio": sum(seconds["robustness"]) / sum(seconds["featuregen"]),
        "ratio_by_batch": {"smallest": min(ratios), "median": statistics.median(ratios), "largest": max(ratios)},
        "as_near": all(own <= wanted for own, wanted in zip(reached["featuregen"], reached["robustness"], strict=True)),
    }


def show(record: dict[str, Any]) -> None:
    about = record["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"{about['processor']}, {about['cores']} cores, {about['gpu'] or 'no GPU used'}; {versions}")
    print(f"D_R of {record['images']} images, batch {record['batch']}; featuregen in {record['arithmetic']}")
    print(f"{'':12} {'steps':>5} {'seconds':>8} {'median':>8} {'95th':>8}")
    for name, one in record["contenders"].items():
        print(f"{name:12} {one['steps']:5} {one['seconds']:8.1f} {one['median']:8.4f} {one['p95']:8.4f}")
    spread = record["ratio_by_batch"]
    print(f"ratio {record['ratio']:.1f} (of a batch: {spread['smallest']:.1f}-{spread['largest']:.1f})")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=".npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--source", type=Path, required=True, help="a robust model, .safetensors")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200, help="of robustness, each 0.1 long")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    try:
        if options.batch < 1 or options.images < options.batch or options.images % options.batch or options.steps < 1:
            raise UserError("--images must be a multiple of --batch, and --steps positive.")
        record = race(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(record)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if record["as_near"] and record["ratio"] >= CLAIM else 1


if __name__ == "__main__":
    sys.exit(main())
