"""The jobs of `kills`, the files they need, and what equal runs of a job have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.processes import Command
from featuregen.errors import UserError
from featuregen.storage.reader import read_info

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
# Keys of records that differ between runs of the same settings.
_VARYING = {"seconds", "timings", "software", "created", "file", "config"}


@dataclass(frozen=True)
class Job:
    """The command, given the folder for its output and the one with the files it needs.

    `workers` are the words that make it work in several processes, where it can.
    """

    words: Callable[[Path, Path], list[str | Path]]
    workers: tuple[str, ...] = ()


JOBS: dict[str, Job] = {
    "train": Job(lambda out, inputs: ["train", "--robust", *_config(inputs), "--out", out / "robust.safetensors"]),
    "make": Job(lambda out, inputs: ["make-dataset", "det", *_config(inputs), "--out", out / "det.h5"]),
    "evaluate": Job(lambda out, inputs: ["evaluate", inputs / "det.h5", "--out", out]),
    "reproduce": Job(
        lambda out, inputs: ["reproduce", *_config(inputs), "--out", out], workers=("--set", "runtime.jobs=2")
    ),
    "attack": Job(
        lambda out, inputs: [
            "attack", inputs / "standard.safetensors", "--attack", "pgd", "--eps", "0.5", "--rows", "300",
            "--out", out / "pgd.h5",
        ]
    ),
    "flips": Job(
        lambda out, inputs: [
            "flips", inputs / "standard.safetensors", "--attacks", "fgsm,pgd", "--eps", "0.5", "--rows", "200",
            "--out", out / "flips",
        ]
    ),
    "transfer": Job(
        lambda out, inputs: [
            "transfer", *_config(inputs), "--models", "convnet:8,convnet:4", "--seeds", "1", "--out", out,
        ]
    ),
    "merge": Job(lambda out, inputs: ["merge", *sorted(inputs.glob("shard-*.h5")), "--out", out / "det.h5"]),
    "share": Job(lambda out, inputs: ["share", inputs / "det.h5", "--out", out / "folder"]),
    "remake": Job(lambda out, inputs: ["remake", inputs / "det.h5", "--out", out / "again.h5"]),
    "import": Job(
        lambda out, inputs: [
            "import", inputs / "released", "--kind", "det", *_config(inputs), "--data", "digits", "--within", "1.1",
            "--out", out / "det.h5",
        ]
    ),
    "export": Job(
        lambda out, inputs: ["export", inputs / "det.h5", "--format", "imagefolder", "--out", out / "pictures"]
    ),
}  # fmt: skip


def _config(inputs: Path) -> list[str | Path]:
    return ["--config", inputs / "tiny.yaml"]


def make_inputs(folder: Path) -> Path:
    """The config, a model and a dataset, which several jobs need."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    run_to_end(Command(folder, "train", *_config(folder), "--out", folder / "standard.safetensors"))
    det = ["make-dataset", "det", *_config(folder), "--source", folder / "standard.safetensors", "--out"]
    run_to_end(Command(folder, *det, folder / "det.h5"))
    for number in (1, 2):
        run_to_end(Command(folder, *det, folder / f"shard-{number}.h5", "--shard", f"{number}/2"))
    run_to_end(Command(folder, "export", folder / "det.h5", "--format", "madry", "--out", folder / "released"))
    return folder


def run_to_end(run: Command) -> Command:
    if run.wait() != 0:
        raise UserError(f"A run ended with an error of its own: {run.err.strip().splitlines()[-1]}")
    return run


def results_of(folder: Path) -> dict[str, str]:
    """The content of every file by its name, without what may differ between equal runs."""
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
        return {key: _without(value) for key, value in tree.items() if key not in _VARYING}
    return [_without(value) for value in tree] if isinstance(tree, list) else tree


def differences(expected: dict[str, str], actual: dict[str, str]) -> list[str]:
    odd = [f"{name} is missing" for name in sorted(expected.keys() - actual.keys())]
    odd += [f"{name} is left over" for name in sorted(actual.keys() - expected.keys())]
    return odd + [f"{name} differs" for name in sorted(expected) if name in actual and expected[name] != actual[name]]
