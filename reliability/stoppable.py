"""The jobs that are stopped, the files they need, and what any two of their runs have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.processes import Command
from featuregen.errors import UserError
from featuregen.storage import read_info

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
    finished(Command(folder, "train", *_config(folder), "--out", folder / "standard.safetensors"))
    det = ["make-dataset", "det", *_config(folder), "--source", folder / "standard.safetensors", "--out"]
    finished(Command(folder, *det, folder / "det.h5"))
    for number in (1, 2):
        finished(Command(folder, *det, folder / f"shard-{number}.h5", "--shard", f"{number}/2"))
    finished(Command(folder, "export", folder / "det.h5", "--format", "madry", "--out", folder / "released"))
    return folder


def finished(run: Command) -> Command:
    if run.wait() != 0:
        raise UserError(f"A run ended with an error of its own: {run.err.strip().splitlines()[-1]}")
    return run


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
