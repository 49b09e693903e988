"""What side_by_side.py reports: the machine and its own rate, what was reached, ratios, the table, its exit code."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import OURS, Row
from benchmarks.peers import PACKAGES
from benchmarks.racing import Outcome, Subject
from featuregen import __version__
from featuregen.compute.autotune import multiplies_bf16
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier

# Above what summing in another order changes, and far below what a forgotten step would.
_BEHIND = 0.01
_OUTSIDE = 1e-3


def exit_code(job: Callable[[], int]) -> int:
    """The job's own; 2 with one sentence for what a user can get wrong, 130 where it is interrupted."""
    try:
        return job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def hardware(device: torch.device, peers: Iterable[str]) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "featuregen": __version__, "torch": torch.__version__}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "versions": versions | {peer: metadata.version(PACKAGES[peer]) for peer in peers},
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def matmul_rates(device: torch.device, size: int) -> dict[str, float]:
    """GFLOP/s of square products, best of five: fp32, tf32 on CUDA, bf16 unless it is emulated."""
    wanted = {"fp32": torch.float32}
    if device.type == "cuda":
        wanted["tf32"] = torch.float32
    if multiplies_bf16(device):
        wanted["bf16"] = torch.bfloat16
    before, rates = torch.get_float32_matmul_precision(), {}
    for name, dtype in wanted.items():
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        matrix = torch.ones((size, size), device=device, dtype=dtype)
        rates[name] = 2 * size**3 / min(_product_seconds(matrix) for _ in range(6)) / 1e9
    torch.set_float32_matmul_precision(before)
    return rates


def _product_seconds(matrix: Tensor) -> float:
    started = time.perf_counter()
    product = matrix @ matrix
    # Reading a number waits for the device.
    float(product[0, 0])
    return time.perf_counter() - started


def flop_per_step(model: Classifier) -> int:
    """Of one image: forward, and the gradient of its pixels, by direct convolutions."""
    pixels = torch.rand(1, *model.image_shape, device=model.mean.device).requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        # A copy, since the counter refuses a gradient with respect to a module's own input.
        torch.autograd.grad(model(pixels.clone()).sum(), pixels)
    return int(counter.get_total_flops())


def ratios(seconds: Mapping[str, Sequence[float]], ours: Iterable[str]) -> dict[str, dict[str, float]]:
    """How many times as long each takes as each of ours: the median over rounds of the ratio within the round."""
    return {
        name: {
            own: statistics.median(theirs / mine for theirs, mine in zip(spent, seconds[own], strict=True))
            for own in ours
        }
        for name, spent in seconds.items()
    }


@torch.no_grad()
def reached(model: Classifier, row: Row, found: NDArray[np.float32], subject: Subject) -> float:
    """Mean cross-entropy, or mean relative feature distance, as the plain model itself sees the images found."""
    base, labels = torch.from_numpy(subject.images), torch.from_numpy(subject.labels)
    images, sums = torch.from_numpy(found), 0.0
    for first in range(0, len(images), 32):
        part = slice(first, min(first + 32, len(images)))
        if row.goal == "features":
            aim = model.features(base[part])
            each = (model.features(images[part]) - aim).norm(dim=1) / aim.norm(dim=1)
        else:
            each = F.cross_entropy(model(images[part]), row.classes(labels[part], model.classes), reduction="none")
        sums += float(each.double().sum())
    return sums / len(images)


def strays(row: Row, found: NDArray[np.float32], base: NDArray[np.float32]) -> bool:
    """Whether an image has left its ball or [0, 1]."""
    offset = (found - base).reshape(len(found), -1)
    reach = np.abs(offset).max() if row.norm == "linf" else np.linalg.norm(offset, axis=1).max()
    inside = row.eps == 0 or reach <= row.eps * (1 + _OUTSIDE)
    return not (inside and found.min() >= -1e-6 and found.max() <= 1 + 1e-6)


def row_record(
    model: Classifier, row: Row, subject: Subject, outcomes: Mapping[str, Outcome], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything about one row. `known`: FLOP of an image-step and, by contender, FLOP/s of products, bytes built."""
    learns = row.goal == "train"
    images = subject.epoch_images // subject.batch * subject.batch if learns else subject.batch
    done: dict[str, dict[str, Any]] = {}
    for name, outcome in outcomes.items():
        if outcome.failure:
            continue
        median, result = statistics.median(outcome.seconds), outcome.result
        per_second = images * (1 if learns else row.steps) / median
        done[name] = {
            "seconds": outcome.seconds,
            "median": median,
            "per_second": per_second,
            "share": None if learns else per_second * known["flop_per_step"] / known["matmul"][name],
            "built_mib": _mib(known["built"][name]),
            "level_mib": _mib(outcome.level),
            "peak_mib": _mib(outcome.peak),
            "loss": reached(model, row, result, subject) if isinstance(result, np.ndarray) else result,
            "outside": isinstance(result, np.ndarray) and strays(row, result, subject.images[: len(result)]),
        }
    _mark_behind(row, done)
    seconds = {name: entry["seconds"] for name, entry in done.items()}
    return {
        "settings": {**asdict(row), "images": images},
        "unit": "images/s" if learns else "image-steps/s",
        "contenders": done,
        "ratios": ratios(seconds, [name for name in OURS if name in done]),
        "failures": {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure},
    }


def _mib(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def _mark_behind(row: Row, done: dict[str, dict[str, Any]]) -> None:
    """Whose images are clearly worse than the best. A training loss has no better or worse here."""
    losses = [entry["loss"] for entry in done.values()]
    best = max(losses, default=0.0) if row.goal == "wrong" else min(losses, default=0.0)
    for entry in done.values():
        entry["behind"] = row.goal != "train" and not abs(entry["loss"] - best) <= _BEHIND * abs(best)


def table(title: str, record: Mapping[str, Any]) -> str:
    """The row, ready to print."""
    ours = [name for name in OURS if name in record["contenders"]]
    heads = ["contender", "seconds", "min–max", record["unit"], "of matmul"]
    heads += [f"/ {name.removeprefix('featuregen ')}" for name in ours] + ["built", "MiB", "loss"]
    lines = [heads]
    for name, entry in record["contenders"].items():
        flaws = "*" * entry["behind"] + "!" * entry["outside"]
        lines.append(
            [
                name,
                f"{entry['median']:.3f}",
                f"{min(entry['seconds']):.3f}–{max(entry['seconds']):.3f}",
                f"{entry['per_second']:.0f}",
                "-" if entry["share"] is None else f"{entry['share']:.0%}",
                *(f"{record['ratios'][name][own]:.2f}" for own in ours),
                "-" if entry["built_mib"] is None else f"{entry['built_mib']:.0f}",
                "-" if entry["peak_mib"] is None else f"{entry['peak_mib'] - entry['level_mib']:.0f}",
                f"{entry['loss']:.4f}{flaws}",
            ]
        )
    spans = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = [
        "  ".join(
            [line[0].ljust(spans[0]), *(cell.rjust(span) for cell, span in zip(line[1:], spans[1:], strict=True))]
        )
        for line in lines
    ]
    failed = [f"{name} failed: {reason}" for name, reason in record["failures"].items()]
    return "\n".join([title, *text, *failed])
